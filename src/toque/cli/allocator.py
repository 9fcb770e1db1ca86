"""What the allocator of a command that trains does with memory that was freed."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h: what mallopt calls them
_MOST = 2**31 - 1
_MOST_OF_OLDER = 32 * 2**20  # glibc before 2.35 takes no more as a threshold of mmap


def keep_freed_memory() -> bool:
    """Let the process keep memory that is freed, for the next step to use: whether it will.

    Activations on a CPU come from malloc. glibc gives large pieces back to the system when they are
    freed, and every step then has them cleared and mapped again, page by page. Only glibc is told;
    what was chosen in the environment stands.
    """
    environ = os.environ
    chosen = [key for key in environ if key.startswith("MALLOC_")]
    if sys.platform != "linux" or chosen or "malloc" in environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mapped = mallopt(_MMAP_THRESHOLD, _MOST) or mallopt(_MMAP_THRESHOLD, _MOST_OF_OLDER)
    return bool(mapped and mallopt(_TRIM_THRESHOLD, _MOST))
