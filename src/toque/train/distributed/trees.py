"""Sums over shards in one fixed order, whichever ranks the shards are on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toque.train.distributed.world import World


class Packed:
    """Many tensors as one flat tensor for each dtype, and back.

    Args: like: tensors with the shapes and dtypes, in the order, of all that follow
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        self._shapes = [tensor.shape for tensor in like]
        self._places: dict[torch.dtype, list[int]] = {}
        for place, tensor in enumerate(like):
            self._places.setdefault(tensor.dtype, []).append(place)

    def pack(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies, one after the other: one tensor [n] for each dtype."""
        return [
            torch.cat([tensors[place].reshape(-1) for place in places])
            for places in self._places.values()
        ]

    def unpack(self, flats: Sequence[Tensor]) -> list[Tensor]:
        """Views into the flat tensors, with the shapes they had."""
        tensors: list[Tensor | None] = [None] * len(self._shapes)
        for flat, places in zip(flats, self._places.values(), strict=True):
            sizes = [self._shapes[place].numel() for place in places]
            for place, piece in zip(places, torch.split(flat, sizes), strict=True):
                tensors[place] = piece.view(self._shapes[place])
        return [tensor for tensor in tensors if tensor is not None]


class Subtrees:
    """Adds up leaves as they come, in a binary tree, holding one sum for each level at most."""

    def __init__(self) -> None:
        self._sums: list[tuple[int, list[Tensor]]] = []

    def add(self, leaf: list[Tensor]) -> None:
        self._sums.append((1, leaf))
        while len(self._sums) > 1 and self._sums[-1][0] == self._sums[-2][0]:
            (count, right), (_, left) = self._sums.pop(), self._sums.pop()
            self._sums.append((2 * count, [a.add_(b) for a, b in zip(left, right, strict=True)]))

    def sum(self) -> list[Tensor]:
        """The sum of all leaves, whose number is a power of two."""
        ((_, whole),) = self._sums
        return whole


def sum_over_ranks(world: World, flat: Tensor) -> Tensor:
    """The sum of a flat tensor over the ranks, added up in the binary tree of their order.

    Every rank adds up one piece and gives it to all: the traffic of a ring all-reduce.
    """
    if world.alone:
        return flat
    import torch.distributed as dist

    piece = -(-flat.numel() // world.size)
    padded = flat.new_zeros(piece * world.size)
    padded[: flat.numel()] = flat
    pieces = torch.empty_like(padded)
    with world.waiting("the sum of the gradients"):
        dist.all_to_all_single(pieces, padded)
        subtrees = Subtrees()
        for one in torch.split(pieces, piece):
            subtrees.add([one])
        (mine,) = subtrees.sum()
        every = list(torch.split(padded, piece))
        dist.all_gather(every, mine.contiguous())
    return padded[: flat.numel()]
