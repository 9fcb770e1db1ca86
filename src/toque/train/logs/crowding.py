"""Other work on the machine, which slows torch's own threads by more than its share."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import torch

_BUSY_SHARE = 0.5


def crowded(
    device: torch.device, cores: int, environ: Mapping[str, str] = os.environ
) -> str | None:
    """A sentence if a run on the CPU is about to share its cores; None if it has them.

    torch's threads (OpenMP) wait for each other by spinning: when the system takes a core from one
    of them, the others burn theirs until it comes back. On two cores with two other processes a
    step was 7 times slower; waiting asleep mends it and costs 10 % on a quiet machine, so that the
    choice is left to whoever knows the machine. OpenMP reads it when torch is loaded.
    """
    chosen = environ.get("OMP_WAIT_POLICY") or environ.get("GOMP_SPINCOUNT")
    # Only libgomp, which torch brings along on Linux, is known to behave so.
    if device.type != "cpu" or torch.get_num_threads() == 1 or chosen or sys.platform != "linux":
        return None
    load = os.getloadavg()[0]
    if load < _BUSY_SHARE * cores:
        return None
    return (
        f"other programs keep {load:.1f} of {cores} cores busy, which can slow torch's threads "
        "several times over; OMP_WAIT_POLICY=passive before the command mends most of it"
    )
