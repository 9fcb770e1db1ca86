"""Pictures of single images for the report: as they are, or with an answer laid over.

Shape letters: C channels, H W height and width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from toque import augment
from toque.data import Source
from toque.data.targets import IGNORE_INDEX
from toque.random import Key

_RIGHT, _WRONG = (64, 200, 96), (230, 60, 50)
_STRENGTH = 0.45


def displayed(image: torch.Tensor) -> npt.NDArray[np.uint8]:
    """An image of a source as the report takes it: uint8 [H, W] or [H, W, 3]."""
    if image.is_floating_point():
        image = (image * 255).round().clamp(0, 255).to(torch.uint8)
    if image.shape[0] == 2 or image.shape[0] > 3:
        image = image[:1]
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def overlay(
    source: Source, index: int, answer: npt.NDArray[np.uint8], pipeline: augment.Compose | None
) -> npt.NDArray[np.uint8]:
    """A validation image with what was answered for its pixels: green where it is right (but for
    the first class, which stays as it is), red where it is wrong, untouched where 255 says ignore.

    Shape: answer [H, W], at the size the model sees -> uint8 [H, W, 3]
    """
    image, mask = source.read(index), source.mask(index)
    if pipeline is not None:
        key = Key(0, 0, [0])  # the validation pipeline draws nothing from it
        steps = [one for one in pipeline.transforms if not isinstance(one, augment.Normalize)]
        plain = augment.Compose(steps, dtype=torch.uint8)
        image = plain([image], key=key)[0]
        mask = plain.apply_to_masks([mask], plain.draw(key))[0]
    pixels = displayed(image)
    canvas = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels.copy()
    true = mask.numpy()
    counts = true != IGNORE_INDEX
    for chosen, colour in (
        (counts & (answer == true) & (true != 0), _RIGHT), (counts & (answer != true), _WRONG),
    ):  # fmt: skip
        mixed = canvas[chosen] * (1 - _STRENGTH) + np.array(colour) * _STRENGTH
        canvas[chosen] = mixed.round().astype(np.uint8)
    return canvas
