"""The most bytes that a step of a run holds, by running it on fake tensors.

Everything that a step keeps is made as the run makes it (its optimisers, its average, the copies of
its statistics, its loss, its precision) on tensors that have shapes and lifetimes but no bytes.
What is not seen: what a kernel takes for itself and gives back, the images that wait in the host's
memory to be trained on, Python and PyTorch themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from operator import itemgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._pytree import tree_map_only

from toque import layers
from toque.layers import checkpointing
from toque.models.ema import EMA
from toque.models.memory import Live, squares
from toque.train.optimisation import optimise
from toque.train.optimisation.optimizers import Optimizers
from toque.train.run import Run
from toque.train.settings.optimisation import OptimizerSettings
from toque.train.steps import cutting
from toque.train.steps.sharpness import Ascent
from toque.train.steps.statistics import Statistics
from toque.train.tasks.task import Loss

Keeping = Literal["all", "recompute", "checkpoint"]
"""What is kept for backward: all of it; what `layers.save_memory` keeps; the inputs of blocks."""

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Example:
    """A batch of any size, as the run's own are: [n, ...] of images and of each target."""

    images: Tensor
    targets: Any

    def of(self, num_images: int) -> tuple[Tensor, Any]:
        """So many images and targets, empty."""

        def more(tensor: Tensor) -> Tensor:
            return torch.empty(num_images, *tensor.shape[1:], dtype=tensor.dtype)

        return more(self.images), tree_map_only(Tensor, more, self.targets)


class Prediction:
    """Predicts the peak of a step for any size of its parts; the network is left as it is.

    Args:    network: as the run trains it, not yet compiled
             precision: the resolved name
             loss: (outputs, targets) -> mean
             example: two images as the run will see them
             num_images: of this rank in a step
             waiting: batches that lie on the device beside the one that is trained on
    Raises:  (peak) whatever the network raises on fake tensors
    """

    def __init__(
        self,
        network: nn.Module,
        run: Run,
        precision: str,
        loss: Loss,
        example: Example,
        num_images: int,
        waiting: int = 0,
    ) -> None:
        self._network, self._run, self._loss = network, run, loss
        self._waiting = waiting
        self._half = _HALF.get(precision)
        self._example, self._num_images = example, num_images
        self._exact = cache(self._simulated)
        self.blocks = cache(self._find_blocks)

    def peak(self, images: int, keeping: Keeping, offload: bool = False) -> int:
        """Bytes at the peak with so many images at a time.

        Parts are interpolated between the smallest and the largest that were run: the peak is the
        largest of sums that grow with the part, which never lies above a straight line.
        """
        whole = self._num_images
        if images >= whole:
            return self._exact(whole, keeping, offload)
        few, many = min(cutting.least_part(self._network), whole // 2), whole // 2
        low = self._exact(few, keeping, offload)
        if many <= few or images <= few:
            return low
        high = self._exact(many, keeping, offload)
        return round(low + (high - low) * (images - few) / (many - few))

    def _find_blocks(self) -> tuple[str, ...]:
        fake, network = self._copied()
        with fake, self._autocast():
            images = self._example.of(2)[0]
            return checkpointing.find_blocks(network, partial(network, images))

    def _simulated(self, images: int, keeping: Keeping, offload: bool) -> int:
        """The peak of a step that is not the first: the optimiser's state is there."""
        fake, network = self._copied()
        if keeping == "recompute":
            layers.save_memory(network)
        if keeping == "checkpoint":
            checkpointing.checkpoint_blocks(network, self.blocks())
        live = Live()
        live.add(*network.parameters(), *network.buffers())
        run = self._run
        with fake, live:
            made = _optimizers(run, network)
            kept: list[Any] = [Statistics(network)]
            if run.ema.half_life_epochs:
                kept.append(EMA(network, half_life_images=1.0))
            ascent = Ascent(made.parameters, run.optimizer.sam) if run.optimizer.sam else None
            if ascent is not None:
                kept.append(Statistics(network))
            batch = self._example.of(self._num_images)
            kept += [self._example.of(self._num_images) for _ in range(self._waiting)]
            self._differentiate(network, batch, images, offload)
            if ascent is not None:
                with ascent.climbed():
                    self._differentiate(network, batch, images, offload)
            for part in made.parts.values():
                part.step()
        return live.peak

    def _differentiate(
        self, network: nn.Module, batch: tuple[Tensor, Any], images: int, offload: bool
    ) -> None:
        inputs, targets = batch
        outputs = []
        for part in cutting.cut(self._num_images, images)[:2]:  # the second has all gradients
            with self._autocast(), _offloaded(offload):
                answer = network(inputs[part])
                some = tree_map_only(Tensor, itemgetter(part), targets)
                loss = self._value(answer, some)
            loss.backward()  # type: ignore[no-untyped-call]
            outputs.append(answer.detach() if isinstance(answer, Tensor) else None)

    def _value(self, answer: Any, targets: Any) -> Tensor:
        try:
            return self._loss(answer, targets)
        except Exception:  # a loss of the caller's that looks at numbers, which are not there
            return squares(answer)

    def _autocast(self) -> Any:
        return nullcontext() if self._half is None else torch.autocast("cpu", dtype=self._half)

    def _copied(self) -> tuple[FakeTensorMode, nn.Module]:
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with FakeCopyMode(fake):
            network = copy.deepcopy(self._network)
        with fake:
            _to_cpu(network)
        layers.keep_activations(network)
        checkpointing.keep_blocks(network)
        return fake, network.train()


def _to_cpu(network: nn.Module) -> None:
    """Move fake parameters and buffers, whose devices PyTorch will not swap."""
    moved: dict[int, Tensor] = {}

    def there(tensor: Tensor) -> Tensor:
        if id(tensor) not in moved:
            new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
            is_parameter = isinstance(tensor, nn.Parameter)
            moved[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if is_parameter else new
        return moved[id(tensor)]

    for module in network.modules():
        own: dict[str, Any]
        for own in (module._parameters, module._buffers):
            own |= {name: there(tensor) for name, tensor in own.items() if tensor is not None}


@contextmanager
def _offloaded(offload: bool) -> Iterator[None]:
    """What backward needs is elsewhere: fake tensors on "meta" that nobody counts."""
    if not offload:
        yield
        return
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (tensor.shape, tensor.stride(), tensor.dtype),
        lambda kept: torch.empty_strided(kept[0], kept[1], dtype=kept[2]),
    ):
        yield


def _optimizers(run: Run, network: nn.Module) -> Optimizers:
    """The run's own after a step, or AdamW where one cannot step on tensors without numbers."""
    cpu = torch.device("cpu")
    try:
        made = optimise.build(run, network, cpu)
        _begin(made)
    except Exception:
        settings = OptimizerSettings(name="adamw", learning_rate=1e-3)
        learning = [p for p in network.parameters() if p.requires_grad]
        made = Optimizers({"default": optimise.create(settings, [{"params": learning}], cpu)})
        _begin(made)
    return made


def _begin(made: Optimizers) -> None:
    for parameter in made.parameters:
        parameter.grad = torch.empty_like(parameter)
    for part in made.parts.values():
        part.step()
    for parameter in made.parameters:
        parameter.grad = None
