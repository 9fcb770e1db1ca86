"""Pictures of single images for the report: as they are, or with an answer laid over.

Shape letters: C channels, H W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from toque import augment
from toque.data import Source
from toque.data.masks import palette
from toque.data.targets import IGNORE_INDEX
from toque.random import Key

_RIGHT, _MISSED, _MADE_UP, _MIXED_UP = (64, 200, 96), (255, 150, 0), (230, 40, 50), (170, 70, 255)
_STRENGTH, _COLOURED = 0.5, 0.6


def displayed(image: torch.Tensor) -> npt.NDArray[np.uint8]:
    """An image of a source as the report takes it: uint8 [H, W] or [H, W, 3]."""
    if image.is_floating_point():
        image = (image * 255).round().clamp(0, 255).to(torch.uint8)
    if image.shape[0] == 2 or image.shape[0] > 3:
        image = image[:1]
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


@dataclass(frozen=True, eq=False)
class Seen:
    """A validation image and its mask at the size the model sees.

    Shape: image uint8 [H, W, 3], mask [H, W], 255 where it says ignore
    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[Any]


def seen(source: Source, index: int, pipeline: augment.Compose | None) -> Seen:
    """An image of a source and its mask as the model saw them, before normalising."""
    image, mask = source.read(index), source.mask(index)
    if pipeline is not None:
        key = Key(0, 0, [0])  # the validation pipeline draws nothing from it
        steps = [one for one in pipeline.transforms if not isinstance(one, augment.Normalize)]
        plain = augment.Compose(steps, dtype=torch.uint8)
        image = plain([image], key=key)[0]
        mask = plain.apply_to_masks([mask], plain.draw(key))[0]
    pixels = displayed(image)
    return Seen(np.repeat(pixels[:, :, None], 3, 2) if pixels.ndim == 2 else pixels, mask.numpy())


def errors(one: Seen, answer: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What was answered for the pixels, laid over the image: green where it is right (but for the
    first class, which stays as it is); where it is wrong orange if the answer is the first class
    (missed), red if the mask is (made up), violet if neither is (mixed up).

    Shape: answer [H, W] -> uint8 [H, W, 3]
    """
    true, counts = one.mask, one.mask != IGNORE_INDEX
    wrong = counts & (answer != true)
    canvas = one.image.copy()
    for chosen, colour in (
        (counts & (answer == true) & (true != 0), _RIGHT), (wrong & (answer == 0), _MISSED),
        (wrong & (true == 0), _MADE_UP), (wrong & (true != 0) & (answer != 0), _MIXED_UP),
    ):  # fmt: skip
        canvas[chosen] = _mixed(canvas[chosen], np.array(colour), _STRENGTH)
    return canvas


def coloured(one: Seen, classes: npt.NDArray[Any], num_classes: int) -> npt.NDArray[np.uint8]:
    """The image with a colour for each class, those that toque predict gives them; the first class,
    and pixels to be ignored, stay as they are.

    Shape: classes [H, W] -> uint8 [H, W, 3]
    """
    chosen = (classes != IGNORE_INDEX) & (classes > 0)
    canvas = one.image.copy()
    colours = palette(num_classes)[classes[chosen]]
    canvas[chosen] = _mixed(canvas[chosen], colours, _COLOURED)
    return canvas


def _mixed(
    pixels: npt.NDArray[np.uint8], colour: npt.NDArray[Any], strength: float
) -> npt.NDArray[np.uint8]:
    return np.asarray((pixels * (1 - strength) + colour * strength).round().astype(np.uint8))
