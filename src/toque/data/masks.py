"""Mask files: the class number of each pixel, as the file holds it; and the colours of classes.

Shape letters: H height, W width, K classes.
"""

from __future__ import annotations

import colorsys

import numpy as np
import numpy.typing as npt
import torch

from toque.data.decoding import MAX_PIXELS, opened, unreadable


def decode_mask(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
    """The class of each pixel: the numbers of a gray or palette image, not its colours.

    Shape:  -> [H, W]
    Dtype:  -> uint8, or int64 for a file of 16 or 32 bits
    Raises: ValueError (UnreadableImage): no image, or one of colours
    """
    with opened(data, max_pixels, name) as image:
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            bands = [np.asarray(band) for band in image.convert("RGB").split()]
            if not (np.array_equal(bands[0], bands[1]) and np.array_equal(bands[0], bands[2])):
                raise unreadable(name, "a mask of colours; save class numbers as a gray PNG")
            return torch.from_numpy(bands[0].copy())
        pixels = np.asarray(image)
    if pixels.dtype in (np.bool_, np.uint8):
        return torch.from_numpy(pixels.astype(np.uint8))
    return torch.from_numpy(pixels.astype(np.int64))


def palette(num_classes: int) -> npt.NDArray[np.uint8]:
    """A colour for each class, the first one black, neighbours far apart: [K, 3]."""
    golden = 0.61803398875
    colours = [(0.0, 0.0, 0.0)] + [
        colorsys.hsv_to_rgb(number * golden % 1, 0.65, 0.95) for number in range(1, num_classes)
    ]
    return (np.array(colours[:num_classes]) * 255).round().astype(np.uint8)
