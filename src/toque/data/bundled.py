"""The data that ships with toque: a subset of Fashion-MNIST (MIT) and nuclei under a microscope
(CC0); see bundled/LICENSE.txt."""

from __future__ import annotations

import functools
import io
import lzma
from importlib import resources

import numpy as np

from toque.data.arrays import ArraySource

NAMES = ("fashion", "nuclei")


@functools.cache
def _arrays(file_name: str) -> dict[str, np.ndarray]:
    packed = resources.files("toque.data").joinpath("bundled", file_name).read_bytes()
    with np.load(io.BytesIO(lzma.decompress(packed)), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def fashion(channels: int = 1) -> tuple[ArraySource, ArraySource]:
    """10,000 training and 2,000 test images of clothing, 28 x 28 gray, ten classes.

    With three channels the gray one is given three times.
    """
    arrays = _arrays("fashion12k.npz.xz")
    classes = [str(name) for name in arrays["label_names"]]
    train, test = (
        ArraySource(
            _repeated(arrays[f"{part}_images"], channels),
            arrays[f"{part}_labels"],
            classes,
            [f"{part}/{number}" for number in arrays[f"{part}_index"]],
        )
        for part in ("train", "test")
    )
    return train, test


def nuclei(channels: int = 1) -> tuple[ArraySource, ArraySource]:
    """160 training and 40 validation images of cell nuclei, 128 x 128 gray, with masks of two
    classes. With three channels the gray one is given three times.
    """
    arrays = _arrays("nuclei128.npz.xz")
    train, val = (
        ArraySource(
            _repeated(arrays[f"{part}_images"], channels),
            arrays[f"{part}_masks"],
            ("background", "nucleus"),
            [f"{part}/{name}" for name in arrays[f"{part}_ids"]],
        )
        for part in ("train", "val")
    )
    return train, val


def named(name: str, channels: int = 1) -> tuple[ArraySource, ArraySource]:
    """The training and validation part of one of NAMES."""
    return {"fashion": fashion, "nuclei": nuclei}[name](channels)


def _repeated(gray: np.ndarray, channels: int) -> np.ndarray:
    return np.repeat(gray[:, None], channels, axis=1)
