"""Data parallelism by torch: DDP, which copies the model to every rank, and FSDP2, which shards it.

Both exchange gradients over the ranks during backward. The loss of a rank's part is weighted by its
share of all targets, so that the sum over the ranks is the gradient of the mean over the whole
batch, also where parts are uneven or targets are ignored. FSDP2 gives the average in place of the
sum: the loss is multiplied by the number of ranks.
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
from toque.train.distributed.batch_norm import GlobalBatchNorm
from toque.train.distributed.completing import CompletableDDP
from toque.train.distributed.exchange import Pass, RanksOutOfMemory, total_targets
from toque.train.distributed.following import Followable, can_follow
from toque.train.distributed.world import World
from toque.train.steps import cutting, memory


class Replicas:
    """Differentiates a rank's part of the batch, and adds up the gradients over the ranks.

    The part goes through the model in pieces, as many on every rank; gradients travel with the last
    one only. A rank whose memory does not suffice says so together with its loss: until then it
    gives zeros, so that no rank waits for ever, and no step pays for it.

    Args: network: in place; "ddp" wraps it, "fsdp" and "hsdp" have sharded it already
          strategy: ddp, fsdp or hsdp
          timeout_s: how long one rank waits for another
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Any,
        world: World,
        *,
        batch_size: int,
        strategy: str = "ddp",
        unused_parameters: bool = False,
        timeout_s: float = 600.0,
    ) -> None:
        self.batch_size = batch_size
        self.most_images = -(-batch_size // world.size)
        self._fewest_images = batch_size // world.size
        self._network, self._loss, self._world = network, loss, world
        self._strategy, self._unused = strategy, unused_parameters
        self._factor = 1 if strategy == "ddp" else world.size
        self._waits_inside = _waits_inside(network, strategy, unused_parameters)
        self._checked = False
        self._ddp: CompletableDDP | None = None
        self._sharded: Followable | None = None
        self._learning: list[bool] = []
        self.num_shards = 1
        self.module: nn.Module = network
        if strategy != "ddp":
            self._mark(network)
            if can_follow(network) and not _syncs_batch_norm(network):
                self._sharded = Followable(network, world, timeout_s)

    def differentiate(
        self, run_pass: Pass, images: Tensor, targets: Any, micro_batch: int | None
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward over this rank's images of the batch.

        Returns: the loss of the whole batch [], and the outputs for this rank's images [B, ...]
        Raises:  RanksOutOfMemory: on every rank; where not all can hear of it, torch's own error
        """
        self._follow_freezing()
        whole = total_targets(self._world, num_targets(self._loss, targets))
        num_parts = self._num_parts(micro_batch or self.most_images)
        losses, outputs = [images.new_zeros((), dtype=torch.float64)], []
        short_of_memory = False
        if self._sharded is not None:
            self._sharded.begin()
        try:
            for part in cutting.evenly(len(images), num_parts):
                some = tree_map(lambda tensor, part=part: tensor[part], targets)
                counts = num_targets(self._loss, some) * self._factor, whole
                place = (self._world.rank << 32) + part.start
                with self._exchanging(part.stop == len(images)):
                    loss, output = run_pass(images[part], some, counts, place)
                losses.append(loss.double())
                outputs.append(output)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error) or not self._can_complete():
                raise
            short_of_memory = True
        # Not above: the error holds on to what filled the memory.
        if short_of_memory:
            self._complete()
        elif self._sharded is not None:
            self._sharded.end()
        total = self._total(torch.stack(losses).sum() / self._factor, short_of_memory)
        if not self._checked and not self._unused:
            self._refuse_unused()
        return total.to(loss.device, loss.dtype), torch.cat(outputs)

    def smaller(self, part_images: int, least: int) -> int | None:
        for size in range(max(1, part_images // 2), part_images):
            num_parts = min(self._num_parts(size), self._fewest_images)
            if self._fewest_images // num_parts >= least:
                return size
        return None

    def no_memory(self, part_images: int) -> ValueError:
        """For a rank whose memory ends where the others cannot be told to begin the step again."""
        return checks.invalid(
            "distributed", "the memory of a rank",
            f"enough for {part_images} images at a time with {self._waits_inside or 'ddp'}, where "
            "ranks wait for each other in the middle of a step", "less",
            "Start more ranks: the run then continues. Or set memory.micro_batch = "
            f"{max(1, part_images // 2)} for a new run, with another --out.",
        )  # fmt: skip

    def _num_parts(self, part_images: int) -> int:
        num_parts = -(-self.most_images // part_images)
        # A part without an image would be one that the other ranks wait for.
        return min(num_parts, self._fewest_images) if self._waits_inside else num_parts

    def _can_complete(self) -> bool:
        if self._sharded is not None:
            return self._sharded.can_complete
        return self._ddp is not None and self._ddp.begun and not self._waits_inside

    def _complete(self) -> None:
        """Come to the end of a step that this rank could not do."""
        if next(self._network.parameters()).is_cuda:
            torch.cuda.empty_cache()
        if self._sharded is not None:
            with self._world.waiting("a step that others do"):
                self._sharded.complete()
            return
        assert self._ddp is not None
        self._ddp.complete()

    def _total(self, loss: Tensor, short_of_memory: bool) -> Tensor:
        """The loss over all ranks [], with the same bits on each, so that all decide alike."""
        mine = torch.stack([loss, torch.full_like(loss, short_of_memory)])
        every = self._world.gather(mine, "the loss")
        short = every[:, 1].nonzero().flatten().tolist()
        if short:
            if self._sharded is not None:
                self._sharded.forget()
            # Some ranks' DDP stands in the middle of a step: all make a new one.
            self._ddp, self._learning, self.module = None, [], self._network
            raise RanksOutOfMemory(short)
        total = every[0, 0]
        for one in every[1:, 0]:  # in the order of the ranks
            total = total + one
        return total

    def verdict(self, flag: Tensor) -> Tensor:
        if self._strategy == "ddp":
            return flag  # of the same gradients on every rank
        with self._world.waiting("the check of the gradients"):
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return flag

    def _follow_freezing(self) -> None:
        """Wrap the network anew when other parameters learn than before: DDP asks for a gradient
        of each that did at the time it was made."""
        if self._strategy != "ddp":
            return
        learning = [parameter.requires_grad for parameter in self._network.parameters()]
        if learning == self._learning and self._ddp is not None:
            self._ddp.begin()
            return
        self._learning, self._checked = learning, False
        self._ddp = CompletableDDP(self._network, unused_parameters=self._unused)
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
            raise checks.InvalidValue(
                f"distributed: every parameter must take part in the loss; got no gradient for "
                f"{checks.first(unused, 4)}. Freeze or remove them, or set "
                "distributed.unused_parameters = true, which costs a search at every step."
            )


def _waits_inside(network: nn.Module, strategy: str, unused_parameters: bool) -> str:
    """What ranks wait for each other for, besides DDP's exchange of gradients; "" if nothing."""
    if strategy != "ddp":
        return strategy
    if _syncs_batch_norm(network):
        return "sync_batch_norm"
    return "unused_parameters" if unused_parameters else ""


def _syncs_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(m, GlobalBatchNorm | nn.SyncBatchNorm) for m in network.modules())
