"""The collectives of a training step on many ranks, counted on one machine without running them.

torch's fake process group answers every collective at once; fake tensors have shapes and no bytes.
Both are private to torch: everything of theirs that toque uses is in this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toque.models.memory import squares
from toque.train.distributed import sharding

_KINDS = {
    "allreduce": "all_reduce",
    "_allgather": "all_gather",
    "allgather": "all_gather",
    "all_gather": "all_gather",
    "all_reduce": "all_reduce",
    "_reduce_scatter": "reduce_scatter",
    "reduce_scatter": "reduce_scatter",
    "broadcast": "broadcast",
    "alltoall": "all_to_all",
}


@dataclass
class Traffic:
    """What collectives were asked for: bytes of the whole tensor, by kind."""

    bytes_by_kind: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, num_bytes: int) -> None:
        self.bytes_by_kind[kind] = self.bytes_by_kind.get(kind, 0) + num_bytes

    @property
    def total(self) -> int:
        return sum(self.bytes_by_kind.values())

    def sent_by_a_rank(self, ranks: int) -> float:
        """Bytes each rank sends by ring algorithms: (R - 1) / R of the whole; to reduce all, twice.

        Source: Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms", section 3
        """
        share = (ranks - 1) / ranks
        return sum(
            share * size * (2 if kind == "all_reduce" else 1)
            for kind, size in self.bytes_by_kind.items()
        )


class CountCollectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the collectives issued in this thread, of real and of fake process groups.

    A gather counts its result and a scatter its input: the whole tensor, whatever the ranks.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.traffic = Traffic()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        namespace, _, name = func._schema.name.partition("::")
        if namespace in ("c10d", "_c10d_functional"):
            kind = next((k for prefix, k in _KINDS.items() if name.startswith(prefix)), None)
            sizes = [t.nbytes for t in tree_leaves(args) if isinstance(t, torch.Tensor)]
            if kind is not None and sizes:
                # Of the tensors of a gather or scatter the larger one is the whole.
                self.traffic.add(
                    kind, max(sizes) if "gather" in kind or "scatter" in kind else sum(sizes)
                )
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Sharded:
    """A step of a model that FSDP2 shards.

    traffic:       what the collectives carried
    pieces_bytes:  of one rank's pieces
    largest_bytes: of the largest unit that is gathered at one time
    """

    traffic: Traffic
    pieces_bytes: int
    largest_bytes: int


def units_of_fsdp(network: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters that FSDP2 gathers at one time: of each unit, and last those that remain."""
    taken: set[int] = set()
    found = []
    for unit in (*reversed(sharding.units(network)), network):
        found.append([p for p in unit.parameters() if id(p) not in taken])
        taken |= {id(parameter) for parameter in found[-1]}
    return found


def reckoned_step_of_fsdp(network: nn.Module, ranks: int) -> Sharded:
    """What `step_of_fsdp` counts, by its rule and in no time: it makes tensors for every rank.

    A unit is gathered forward and backward, what remains once; all gradients are scattered once.
    """
    units = units_of_fsdp(network)
    wholes = [ranks * sum(sharding.piece_bytes(p, ranks) for p in unit) for unit in units]
    traffic = Traffic({"all_gather": 2 * sum(wholes) - wholes[-1], "reduce_scatter": sum(wholes)})
    pieces = sum(sharding.piece_bytes(p, ranks) for unit in units for p in unit)
    return Sharded(traffic, pieces, max(sum(p.nbytes for p in unit) for unit in units))


def step_of_fsdp(model: Callable[[], nn.Module], input_shape: Sequence[int], ranks: int) -> Sharded:
    """One forward and backward of a sharded model on `ranks` simulated ranks.

    Args:    model: builds it; its weights are never made
             input_shape: [B, C, H, W] of one rank
    """
    import torch.distributed as dist
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    assert not dist.is_initialized(), "a simulation has a process group of its own"
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        # Outside the fake mode: a mesh computes with real numbers.
        mesh = init_device_mesh("cpu", (ranks,))
        with torch.device("meta"):
            network = model()
        with FakeTensorMode(allow_non_fake_inputs=True):
            network = network.to_empty(device="cpu").train()
            largest = max(sum(p.nbytes for p in unit) for unit in units_of_fsdp(network))
            sharding.shard(network, mesh)
            pieces = sum(
                p.to_local().nbytes if isinstance(p, DTensor) else p.nbytes
                for p in network.parameters()
            )
            counter = CountCollectives()
            with counter:
                value = squares(network(torch.empty(*input_shape)))
                torch.autograd.backward(value)
        return Sharded(counter.traffic, pieces, largest)
    finally:
        dist.destroy_process_group()
