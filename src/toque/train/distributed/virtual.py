"""Virtual shards: the same bits for every number of ranks that divides V.

Ordinary data parallelism gives other bits on every number of ranks: sums are taken in another
order, BatchNorm sees other batches, dropout draws other numbers. Here the batch is always cut into
V shards, each with its own draws and its own BatchNorm batch, as if there were V ranks; a rank
works off V / W of them one after the other. What they give (gradients, changes of the running
statistics, losses) is added up in one fixed binary tree over the shards, whichever ranks they ran
on. Each rank must own a whole subtree, which is why V is a power of two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from toque import checks
from toque.losses.counting import num_targets
from toque.train.distributed.exchange import Pass, total_targets
from toque.train.distributed.trees import Packed, Subtrees, sum_over_ranks
from toque.train.distributed.world import World
from toque.train.run import Run


def check(run: Run, ranks: int) -> None:
    """Raise ValueError where a batch cannot be cut into so many shards on so many ranks."""
    name = "distributed.virtual_shards"
    shards, batch_size = run.distributed.virtual_shards or 1, run.batch_size
    micro_batch = run.memory.micro_batch
    if shards & (shards - 1):
        raise checks.invalid(
            "run.toml", name, "a power of two", shards, "Their sums are taken in a binary tree."
        )
    if batch_size % shards:
        raise checks.invalid(
            "run.toml", "batch_size", f"a multiple of {name} ({shards})", batch_size,
            f"Set it to {max(1, batch_size // shards) * shards}.",
        )  # fmt: skip
    if shards % ranks:
        raise checks.invalid(
            "distributed", "the number of ranks", f"a divisor of {name} ({shards})", ranks,
            "Start 1, 2, 4, … ranks, up to that number.",
        )  # fmt: skip
    if micro_batch is not None and micro_batch < batch_size // shards:
        raise checks.invalid(
            "run.toml", "memory.micro_batch", f"unset with {name}", micro_batch,
            f"Raise {name} instead: each shard of {batch_size // shards} images is a micro-batch.",
        )  # fmt: skip


class VirtualShards:
    """Differentiates a batch in V shards, in place of one pass over a rank's images.

    Args:    network: on every rank with the same weights; loss: says how many targets count
             shards: V, checked by `check`
    Source:  fixed virtual workers are the idea of EasyScale, Li 2022, arXiv:2208.14228
    """

    def __init__(
        self, network: nn.Module, loss: Any, world: World, *, batch_size: int, shards: int
    ) -> None:
        self.module, self.batch_size = network, batch_size
        self._loss, self._world, self._shards = loss, world, shards
        self.num_shards = shards // world.size
        self.most_images = batch_size // world.size
        self._parameters: list[nn.Parameter] = []
        self._buffers = list(network.buffers())
        self._statistics = [buffer for buffer in self._buffers if buffer.is_floating_point()]

    def differentiate(
        self, run_pass: Pass, images: Tensor, targets: Any, micro_batch: int | None
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward over this rank's images of the batch, a shard at a time.

        Returns: the loss of the whole batch [], and the outputs for this rank's images [B, ...]
        """
        own = self.num_shards
        # Anew at every step: some may be frozen for a while.
        self._parameters = [p for p in self.module.parameters() if p.requires_grad]
        size = len(images) // own
        whole = total_targets(self._world, num_targets(self._loss, targets))
        before = [buffer.clone() for buffer in self._buffers]
        subtrees, packed, outputs = Subtrees(), None, []
        for number in range(own):
            part = slice(number * size, (number + 1) * size)
            some = tree_map(lambda tensor, part=part: tensor[part], targets)
            with torch.no_grad():
                for buffer, old in zip(self._buffers, before, strict=True):
                    buffer.copy_(old)
            counts = num_targets(self._loss, some), whole
            place = self._world.rank * own + number
            loss, output = run_pass(images[part], some, counts, place)
            outputs.append(output)
            leaf = self._take(loss, before)
            packed = packed or Packed(leaf)
            subtrees.add(packed.pack(leaf))
        assert packed is not None
        sums = [sum_over_ranks(self._world, flat) for flat in subtrees.sum()]
        return self._put(packed.unpack(sums), before), torch.cat(outputs)

    def smaller(self, part_images: int, least: int) -> int | None:
        return None  # the shards are what the bits depend on

    def no_memory(self, part_images: int) -> ValueError:
        return checks.invalid(
            "distributed", "the memory of a rank",
            f"enough for the {self.batch_size // self._shards} images of a virtual shard", "less",
            f"Set distributed.virtual_shards = {2 * self._shards} for a new run, with another "
            "--out: fewer images at a time.",
        )  # fmt: skip

    def verdict(self, flag: Tensor) -> Tensor:
        return flag  # of the same gradients on every rank

    @torch.no_grad()
    def _take(self, loss: Tensor, before: list[Tensor]) -> list[Tensor]:
        """What one shard gives: gradients, changes of statistics, loss, which gradients there were.

        The change and not the statistics, so that a buffer which nobody changes keeps its bits.
        """
        had = [float(parameter.grad is not None) for parameter in self._parameters]
        leaf = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        for buffer, old in zip(self._buffers, before, strict=True):
            if buffer.is_floating_point():
                leaf.append(buffer - old)
        return [*leaf, loss, torch.tensor(had, device=loss.device)]

    @torch.no_grad()
    def _put(self, sums: list[Tensor], before: list[Tensor]) -> Tensor:
        """Put what all shards gave where one pass would have left it; the loss []."""
        *rest, loss, had = sums
        # A parameter that no shard used must keep no gradient: momentum and decay would move it.
        unused = (had == 0).tolist() if had.device.type == "cpu" else [False] * len(had)
        gradients, changes = rest[: len(unused)], rest[len(unused) :]
        for parameter, gradient, none in zip(self._parameters, gradients, unused, strict=True):
            # In the parameter's own layout: a fused optimiser walks both in the order of memory.
            parameter.grad = None if none else torch.empty_like(parameter).copy_(gradient)
        old_statistics = [old for old in before if old.is_floating_point()]
        for buffer, old, change in zip(self._statistics, old_statistics, changes, strict=True):
            torch.add(old, change, alpha=1 / self._shards, out=buffer)
        return loss
