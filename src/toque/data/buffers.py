"""Output memory that is used again.

A fresh 38 MB batch costs some 35 ms of page faults, a reused one 5 ms, which is more than all the
augmentation it holds. A buffer is used again only when no tensor made from it is alive, so nobody
who keeps a batch sees it change.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass

import numpy as np
import torch

_ALIGN_BYTES = 64  # a cache line, and what non-temporal stores need


@dataclass(frozen=True)
class Form:
    """What one image of a batch looks like: [C, H, W], dtype and memory format."""

    shape: tuple[int, int, int]
    dtype: torch.dtype
    channels_last: bool

    @staticmethod
    def of(images: torch.Tensor) -> Form:
        """The form of a batch of two or more images [B, C, H, W]."""
        channels_last = not images.is_contiguous() and images.is_contiguous(
            memory_format=torch.channels_last
        )
        channels, height, width = images.shape[1:]
        return Form((channels, height, width), images.dtype, channels_last)

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape) * self.dtype.itemsize


class Buffers:
    """Hands out tensors of `num_images` images and takes their memory back when they are gone.

    Args: form: of each image
          num_images: the most that one tensor holds
          kept: how many unused buffers to keep
    """

    def __init__(self, form: Form, num_images: int, kept: int) -> None:
        self.form = form
        self._num_bytes = num_images * form.image_bytes
        self._kept = kept
        self._free: list[np.ndarray] = []

    def take(self, num_images: int) -> torch.Tensor:
        """A tensor [num_images, C, H, W] with any content."""
        buffer = self._free.pop() if self._free else self._new()
        lent = buffer[: num_images * self.form.image_bytes]
        # torch holds `lent` for as long as any tensor shares its memory, and nobody else does: when
        # it dies, the memory is free.
        weakref.finalize(lent, self._take_back, buffer).atexit = False
        tensor = torch.from_numpy(lent).view(self.form.dtype)
        channels, height, width = self.form.shape
        if self.form.channels_last:
            return tensor.view(num_images, height, width, channels).permute(0, 3, 1, 2)
        return tensor.view(num_images, channels, height, width)

    def _new(self) -> np.ndarray:
        memory = np.empty(self._num_bytes + _ALIGN_BYTES, dtype=np.uint8)
        start = -memory.ctypes.data % _ALIGN_BYTES
        return memory[start : start + self._num_bytes]

    def _take_back(self, buffer: np.ndarray) -> None:
        if len(self._free) < self._kept:
            self._free.append(buffer)
