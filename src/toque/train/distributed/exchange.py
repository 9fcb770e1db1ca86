"""What stands between a step and the other ranks: each differentiates a part, and all get it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from toque.train.distributed.world import World


class Pass(Protocol):
    """One forward and backward over some images, as the step does it.

    Args:    counts: how many targets count in them and in all, by which the loss is weighted
             place: among the draws of this step (dropout)
    Returns: the loss [] and the outputs [B, ...], both detached; gradients stand in the parameters
    """

    def __call__(
        self,
        images: Tensor,
        targets: Any,
        counts: tuple[int | Tensor, int | Tensor] | None,
        place: int = 0,
    ) -> tuple[Tensor, Tensor]: ...


class RanksOutOfMemory(Exception):
    """Memory did not suffice for a step on some ranks; all have heard it, and may do it again."""

    def __init__(self, ranks: Sequence[int]) -> None:
        super().__init__(f"out of memory on rank {', '.join(map(str, ranks))}")


class Exchange(Protocol):
    """Differentiates this rank's part of a batch; afterwards all ranks have the same gradients.

    module:     what the step calls for a forward pass
    batch_size: images in the batch of all ranks
    most_images: of a batch on one rank
    num_shards: parts of a rank's images between which nothing may pass
    """

    module: nn.Module
    batch_size: int
    most_images: int
    num_shards: int

    def differentiate(
        self, run_pass: Pass, images: Tensor, targets: Any, micro_batch: int | None
    ) -> tuple[Tensor, Tensor]:
        """The loss of the whole batch [], and the outputs for this rank's images [B, ...].

        Args:   micro_batch: images at a time; None: all, or as many as a shard has
        Raises: RanksOutOfMemory: on every rank, where all can do the step again
        """
        raise NotImplementedError

    def smaller(self, part_images: int, least: int) -> int | None:
        """The micro_batch that comes next to a half of `part_images`, alike on every rank.

        None if every smaller one makes a part of fewer than `least` images.
        """
        raise NotImplementedError

    def no_memory(self, part_images: int) -> ValueError:
        """What to say where the step cannot be done again in parts of fewer than so many images."""
        raise NotImplementedError

    def verdict(self, flag: Tensor) -> Tensor:
        """1 on every rank where a flag [] of the gradients is 1 on any."""
        raise NotImplementedError


def total_targets(world: World, count: int | Tensor) -> int | Tensor:
    """The number of targets that count, over all ranks."""
    if world.alone:
        return count
    what = "the number of targets"
    if isinstance(count, Tensor):
        return world.sum(count, what).to(count.device)
    return int(world.sum(torch.tensor(count), what))
