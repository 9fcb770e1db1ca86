"""The processes that train one run together, and what they tell each other.

A process alone is a world of one rank: every call returns at once, and no process group exists.
Numbers that decide something (metrics, whether to save or to stop) travel as CPU tensors over gloo,
also where gradients travel over NCCL, and are added up in the order of the ranks, so that a sum
does not depend on which message came first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")


@dataclass
class Doing:
    """What a rank does at this moment, for those who wait for it."""

    what: str = "the start"
    waiting: bool = False

    def now(self, what: str, *, waiting: bool = False) -> None:
        """Note what comes, and whether it ends only when the others come."""
        self.what, self.waiting = what, waiting


@dataclass(eq=False)
class World:
    """This process among all that train the run.

    rank, size:  0 <= rank < size; rank 0 alone writes and speaks
    local_rank:  the number among the processes of this machine, and of its GPU
    name:        of this start of the ranks: what they tell each other lies below it in the store
    group:       the gloo group of decisions; None when alone
    mesh:        of the ranks that share the weights of one network, where they do
    looks:       called again and again by a thread beside the rank, also while it waits
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    name: str = ""
    group: ProcessGroup | None = None
    doing: Doing = field(default_factory=Doing)
    mesh: DeviceMesh | None = None
    looks: list[Callable[[], None]] = field(default_factory=list)

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Mark a stretch in which this rank waits for the others in the collective `what`."""
        self.doing.now(what, waiting=True)
        yield
        # Not after an exception: what stands there names the collective that failed.
        self.doing.now(f"what follows {what}")

    def part(self, total: int) -> tuple[int, int]:
        """This rank's stretch [start, stop) of `total` things; sizes differ by one at most."""
        return self.rank * total // self.size, (self.rank + 1) * total // self.size

    def gather(self, tensor: torch.Tensor, what: str) -> torch.Tensor:
        """The tensors of all ranks in their order: [...] -> [size, ...], on the CPU."""
        tensor = tensor.detach().cpu().contiguous()
        if self.alone:
            return tensor[None]
        import torch.distributed as dist

        every = [torch.empty_like(tensor) for _ in range(self.size)]
        with self.waiting(what):
            dist.all_gather(every, tensor, group=self.group)
        return torch.stack(every)

    def gather_rows(self, rows: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
        """The rows of all ranks one after the other: [n_r, ...] -> [sum of n_r, ...].

        Ranks may have different numbers of rows, also none; the further axes are taken from a rank
        that has some.
        """
        if self.alone:
            return rows
        shapes = [one for one in self.objects((rows.shape, rows.dtype.str), what) if one[0][0]]
        if not shapes:
            return rows
        (_, *tail), dtype = shapes[0]
        most = max(shape[0] for shape, _ in shapes)
        padded = np.zeros((most, *tail), dtype)
        if len(rows):
            padded[: len(rows)] = rows
        counts = self.gather(torch.tensor(len(rows)), what).tolist()
        # As bytes: gloo has no bool or uint16, and a float must keep its bits.
        flat = np.ascontiguousarray(padded).view(np.uint8).reshape(-1)
        every = self.gather(torch.from_numpy(flat), what).numpy().view(dtype)
        every = every.reshape(self.size, most, *tail)
        return np.concatenate([every[rank, :count] for rank, count in enumerate(counts)])

    def objects(self, value: T, what: str) -> list[T]:
        """A picklable value of each rank, in their order."""
        if self.alone:
            return [value]
        import torch.distributed as dist

        every: list[Any] = [None] * self.size
        with self.waiting(what):
            dist.all_gather_object(every, value, group=self.group)
        return every

    def to_first(self, value: T, what: str) -> list[T]:
        """A picklable value of each rank, on rank 0 in their order; none on the others."""
        if self.alone:
            return [value]
        import torch.distributed as dist

        every: list[Any] | None = [None] * self.size if self.first else None
        with self.waiting(what):
            dist.gather_object(value, every, dst=0, group=self.group)
        return every or []

    def from_first(self, value: T, what: str) -> T:
        """Rank 0's value, tensors included (on the CPU); what the others pass is not looked at."""
        if self.alone:
            return value
        import torch.distributed as dist

        box: list[Any] = [value if self.first else None]
        with self.waiting(what):
            dist.broadcast_object_list(box, src=0, group=self.group)
        answer: T = box[0]
        return answer

    def first_does(self, work: Callable[[], T], what: str) -> T:
        """What `work` returns on rank 0, for all; the others wait for it."""
        return self.from_first(work() if self.first else None, what)  # type: ignore[return-value]

    def sum(self, tensor: torch.Tensor, what: str) -> torch.Tensor:
        """The sum over the ranks, added up in their order: [...] -> [...], on the CPU."""
        if self.alone:
            return tensor
        every = self.gather(tensor, what)
        total = every[0].clone()
        for one in every[1:]:
            total += one
        return total

    @torch.no_grad()
    def share(self, module: nn.Module, what: str, *, parameters: bool = True) -> None:
        """Give every rank rank 0's parameters and buffers (running statistics), in place."""
        if self.alone:
            return
        import torch.distributed as dist

        tensors = [*module.parameters()] if parameters else []
        with self.waiting(what):
            for tensor in (*tensors, *module.buffers()):
                # Broadcast in memory order: parameters may be channels_last.
                whole = tensor.detach().clone(memory_format=torch.contiguous_format)
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)

    def barrier(self, what: str) -> None:
        """Wait until every rank is here."""
        self.gather(torch.zeros(1), what)


ALONE = World()
