"""The images that an exported file is compared and calibrated on.

Shape letters: H W height and width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from toque import augment, data
from toque.deploy.predictor import Pixels
from toque.random import Key
from toque.train import prepare, restore

_MOST_IMAGES = 256
_CALIBRATION_IMAGES = 128

Size = tuple[int, int]
"""Height and width, in pixels."""


class Labelled(NamedTuple):
    """Images uint8 [H, W, C], and what is right of each: a class, [K] 0 or 1, numbers [D], or a
    mask [H, W]."""

    images: Sequence[Pixels]
    targets: Sequence[np.ndarray]


def labelled(source: data.Source, size: Size | None) -> Labelled:
    """Up to 256 images, spread evenly; of one size where a file takes only that."""
    numbers = _spread(len(source), _MOST_IMAGES)
    images = [_pixels(source, number, size) for number in numbers]
    if source.task == "segmentation":
        return Labelled(images, [_mask(source, number, size) for number in numbers])
    return Labelled(images, [source.labels[number] for number in numbers])


def calibration(trained: restore.Trained, data_path: str | None, size: Size | None) -> list[Pixels]:
    """Up to 128 training images, which the accuracy is not measured on.

    Of a run on data of the caller's own, which cannot be opened again, those at `data_path`.
    """
    if trained.run.data == prepare.OWN:
        source = restore.images_of(trained, data_path)
    else:
        source = restore.own_splits(trained.run).train
    return [_pixels(source, number, size) for number in _spread(len(source), _CALIBRATION_IMAGES)]


def _spread(length: int, most: int) -> list[int]:
    places = np.linspace(0, length - 1, min(length, most))
    return [round(place) for place in places.tolist()]


def _mask(source: data.Source, number: int, size: Size | None) -> np.ndarray:
    mask = source.mask(number)
    if size is not None and tuple(mask.shape) != size:
        large = F.interpolate(mask[None, None].double(), size=size, mode="nearest-exact")
        mask = large[0, 0].to(mask.dtype)
    return mask.numpy()


def _pixels(source: data.Source, number: int, size: Size | None) -> Pixels:
    image = source.read(number)
    if size is not None and tuple(image.shape[1:]) != size:
        resize = augment.Compose([augment.Resize(size)])
        resized = resize(image[None], key=Key(0, 0, np.arange(1)))[0]
        image = (resized * 255).round().clamp(0, 255).to(torch.uint8)
    pixels: Pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return pixels
