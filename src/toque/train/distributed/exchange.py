"""What stands between a step and the other ranks: each differentiates a part, and all get it."""

from __future__ import annotations

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


class Exchange(Protocol):
    """Differentiates this rank's part of a batch; afterwards all ranks have the same gradients.

    module:     what the step calls for a forward pass
    batch_size: images in the batch of all ranks
    num_shards: parts of a rank's images between which nothing may pass
    """

    module: nn.Module
    batch_size: int
    num_shards: int

    def differentiate(self, run_pass: Pass, images: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
        """The loss of the whole batch [], and the outputs for this rank's images [B, ...]."""
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
