"""Tensors in pieces over several files: torch plans who writes and who reads what, toque stores it.

DCP (torch.distributed.checkpoint) has planners, which know how tensors are cut among ranks, and a
storage. The planners are used here. Its storage is not: it keeps its index as a pickle, which runs
what is in it, and no hash of anything. In its place each rank writes one safetensors file, with a
tensor (or this rank's piece of it) under its number, and `tensors.json` says where the pieces are.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.checkpoint import Metadata, SavePlan

TABLE = "tensors.json"
WHOLE = "tensors.safetensors"  # of a state that lies in one file


@dataclass(frozen=True)
class Piece:
    """Where a piece of a tensor lies: in a file under the tensor's number, and in the tensor."""

    file: str
    offset: tuple[int, ...]
    size: tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint: what it is as a whole, and its pieces."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    def empty(self) -> Tensor:
        """A tensor on the CPU to read it into."""
        return torch.empty(self.shape, dtype=self.dtype)


Table = dict[str, Stored]


def file_of(rank: int, ranks: int) -> str:
    """ "tensors-1-of-4.safetensors" for rank 0 of 4."""
    return f"tensors-{rank + 1}-of-{ranks}.safetensors"


def offered(tensors: Mapping[str, Tensor]) -> SavePlan:
    """What this rank could write: each whole tensor, and its own piece of each sharded one."""
    plan: SavePlan = _planner(tensors).create_local_plan()
    # A rank that a short axis leaves nothing of has a piece without elements.
    items = [item for item in plan.items if not _is_nothing(item.tensor_data)]
    offer: SavePlan = dataclasses.replace(plan, items=items)
    return offer


def divided(offers: Sequence[SavePlan]) -> tuple[list[list[str]], Table]:
    """The numbers that each rank writes, so that every piece is written once; where all will lie.

    What several ranks have goes to the one that has least to write so far.
    """
    plans, _ = _planner({}).create_global_plan(list(offers))
    numbers: list[list[str]] = []
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    pieces: dict[str, list[Piece]] = {}
    for rank, plan in enumerate(plans):
        numbers.append([item.index.fqn for item in plan.items])
        for item in plan.items:
            data: Any = item.tensor_data
            shapes[item.index.fqn] = data.properties.dtype, tuple(data.size)
            pieces.setdefault(item.index.fqn, []).append(
                Piece(file_of(rank, len(plans)), tuple(data.chunk.offsets), tuple(data.chunk.sizes))
            )
    return numbers, {name: Stored(*shapes[name], tuple(own)) for name, own in pieces.items()}


def whole(tensors: Mapping[str, Tensor], file: str) -> Table:
    """The table of tensors that lie whole in one file."""
    table = {}
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        table[name] = Stored(tensor.dtype, shape, (Piece(file, (0,) * len(shape), shape),))
    return table


def read_table(path: Path, bytes_of: Mapping[str, int]) -> Table:
    """Where the tensors of a checkpoint lie, which may be in one file.

    Args:   bytes_of: the files of its manifest with their sizes
    Raises: ValueError: pieces that do not make up their tensor, or more than the files can hold
    """
    if TABLE not in bytes_of:
        with safe_open(path / WHOLE, "pt") as opened:
            names = list(opened.keys())
            return whole({name: opened.get_tensor(name) for name in names}, WHOLE)
    table, left = {}, dict(bytes_of)
    for name, told in json.loads((path / TABLE).read_text()).items():
        dtype = getattr(torch, told["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"tensor {name} is of no dtype")
        pieces = [Piece(file, tuple(at), tuple(size)) for file, at, size in told["pieces"]]
        for piece in pieces:
            left[piece.file] -= math.prod(piece.size) * dtype.itemsize
        if sum(math.prod(piece.size) for piece in pieces) != math.prod(told["shape"]):
            raise ValueError(f"the pieces of tensor {name} do not make it up")
        table[name] = Stored(dtype, tuple(told["shape"]), tuple(pieces))
    if min(left.values()) < 0:
        raise ValueError("it tells of more than the files hold")
    return table


def table_text(table: Table) -> str:
    """The content of `tensors.json`."""
    told = {
        name: {
            "dtype": str(stored.dtype).removeprefix("torch."),
            "shape": stored.shape,
            "pieces": [(piece.file, piece.offset, piece.size) for piece in stored.pieces],
        }
        for name, stored in table.items()
    }
    return json.dumps(told)


@torch.no_grad()
def read(path: Path, table: Table, targets: Mapping[str, Tensor]) -> None:
    """Fill tensors by number; of a sharded one only what this rank holds is read.

    Args: targets: of the shapes in the table, on any device, cut in any way
    """
    from torch.distributed.checkpoint import DefaultLoadPlanner

    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(targets), _metadata(table), is_coordinator=True)
    files = {
        (name, piece.offset): piece for name, stored in table.items() for piece in stored.pieces
    }
    reads: dict[str, list[Any]] = {}
    for item in planner.create_local_plan().items:
        at = item.storage_index
        piece = files[at.fqn, tuple(at.offset or ())]
        reads.setdefault(piece.file, []).append((item, piece))
    for file, items in reads.items():
        with safe_open(path / file, "pt") as opened:
            for item, piece in items:
                name = item.storage_index.fqn
                if tuple(item.lengths) == piece.size:
                    part = opened.get_tensor(name)
                else:
                    part = opened.get_slice(name)[
                        tuple(
                            slice(start, start + length)
                            for start, length in zip(
                                item.storage_offsets, item.lengths, strict=True
                            )
                        )
                    ]
                planner.resolve_tensor(item).copy_(part)


def _planner(tensors: Mapping[str, Tensor]) -> Any:
    # Imported here: it costs time that a run on one device should not pay.
    from torch.distributed.checkpoint import DefaultSavePlanner

    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(tensors), is_coordinator=True)
    return planner


def _is_nothing(data: Any) -> bool:
    nothing: bool = math.prod(data.chunk.sizes) == 0 < math.prod(data.size)
    return nothing


def _metadata(table: Table) -> Metadata:
    from torch.distributed.checkpoint import Metadata
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        TensorProperties,
        TensorStorageMetadata,
    )

    return Metadata(
        {
            name: TensorStorageMetadata(
                TensorProperties(stored.dtype),
                torch.Size(stored.shape),
                [
                    ChunkStorageMetadata(torch.Size(piece.offset), torch.Size(piece.size))
                    for piece in stored.pieces
                ],
            )
            for name, stored in table.items()
        }
    )
