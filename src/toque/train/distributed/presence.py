"""Whether the process of another rank is still there.

Of a rank on this machine the kernel knows at once. Of one elsewhere only its signs of life tell,
after some seconds.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

_STATE, _STARTED = 0, 19  # fields of /proc/PID/stat after the name: man 5 proc
_DEAD = "ZX"  # a zombie until its parent looks, or on its way out


def leave(store: Store, rank: int) -> None:
    """Leave what identifies this process."""
    store.set(_key(rank), json.dumps([_machine(), os.getpid(), _started(os.getpid())]))


def is_gone(store: Store, rank: int) -> bool:
    """Whether that rank ran on this machine and its process has ended; False if not known."""
    if not store.check([_key(rank)]):
        return False
    machine, process, started = json.loads(store.get(_key(rank)))
    return bool(machine) and machine == _machine() and _started(process) != started


def _key(rank: int) -> str:
    return f"process/{rank}"


@functools.cache
def _machine() -> str:
    """What processes that see each other's numbers have in common; empty where none is known."""
    if sys.platform != "linux":
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(process: int) -> str:
    """When a process started, in the kernel's ticks; empty if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[_STATE] in _DEAD else fields[_STARTED]
