"""Memory of one thread for the pixels that live from decoding to augmentation.

A fresh piece of memory for every decoded photo costs a quarter of the decoding in page faults.
"""

from __future__ import annotations

import threading

import numpy as np

_BYTES = 32 * 2**20


class Scratch(threading.local):
    """Pieces of one block of memory, a block for each thread, all of them free again at `reset`."""

    def __init__(self) -> None:
        self._block: np.ndarray | None = None
        self._taken = 0

    def take(self, num_bytes: int) -> np.ndarray | None:
        """uint8 [num_bytes] with any content, or None where the block is full."""
        if self._block is None:
            self._block = np.empty(_BYTES, dtype=np.uint8)
        if self._taken + num_bytes > _BYTES:
            return None
        piece = self._block[self._taken : self._taken + num_bytes]
        self._taken += -(-num_bytes // 64) * 64
        return piece

    def reset(self) -> None:
        """Everything taken by this thread may be written over."""
        self._taken = 0
