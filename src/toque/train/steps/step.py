"""One training step: from a batch to changed weights.

    freeze -> mix -> forward and backward, in parts -> unscale, check, clip -> optimiser -> average

A step is a function of (state, batch, images seen): what torch draws itself (dropout) is reseeded
for each part from the count of images before it. A step whose loss or gradient is no finite number
changes nothing: no weight, no optimiser state, no running statistics. A GPU decides that itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from toque import checks, random
from toque.data import Batch
from toque.losses.counting import num_targets, weighted
from toque.models.ema import EMA
from toque.train.distributed import sharding
from toque.train.distributed.exchange import Exchange, RanksOutOfMemory
from toque.train.optimisation.freezing import Freezing
from toque.train.optimisation.optimizers import Optimizers
from toque.train.settings.optimisation import ClipSettings
from toque.train.steps import compiled, cutting, memory
from toque.train.steps.gradients import Gradients
from toque.train.steps.mixing import Mixing
from toque.train.steps.precision import NOTHING, LossScale, Precision
from toque.train.steps.sharpness import Ascent
from toque.train.steps.statistics import Statistics
from toque.train.tasks.task import Loss


@dataclass(slots=True, eq=False)
class Outcome:
    """What a step found, on its device.

    loss:    [], the mean over the batch's targets
    skipped: [] float32, 1 if loss or gradients were no finite numbers and nothing was changed
    outputs: what the model answered, [B, ...]
    targets: what it was asked, [B, ...]; probabilities where images were mixed
    indices: [B], the images in their source
    images_seen: how many images were seen before it
    """

    loss: Tensor
    skipped: Tensor
    outputs: Tensor
    targets: Any
    indices: np.ndarray
    images_seen: int


class Step:
    """The step of a run; built once, called for each batch.

    With `micro_batch`, the batch goes through the model in parts of so many images, the last one
    smaller if need be, but not of a single image where that can be. The gradient is that of the
    whole batch's loss: every target counts the same in whichever part it is. What a model does
    across images (BatchNorm) it does in each part.

    Where memory does not suffice, on any rank, the parts are halved and the batch is begun again,
    with the same images and draws: the gradients are equal within rounding, but for BatchNorm,
    which sees smaller parts, and dropout, which draws for each part.

    Args:    network: in training mode, on the device of `precision`
             loss: (outputs, targets) -> mean over the targets that count
             optimizers: of the network's parameters
             seed: of what torch draws itself
             micro_batch: images at a time; None: the whole batch
             clip: how large gradients may be
             ema: the average to bring each step's weights into
             mixing: of images and labels, before the batch is cut into parts
             freezing: what learns only later
             sam: radius of sharpness-aware minimisation: a second pass from a point nearby, with
             the same draws; the running statistics are those of the first
             exchange: differentiates this rank's part of a batch together with other ranks
             offload: keep what backward needs in the host's memory
             compile_network: in place, at the first step: hooks that look at modules come before
    Raises:  ValueError: out of memory with a single image at a time (two with BatchNorm); a part of
             one image where BatchNorm cannot do with it
    Example: >>> step = Step(network, loss, optimizers, seed=0, precision=Precision("auto", device))
             >>> outcome = step(batch, images_seen, learning_rate)
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        optimizers: Optimizers,
        *,
        seed: int,
        precision: Precision,
        micro_batch: int | None = None,
        clip: ClipSettings | None = None,
        ema: EMA | None = None,
        mixing: Mixing | None = None,
        freezing: Freezing | None = None,
        sam: float = 0.0,
        exchange: Exchange | None = None,
        offload: bool = False,
        compile_network: bool = False,
    ) -> None:
        self.network = network
        self._exchange = exchange
        self.optimizers = optimizers
        self.micro_batch = micro_batch
        self.ema = ema
        self._loss = loss
        self._offload = offload
        self._to_compile = compile_network
        self.warn: Callable[[str], None] = lambda sentence: None
        self._mixing = mixing
        self._freezing = freezing
        self._ascent = Ascent(optimizers.parameters, sam) if sam else None
        self._climbing_statistics = Statistics(network if sam else nn.Identity())
        self._seed = seed
        self._device = precision.device
        self._autocast = precision.autocast
        self._scale = LossScale(precision.device) if precision.name == "float16" else None
        self._gradients = Gradients(optimizers.parameters, clip or ClipSettings())
        self._statistics = Statistics(network)

    def __call__(self, batch: Batch, images_seen: int, learning_rate: float) -> Outcome:
        """Learn from the batch that begins after `images_seen` images, at this rate."""
        images = batch.images.to(self._device, non_blocking=True)
        targets = _moved(batch.targets, self._device)
        if self._to_compile:
            compiled.compile_in_place(self.network)
            self._to_compile = False
        if self._freezing is not None:
            self._freezing.apply(self.network, images_seen)
        if self._mixing is not None:
            shards = 1 if self._exchange is None else self._exchange.num_shards
            images, targets = self._mixing.in_shards(images, targets, batch, shards)
        self._statistics.keep()
        self._gradients.clear()
        while isinstance(found := self._fitting(images, targets, images_seen), str):
            self._halve(len(images), images_seen, found)
        loss, outputs = found
        inverse_scale = None if self._scale is None else self._scale.inverse()
        bad, overflowed = self._gradients.finish(loss, inverse_scale)
        if self._exchange is not None:
            bad, overflowed = self._exchange.verdict(bad), self._exchange.verdict(overflowed)
        self.optimizers.set_learning_rate(learning_rate)
        self.optimizers.step(bad)
        self._statistics.restore_where(bad)
        if self._scale is not None:
            self._scale.update(overflowed)
        if self.ema is not None:
            images_in_batch = len(images) if self._exchange is None else self._exchange.batch_size
            self.ema.update(self.network, images_in_batch)
        return Outcome(loss, bad, outputs, targets, batch.indices, images_seen)

    def _fitting(
        self, images: Tensor, targets: Any, images_seen: int
    ) -> tuple[Tensor, Tensor] | str:
        """Loss and outputs of all passes of the step, or that memory did not suffice, and where."""
        try:
            found = self._differentiate(images, targets, images_seen)
            if self._ascent is not None:
                self._climbing_statistics.keep()
                with self._ascent.climbed():
                    self._differentiate(images, targets, images_seen)
                self._climbing_statistics.restore()
        except RanksOutOfMemory as short:
            return str(short)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            if self._exchange is not None:
                raise self._exchange.no_memory(self._images_at_a_time(len(images))) from error
            return "out of memory"
        return found

    def _images_at_a_time(self, num_images: int) -> int:
        most = num_images if self._exchange is None else self._exchange.most_images
        return min(self.micro_batch or most, most)

    def _halve(self, num_images: int, images_seen: int, what: str) -> None:
        """Undo what a pass did, and take parts of half the size from now on."""
        before = self._images_at_a_time(num_images)
        least = cutting.least_part(self.network)
        if self._exchange is None:
            after = cutting.smaller(num_images, before, least)
        else:
            after = self._exchange.smaller(before, least)
        if after is None:
            needed = "one image" if least == 1 else "two images, as BatchNorm needs,"
            raise checks.invalid(
                "fit", "the memory", f"enough for {needed} at a time", "less",
                "Choose a smaller model or image_size, or set memory.limit.",
            )  # fmt: skip
        self._statistics.restore()
        self._gradients.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self.micro_batch = after
        exception = memory.not_alike(self.network)
        self.warn(
            f"{what} at image {images_seen} with {before} images at a time: the step is "
            f"done again, and the run goes on, with {self.micro_batch} (memory.micro_batch); "
            + (f"{exception}, all else is equal within rounding" if exception else "the result is "
            "equal within rounding")
        )  # fmt: skip

    def _differentiate(
        self, images: Tensor, targets: Any, images_seen: int
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward over the batch: its loss [] and the outputs, both detached."""
        if self._exchange is not None:
            run_pass = partial(self._pass, images_seen)
            return self._exchange.differentiate(run_pass, images, targets, self.micro_batch)
        num_images = len(images)
        part_images = self.micro_batch or num_images
        if part_images >= num_images:
            return self._pass(images_seen, images, targets, None)
        whole = num_targets(self._loss, targets)
        losses, outputs = [], []
        for part in cutting.cut(num_images, part_images):
            some = tree_map(lambda tensor, part=part: tensor[part], targets)
            counts = num_targets(self._loss, some), whole
            loss, output = self._pass(images_seen + part.start, images[part], some, counts)
            losses.append(loss)
            outputs.append(output)
        return torch.stack(losses).sum(), torch.cat(outputs)

    def _pass(
        self,
        images_seen: int,
        images: Tensor,
        targets: Any,
        counts: tuple[int | Tensor, int | Tensor] | None,
        place: int = 0,
    ) -> tuple[Tensor, Tensor]:
        random.seed_torch(self._seed, "step", images_seen, place)
        with self._autocast(), self._keeping():
            try:
                outputs = self._module()(images)
            except ValueError as error:
                if (sentence := memory.explained(error, len(images))) is None:
                    raise
                raise sentence from error
            _check_outputs(outputs)
            loss = self._loss(outputs, targets)
        _check_loss(loss)
        if counts is not None:
            loss = weighted(loss, *counts)
        scaled = loss if self._scale is None else loss * self._scale.scale
        scaled.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), outputs.detach()

    def _keeping(self) -> AbstractContextManager[Any]:
        """Where what backward needs is kept."""
        if not self._offload:
            return NOTHING
        return torch.autograd.graph.save_on_cpu(pin_memory=self._device.type == "cuda")

    def _module(self) -> nn.Module:
        """What a forward pass calls: the network, or what shares it among ranks."""
        return self.network if self._exchange is None else self._exchange.module

    def kept(self, state: Mapping[str, Any]) -> nn.Module:
        """The model to be used, with the weights of a state: the average where there is one.

        The step cannot go on after it.
        """
        self.load_state_dict(state)
        for part in self.optimizers.averaging:
            part.eval()
        if self.ema and sharding.is_sharded(self.network):
            sharding.put_all(self.network, self.ema.state_dict())
            return self.network
        return self.ema.model if self.ema else self.network

    @contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """The model to be evaluated in the middle of training: the average where there is one."""
        if self.ema is None:
            yield self.network
        elif sharding.is_sharded(self.network):
            with self.ema.applied(self.network) as averaged:
                yield averaged
        else:
            yield self.ema.model

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on besides its batch and the count of images.

        The tensors themselves; where the model is sharded, pieces.
        """
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizers.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "loss_scale": self._scale.state_dict() if self._scale else None,
            "micro_batch": self.micro_batch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.micro_batch = state["micro_batch"]
        sharding.load_module(self.network, state["model"])
        self.optimizers.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.load_state_dict(sharding.all_like(self.ema.state_dict(), state["ema"]))
        if self._scale:
            self._scale.load_state_dict(state["loss_scale"])


def _moved(targets: Any, device: torch.device) -> Any:
    if isinstance(targets, Tensor):
        return targets.to(device, non_blocking=True)
    return tree_map(lambda tensor: tensor.to(device, non_blocking=True), targets)


def _check_outputs(outputs: Any) -> None:
    if not isinstance(outputs, Tensor):
        raise checks.invalid_type(
            "fit", "what the model returns", "one tensor", type(outputs).__name__,
            "Return the logits alone; a wrapping module can choose them.",
        )  # fmt: skip


def _check_loss(loss: Any) -> None:
    """Raise TypeError, ValueError where a loss of the caller's cannot be minimised."""
    what, fix = "what the loss returns", "Return the mean over the batch, a tensor [] of torch's."
    if not isinstance(loss, Tensor):
        raise checks.invalid_type("fit", what, "a tensor []", type(loss).__name__, fix)
    if loss.dim():
        raise checks.invalid("fit", what, "a tensor []", list(loss.shape), fix)
    if not loss.requires_grad:
        raise checks.invalid(
            "fit", what, "one that depends on what learns", "a loss without a gradient",
            "Compute it from the outputs, without detach, item or no_grad; something must learn.",
        )  # fmt: skip
