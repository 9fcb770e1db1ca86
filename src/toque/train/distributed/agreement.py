"""What all ranks must decide alike: that they train the same run, and when to save and to stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from toque import checks
from toque.train.distributed.world import World

_DATA = (
    "data_fingerprint", "train_images", "val_images", "left_out_images", "channels", "classes"
)  # fmt: skip
_ENGINE = ("torch", "toque", "device", "precision")
_FIX = {
    "settings": "Give every rank the same command.",
    "data": "Give every rank the same images.",
    "engine": "Install the same versions, on hosts of one kind.",
}


def check_same(
    world: World, settings: Mapping[str, Any], recorded: Mapping[str, Any]
) -> tuple[str, ...]:
    """Raise ValueError on every rank if one has other settings, data or versions; both are named.

    Args:    settings: flat and resolved
             recorded: what the record of the run says of data and environment
    Returns: what a person should know of hosts that differ otherwise, which is allowed
    """
    if world.alone:
        return ()
    mine = {
        "settings": dict(settings),
        "data": {name: recorded.get(name) for name in _DATA},
        "engine": {name: recorded.get(name) for name in _ENGINE},
        "host": {n: value for n, value in recorded.items() if n not in (*_DATA, *_ENGINE)},
    }
    every = world.objects(mine, "the comparison of settings and data")
    for kind in mine:
        first = every[0][kind]
        rank = next((rank for rank, one in enumerate(every) if one[kind] != first), None)
        if rank is None:
            continue
        other = every[rank][kind]
        told = "; ".join(
            f"{name}: {_short(first.get(name))} on rank 0, {_short(other.get(name))} on rank {rank}"
            for name in sorted(first.keys() | other.keys())
            if first.get(name) != other.get(name)
        )
        if kind == "host":
            return (
                f"the ranks' hosts differ ({told}): bits repeat only with every rank on a host "
                "like now",
            )
        raise checks.InvalidValue(
            f"distributed: all ranks must train the same run; got other {kind} on rank {rank} "
            f"(sha256 {_digest(first)} and {_digest(other)}: {told}). {_FIX[kind]}"
        )
    return ()


def _digest(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _short(value: Any) -> str:
    """A value as a sentence can hold it: a hash by its beginning, a long list by its length."""
    if isinstance(value, list) and len(value) > 8:
        return f"{len(value)} of them"
    text = str(value)
    return text[:12] if len(text) == 64 else text


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
