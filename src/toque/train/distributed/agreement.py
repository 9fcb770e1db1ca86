"""What all ranks must decide alike: that they train the same run, and when to save and to stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from toque import checks
from toque.train.distributed.world import World


def check_same(world: World, settings: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise ValueError on every rank if one has other settings or other data; both are named.

    Args: settings: flat and resolved; data: what the record of the run says of the data
    """
    if world.alone:
        return
    mine = {"settings": dict(settings), "data": dict(data)}
    digest = hashlib.sha256(json.dumps(mine, sort_keys=True, default=str).encode()).hexdigest()
    digests = world.objects(digest, "the comparison of settings and data")
    other = next((rank for rank, one in enumerate(digests) if one != digests[0]), None)
    if other is None:
        return
    every = world.objects(mine, "the comparison of settings and data")
    told = [
        f"{name}: {every[0][kind].get(name)} on rank 0, {every[other][kind].get(name)} on rank "
        f"{other}"
        for kind in ("settings", "data")
        for name in sorted(every[0][kind].keys() | every[other][kind].keys())
        if every[0][kind].get(name) != every[other][kind].get(name)
    ]
    raise checks.InvalidValue(
        f"distributed: all ranks must train the same run; got other settings or data on rank "
        f"{other} (sha256 {digests[0][:12]} and {digests[other][:12]}: {'; '.join(told)}). "
        "Give every rank the same command and the same images."
    )


class Decisions:
    """Whether to save and whether to stop: one answer for all ranks, one step late.

    A rank learns of a signal or of the clock by itself. What each knows is reduced in the
    background while the next step computes, so that agreeing costs no waiting; the answer is that
    of the step before, which is why every rank acts at the same step.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._pending: tuple[torch.Tensor, Any] | None = None

    def agree(self, save: bool, signal_number: int | None) -> tuple[bool, int | None]:
        """(save, signal number) that some rank had at the step before; alone: those given."""
        if self._world.alone:
            return save, signal_number
        import torch.distributed as dist

        answer = self.settle()
        known = torch.tensor([int(save), signal_number or 0], dtype=torch.int32)
        work = dist.all_reduce(known, dist.ReduceOp.MAX, group=self._world.group, async_op=True)
        self._pending = known, work
        return answer

    def settle(self) -> tuple[bool, int | None]:
        """Wait for what is under way, and take it."""
        if self._pending is None:
            return False, None
        (known, work), self._pending = self._pending, None
        with self._world.waiting("the decision to save or to stop"):
            work.wait()
        save, number = known.tolist()
        return bool(save), number or None
