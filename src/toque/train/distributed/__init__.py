"""Many processes, one run: on torchrun, gloo and NCCL.

World, ALONE   the ranks of a run, and what they tell each other
joined         the world that the environment describes
together       all ranks end when one fails, and rank 0 says why
check_same     the same settings and data on every rank
Decisions      when to save and to stop, alike on every rank
"""

from __future__ import annotations

from toque.train.distributed.agreement import Decisions, check_same
from toque.train.distributed.failing import Elsewhere, LostRank, together
from toque.train.distributed.joining import joined
from toque.train.distributed.world import ALONE, World

__all__ = [
    "ALONE",
    "Decisions",
    "Elsewhere",
    "LostRank",
    "World",
    "check_same",
    "joined",
    "together",
]
