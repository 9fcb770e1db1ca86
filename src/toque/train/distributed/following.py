"""FSDP2, of which a rank that cannot do a step follows the others through it to its end.

The others wait in the middle of forward or backward: for this rank's pieces of the weights, and for
its gradients. Which of them comes next it cannot know; they can say. Each rank notes what it
begins, in the order in which all begin it. One that runs out of memory asks, and from then on the
others write each note into the store that they share: it gives its pieces as they are and zeros for
gradients, until all are through. Nothing is sent while memory suffices.

Public parts of FSDP2 only: its replaceable communication, `unshard` and `reset_iter_state`.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toque.train.distributed import failing, joining, presence, sharding
from toque.train.distributed.world import World

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Work
    from torch.distributed.fsdp import FSDPModule

_FIRST_LOOK_S, _LOOK_S, _CHECK_S = 0.002, 0.05, 0.5


def can_follow(network: nn.Module) -> bool:
    """Whether FSDP2 shards a network, and can begin anew after a pass that broke off."""
    # torch 2.11 has no way to do that; the exchanges have their names since 2.14.
    return hasattr(network, "reset_iter_state") and hasattr(
        torch.distributed, "reduce_scatter_single"
    )


class Followable:
    """A network that FSDP2 shards, whose ranks come to the end of a step that one cannot do.

    Args: network: sharded by `sharding.shard`; its communication is replaced in place
          timeout_s: how long a rank that follows waits for the next note
    """

    def __init__(self, network: nn.Module, world: World, timeout_s: float) -> None:
        from torch.distributed.fsdp import FSDPModule

        self._network: Any = network
        self._world, self._timeout_s = world, timeout_s
        self._units: list[FSDPModule] = [m for m in network.modules() if isinstance(m, FSDPModule)]
        self._device = sharding.piece(next(network.parameters())).device
        mesh = world.mesh  # not that of a parameter, which torch may take from an older network
        assert mesh is not None
        self._sharing: ProcessGroup = mesh.get_group(mesh.ndim - 1)
        self._copies: ProcessGroup | None = mesh.get_group(0) if mesh.ndim > 1 else None
        self._notes = _Notes(world)
        for number, unit in enumerate(self._units):
            unit.set_custom_all_gather(_Gather(self._notes, number))  # type: ignore[arg-type]
            unit.set_custom_reduce_scatter(_Scatter(self._notes, number))  # type: ignore[arg-type]

    def begin(self) -> None:
        """A step begins, on all ranks."""
        self._notes.begin()

    def end(self) -> None:
        """This rank has done the step, and will wait for the others."""
        self._notes.end()

    @property
    def can_complete(self) -> bool:
        """Whether what stopped this rank left the exchanges with the others whole."""
        return not self._notes.broken

    def complete(self) -> None:
        """Take part in what the others still exchange in a step that this rank could not do.

        Raises: DistError: another rank has ended, or says nothing for too long
        """
        self._network.reset_iter_state()
        num_done = self._notes.ask()
        while (note := self._next(num_done)) is not None:
            self._take_part(note)
            num_done += 1

    def forget(self) -> None:
        """Let nothing of a broken step be left on any rank; all must call it."""
        self._network.reset_iter_state()
        # The gradients of parts that were not to travel yet lie with the gathered weights.
        for unit in self._units:
            unit.unshard()
            for parameter in unit.parameters():  # type: ignore[attr-defined]
                parameter.grad = None
            unit.reshard()

    def _next(self, number: int) -> Sequence[Any] | None:
        """What the others begin next; None when all are through."""
        pause_s, began = _FIRST_LOOK_S, time.monotonic()
        checked = began
        while True:
            note = self._notes.told(number)
            if note is not None:
                return note
            if self._notes.are_through(number):
                return None
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _LOOK_S)
            if time.monotonic() - checked > _CHECK_S:
                checked = time.monotonic()
                self._notes.check_presence()
                if checked - began > self._timeout_s:
                    raise _vain(f"no rank went on within {self._timeout_s:g} s")

    def _take_part(self, note: Sequence[Any]) -> None:
        if note[0] == "gather":
            unit = self._units[note[1]]
            unit.unshard()
            unit.reshard()
            return
        import torch.distributed as dist

        _, numel, dtype, op_name = note
        op = getattr(dist.ReduceOp, op_name)
        nothing = torch.zeros(numel, dtype=getattr(torch, dtype), device=self._device)
        result = nothing.new_empty(numel // self._sharing.size())
        dist.reduce_scatter_single(result, nothing, op=op, group=self._sharing)
        if self._copies is not None:  # FSDP2 reduces both ways by the same operation
            dist.all_reduce(result, op=op, group=self._copies)


class _Notes:
    """The exchanges that this rank has begun in a step; in the store once a rank asks for them."""

    def __init__(self, world: World) -> None:
        import torch.distributed as dist

        self._world = world
        # A connection of its own, on which nothing ever waits.
        self._shared = dist.PrefixStore(world.name, joining.connect(timedelta(seconds=10)))
        self._store = dist.PrefixStore(f"followed/{len(world.looks)}", self._shared)
        self._lock = threading.Lock()
        self._step, self._active, self._asked, self._ended = 0, False, False, False
        self._notes: list[Sequence[Any]] = []
        self._num_told = 0
        self.broken = False
        world.looks.append(self._look)

    def begin(self) -> None:
        with self._lock:
            self._step += 1
            self._notes, self._num_told = [], 0
            self._active, self._asked, self._ended, self.broken = True, False, False, False

    @contextlib.contextmanager
    def begun(self, *note: Any) -> Iterator[None]:
        """Note what begins now, and in this block."""
        if not self._active:
            yield
            return
        self._notes.append(note)
        # In this order: whoever sets the flag tells what was there before.
        if self._asked:
            self._tell()
        try:
            yield
        except Exception:
            self.broken = True
            raise

    def end(self) -> None:
        self._active = False
        self._ended = True
        if self._asked:
            self._tell()

    def ask(self) -> int:
        """Let the others tell their notes from now on; how many this rank has of its own."""
        self._active, self._ended, self._asked = False, True, True
        self._store.set(self._key("asked"), "1")
        self._tell()
        return len(self._notes)

    def told(self, number: int) -> Sequence[Any] | None:
        """The note of that number, where any rank has told it."""
        key = self._key(str(number))
        return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def are_through(self, number: int) -> bool:
        """Whether every rank has come to the end of its notes, and none has more than so many."""
        keys = [self._key(f"end/{rank}") for rank in range(self._world.size)]
        if not self._store.check(keys):
            return False
        return max(int(self._store.get(key)) for key in keys) <= number

    def check_presence(self) -> None:
        """Raise DistError where a rank that is waited for has ended or failed."""
        if self._shared.check([failing.FAILURE]):
            raise _vain("another rank has failed")
        for rank in range(self._world.size):
            if rank != self._world.rank and presence.is_gone(self._shared, rank):
                raise _vain(f"the process of rank {rank} has ended")

    def _key(self, name: str) -> str:
        return f"{self._step}/{name}"

    def _look(self) -> None:
        """Tell what there is if another rank asks; the thread beside this rank calls it."""
        with self._lock:
            if self._asked or not self._step or not self._store.check([self._key("asked")]):
                return
            self._asked = True
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            ended = self._ended  # before the notes, of which there are no more then
            while self._num_told < len(self._notes):
                self._store.set(
                    self._key(str(self._num_told)), json.dumps(self._notes[self._num_told])
                )
                self._num_told += 1
            if ended:
                self._store.set(self._key(f"end/{self._world.rank}"), str(len(self._notes)))


class _Noted:
    """One of FSDP2's two exchanges, noted when it begins."""

    def __init__(self, notes: _Notes, unit: int) -> None:
        self._notes, self._unit = notes, unit

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _Gather(_Noted):
    """The gathering of a unit's weights."""

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: ProcessGroup,
        async_op: bool = False,
    ) -> Work | None:
        import torch.distributed as dist

        with self._notes.begun("gather", self._unit):
            return dist.all_gather_single(
                output_tensor, input_tensor, group=group, async_op=async_op
            )


class _Scatter(_Noted):
    """The addition of a unit's gradients, of which each rank gets its piece."""

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> Work | None:
        import torch.distributed as dist

        kind = str(input_tensor.dtype).removeprefix("torch.")
        with self._notes.begun("scatter", input_tensor.numel(), kind, op.name):
            return dist.reduce_scatter_single(
                output_tensor, input_tensor, op=op, group=group, async_op=async_op
            )


def _vain(why: str) -> Exception:
    import torch.distributed as dist

    return dist.DistError(f"the step was not completed: {why}")
