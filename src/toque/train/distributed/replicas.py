"""Data parallelism by torch: DDP, which copies the model to every rank, and FSDP2, which shards it.

Both average gradients over the ranks during backward. The loss of a rank's part is weighted by its
share of all targets times the number of ranks, so that the average is the gradient of the mean over
the whole batch, also where parts are uneven or targets are ignored.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from toque import checks
from toque.losses.counting import num_targets
from toque.train.distributed.exchange import Pass, total_targets
from toque.train.distributed.world import World
from toque.train.steps import cutting


class Replicas:
    """Differentiates a rank's part of the batch, and averages the gradients over the ranks.

    With `micro_batch` the part goes through the model in pieces of so many images; gradients travel
    with the last one only.

    Args: network: in place; "ddp" wraps it, "fsdp" and "hsdp" have sharded it already
          strategy: ddp, fsdp or hsdp
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Any,
        world: World,
        *,
        batch_size: int,
        strategy: str = "ddp",
        micro_batch: int | None = None,
        unused_parameters: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self._network, self._loss, self._world = network, loss, world
        self._micro_batch = micro_batch
        self._strategy, self._unused = strategy, unused_parameters
        self._checked = False
        self._ddp: nn.parallel.DistributedDataParallel | None = None
        self._learning: list[bool] = []
        self.num_shards = 1
        self.module: nn.Module = network
        if strategy != "ddp":
            self._mark(network)

    def differentiate(self, run_pass: Pass, images: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
        """Forward and backward over this rank's images of the batch.

        Returns: the loss of the whole batch [], and the outputs for this rank's images [B, ...]
        """
        self._follow_freezing()
        world, num_images = self._world, len(images)
        whole = total_targets(world, num_targets(self._loss, targets))
        size = self._micro_batch or num_images
        losses, outputs = [], []
        for part in cutting.cut(num_images, size):
            some = tree_map(lambda tensor, part=part: tensor[part], targets)
            counts = num_targets(self._loss, some) * world.size, whole
            place = (world.rank << 32) + part.start
            with self._exchanging(part.stop == num_images):
                loss, output = run_pass(images[part], some, counts, place)
            losses.append(loss)
            outputs.append(output)
        if not self._checked and not self._unused:
            self._refuse_unused()
        loss = torch.stack(losses).sum() / world.size
        # In the order of the ranks: every rank gets the same bits, and so takes the same decision.
        total = world.sum(loss, "the loss").to(loss.device)
        return total, torch.cat(outputs)

    def verdict(self, flag: Tensor) -> Tensor:
        if self._strategy == "ddp":
            return flag  # of the same gradients on every rank
        with self._world.waiting("the check of the gradients"):
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return flag

    def _follow_freezing(self) -> None:
        """Wrap the network anew when other parameters learn than before: DDP asks for a gradient
        of each that did at the time it was made."""
        learning = [parameter.requires_grad for parameter in self._network.parameters()]
        if self._strategy != "ddp" or learning == self._learning:
            return
        self._learning, self._checked = learning, False
        self._ddp = nn.parallel.DistributedDataParallel(
            self._network,
            device_ids=_device_ids(self._network),
            find_unused_parameters=self._unused,
            # Gradients are views of what travels: one copy of them less.
            gradient_as_bucket_view=True,
        )
        self._mark(self._ddp)
        self.module = self._ddp

    def _mark(self, module: nn.Module) -> None:
        """Note what this rank does, for those who wait for it."""
        module.register_forward_pre_hook(self._forward_begins)
        module.register_forward_hook(self._backward_begins)

    def _forward_begins(self, module: nn.Module, inputs: Any) -> None:
        if module.training:
            self._world.doing.now("the forward pass")

    def _backward_begins(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if module.training:
            self._world.doing.now("the gradients", waiting=True)

    def _exchanging(self, last: bool) -> AbstractContextManager[Any]:
        if self._ddp is not None:
            return contextlib.nullcontext() if last else self._ddp.no_sync()
        self._network.set_requires_gradient_sync(last)  # type: ignore[operator]
        return contextlib.nullcontext()

    def _refuse_unused(self) -> None:
        """Name the parameters that the first step gave no gradient: DDP would wait for them."""
        self._checked = True
        unused = [
            name
            for name, parameter in self._network.named_parameters()
            if parameter.requires_grad and parameter.grad is None
        ]
        if unused:
            more = f" and {len(unused) - 4} more" if len(unused) > 4 else ""
            raise checks.InvalidValue(
                f"distributed: every parameter must take part in the loss; got no gradient for "
                f"{', '.join(unused[:4])}{more}. Freeze or remove them, or set "
                "distributed.unused_parameters = true, which costs a search at every step."
            )


def _device_ids(network: nn.Module) -> list[int] | None:
    device = next(network.parameters()).device
    return [device.index or 0] if device.type == "cuda" else None
