"""An image file in memory, not decoded yet: its size is known, so the crop can be drawn first.

libjpeg decodes at 1/2, 1/4 or 1/8 of the size for a fraction of the work, and may leave out what
lies beside a crop. Which of these a drawn crop allows, and what of the image it shows, the pipeline
says (`decoding_scale`, `decoding_box`); here the file follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from toque.data import decoding, jpeg, region

_FACTORS = (8, 4, 2)
_SMALLEST = 16  # below, different factors give one size, and simplejpeg picks by size
_TAIL_BYTES = 4096
_MOST_SHOWN = 0.9  # of a larger part the whole is decoded: there is little to leave out


class Memory(Protocol):
    """Where decoded pixels may be put for a while."""

    def take(self, num_bytes: int) -> np.ndarray | None:
        """uint8 of that length, or None where there is no room."""


class Encoded:
    """One image file, read and not decoded.

    What is not a JPEG is decoded at once: its size is known only then, EXIF orientation considered.

    Args:    file: the bytes of a file, or its path
             channels, max_pixels, name: see decode
    Raises:  what decode raises
    Example: >>> encoded = Encoded("photos/cat.jpg", channels=3)
             >>> encoded.size, encoded.decode(scale=2.7).shape
             ((375, 500), torch.Size([3, 188, 250]))
    """

    __slots__ = ("_channels", "_data", "_header", "_max_pixels", "_name", "_pixels", "size")

    def __init__(
        self,
        file: bytes | Path | str,
        *,
        channels: int | None = None,
        max_pixels: int = decoding.MAX_PIXELS,
        name: str | None = None,
    ) -> None:
        self._data, self._name = decoding.contents(file, name)
        self._channels = channels
        self._max_pixels = max_pixels
        self._header = decoding.jpeg_header(self._data, max_pixels, self._name)
        self._pixels: np.ndarray | None = None
        self.size: tuple[int, int]  # height and width, the way a person sees it
        if self._header is None:
            self._pixels = self._by_pillow()
            self.size = self._pixels.shape[0], self._pixels.shape[1]
        elif self._header.orientation >= 5:
            self.size = self._header.width, self._header.height
        else:
            self.size = self._header.height, self._header.width

    @property
    def num_bytes(self) -> int:
        """Bytes that this holds in memory."""
        return len(self._data) if self._pixels is None else self._pixels.nbytes

    def _by_pillow(self) -> np.ndarray:
        return decoding.decode_by_pillow(self._data, self._channels, self._max_pixels, self._name)

    def decode(
        self,
        scale: float = 1.0,
        memory: Memory | None = None,
        shown: Sequence[float] | None = None,
    ) -> torch.Tensor:
        """The pixels, so much smaller as the file allows and `scale` permits.

        Shape: -> [C, ceil(H / f), ceil(W / f)] where f is 1, 2, 4 or 8, at most scale; a view of
               [H, W, C] memory
        Dtype: -> uint8
        Args:  memory: where the pixels may be put; they are good until it is used again
               shown: top, left, bottom, right in pixels of the full size: what the caller will look
               at; pixels outside may hold anything, and damage there may stay unseen, but
               for a file that is cut off
        """
        if self._pixels is not None or self._header is None:
            return decoding.as_tensor(self._by_pillow() if self._pixels is None else self._pixels)
        factor = reduction(self._header, scale)
        num_pixels = -(-self._header.height // factor) * -(-self._header.width // factor)
        place = None if memory is None else memory.take(num_pixels * (self._channels or 3))
        if shown is not None:
            part = self._part(factor, shown, place)
            if part is not None:
                return decoding.as_tensor(part)
        pixels = decoding.decode_jpeg(
            self._data, self._header, self._channels, self._name, factor=factor, memory=place
        )
        return decoding.as_tensor(self._by_pillow() if pixels is None else pixels)

    def _part(
        self, factor: int, shown: Sequence[float], place: np.ndarray | None
    ) -> np.ndarray | None:
        """The image with the pixels of a part of it, or None where all of it is to be decoded."""
        header = self._header
        assert header is not None
        if self._channels is None or not region.available():
            return None
        if not jpeg.ends_well(self._data[-_TAIL_BYTES:]):
            return None  # cut off, perhaps: it is named whatever the crop shows
        size = tuple(-(-side // factor) for side in self.size)
        box = (
            max(0, math.floor(shown[0] / factor)), max(0, math.floor(shown[1] / factor)),
            min(size[0], math.ceil(shown[2] / factor)), min(size[1], math.ceil(shown[3] / factor)),
        )  # fmt: skip
        area = (box[2] - box[0]) * (box[3] - box[1])
        if box[2] <= box[0] or box[3] <= box[1] or area > _MOST_SHOWN * size[0] * size[1]:
            return None
        height, width = -(-header.height // factor), -(-header.width // factor)
        shape = height, width, self._channels
        if place is None:
            pixels = np.empty(shape, np.uint8)
        else:
            pixels = place[: math.prod(shape)].reshape(shape)
        lying = decoding.as_stored(box, size[0], size[1], header.orientation)
        if not region.decode_region(self._data, factor, lying, pixels):
            return None
        return decoding.upright(pixels, header.orientation)


def reduction(header: jpeg.JpegHeader, scale: float) -> int:
    """The power of two to divide the size by: 1, 2, 4 or 8, at most `scale`.

    Reduced pixels are counted from the upper left of the file. Where orientation mirrors an axis,
    they are counted from the far end, and only a factor that divides the size keeps them in place.
    """
    height, width = header.height, header.width
    for factor in _FACTORS:
        exact = height % factor == 0 and width % factor == 0
        fits = factor <= scale and max(height, width) >= _SMALLEST
        if fits and (exact or header.orientation in (1, 5)):
            return factor
    return 1
