"""What the ranks tell each other beside the training: short texts in the store that they share.

No collective: those need every rank at the same place at the same time, and a thread that writes a
checkpoint would mix its own into the training's.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from toque.train.distributed import failing, joining, presence
from toque.train.distributed.world import World

_FIRST_LOOK_S, _LOOK_S = 0.005, 0.5  # between two looks, which become rarer: a save takes seconds
_LAST_LOOK_S = 0.02  # when the run ends
_SILENT_S = 15.0  # without a new sign of life for so long, nothing more will come
_GRACE_S = 2.0  # in which what is nearly done may still come when the run ends


class Messages:
    """One thread's connection to the store of this start of the ranks.

    Args: timeout_s: how long an answer may take
    """

    def __init__(self, world: World, timeout_s: float) -> None:
        import torch.distributed as dist

        self._store = dist.PrefixStore(world.name, joining.connect(timedelta(seconds=timeout_s)))
        self._timeout_s = timeout_s
        self._end_s: float | None = None
        self._ends = threading.Event()

    def tell(self, key: str, value: Any) -> None:
        """Leave a value of JSON under a key that was never used."""
        self._store.set(key, json.dumps(value))

    def forget(self, key: str) -> None:
        """Remove what was told; nothing happens if it is not there."""
        self._store.delete_key(key)

    def give_up(self) -> None:
        """Let a thread that waits here come to its end: the run ends."""
        self._end_s = time.monotonic() + _GRACE_S
        self._ends.set()

    def heard(self, keys: Mapping[int, str]) -> list[Any]:
        """Wait for what ranks tell, each under its key; the values in the order of the keys.

        Raises: DistError: one of them has failed, shows no sign of life or does not answer in time
        """
        deadline = time.monotonic() + self._timeout_s
        signs: dict[int, tuple[bytes, float]] = {}
        pause_s, looked_s = _FIRST_LOOK_S, time.monotonic()
        # Not the store's own wait: torch prints a warning for every one that ends without a value.
        while not self._store.check(list(keys.values())):
            ends = self._ends.wait(pause_s)
            if ends:  # whoever ends the run waits for this thread
                time.sleep(_LAST_LOOK_S)
            pause_s = min(1.5 * pause_s, _LOOK_S)
            if ends or time.monotonic() - looked_s >= _LOOK_S:
                looked_s = time.monotonic()
                missing = [rank for rank, key in keys.items() if not self._is_told(key)]
                self._look_after(missing, signs, deadline)
        return [json.loads(self._store.get(key)) for key in keys.values()]

    def _is_told(self, key: str) -> bool:
        told: bool = self._store.check([key])
        return told

    def _look_after(
        self, missing: Sequence[int], signs: dict[int, tuple[bytes, float]], deadline: float
    ) -> None:
        """Raise if those who are waited for will not answer."""
        now = time.monotonic()
        if self._end_s is not None and now > self._end_s:
            raise _vain("the run ends")
        if self._is_told(failing.FAILURE):
            raise _vain("another rank has failed")
        for rank in missing:
            if presence.is_gone(self._store, rank):
                raise _vain(f"the process of rank {rank} has ended")
            key = failing.beat(rank)
            if not self._is_told(key):
                continue
            sign = self._store.get(key)
            if signs.get(rank, (b"", 0.0))[0] != sign:
                signs[rank] = sign, now
            elif now - signs[rank][1] > _SILENT_S:
                raise _vain(f"rank {rank} shows no sign of life")
        if missing and now > deadline:
            raise _vain(f"ranks {list(missing)} did not answer within {self._timeout_s:g} s")


def _vain(why: str) -> Exception:
    import torch.distributed as dist

    return dist.DistError(f"the checkpoint was not completed: {why}")
