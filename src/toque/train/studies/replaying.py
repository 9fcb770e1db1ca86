"""One step of a run again, exactly: from the checkpoint before it, with its images looked at.

A step is a function of (settings, data, seed, state before it). The state comes from the newest
checkpoint before the step, or from the beginning where none is left; the steps between are run
again. Nothing is written into the run folder, and a run that is still going on may be replayed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from toque import augment, checks
from toque.data import Batch, OwnData
from toque.train import build, parts, prepare
from toque.train.distributed import ALONE, preparing
from toque.train.measure import Loss
from toque.train.prepare import Own, OwnModel
from toque.train.run import Run
from toque.train.run_folder import environment, folder
from toque.train.run_folder.inventory import Inventory
from toque.train.state import checkpoint
from toque.train.steps.precision import Precision
from toque.train.steps.step import Outcome
from toque.train.studies.trial import Trial, built


@dataclass(frozen=True)
class Replayed:
    """What happened in one step.

    Shape letters: B images in the batch.

    step:          its number; the first step of a run is 1
    images_seen:   before it; the state was that of `began_images`, and the steps between were run
    learning_rate: of this step
    loss:          mean over the batch's targets, as the run computed it
    gradient_norm: of all gradients together, before they were clipped
    skipped:       whether the step changed nothing because a number was not finite
    not_finite:    parameters whose gradients hold such numbers
    images:        [B, C, h, w] as the model saw them, normalised by `mean` and `std`
    names:         [B]; indices [B] in the source, epoch [B]
    targets:       [B, ...] as the loss saw them; outputs [B, ...] of the model
    losses:        [B] of each image by itself; empty where the loss does not take one image
    exact:         whether the weights after it are those of the checkpoint at this place, bit for
                   bit; None where there is none
    notes:         why it may not be exact, if anything is known
    """

    step: int
    images_seen: int
    began_images: int
    learning_rate: float
    loss: float
    gradient_norm: float
    skipped: bool
    not_finite: tuple[str, ...]
    images: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...]
    indices: np.ndarray
    epoch: np.ndarray
    targets: Tensor
    outputs: Tensor
    losses: tuple[float, ...]
    classes: tuple[str, ...]
    exact: bool | None
    notes: tuple[str, ...]


def replay(
    path: str | Path,
    *,
    step: int | None = None,
    images: int | None = None,
    train: OwnData | None = None,
    val: OwnData | None = None,
    model: OwnModel | None = None,
    loss: Loss | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Replayed:
    """Run one step of a run again: the same images, draws, weights and bits.

    Args:    path: the run folder; it is only read
             step: the number of the step, from 1
             images: or the count of images seen after it, as a message of `fit` names it
             train, val, model, loss: the caller's own, as they were given to `fit`
             say: told how many steps are run before the one asked for
    Raises:  FileNotFoundError: no run folder
             ValueError: no such step, other data or settings than the run began with, a run on the
             caller's own data or model without it
    Example: >>> step = replay("runs/flowers", step=120)
             >>> step.loss, step.names[int(np.argmax(step.losses))]
    """
    path = Path(path)
    own = Own(train, val, model, loss)
    run, began = folder.read_run(path)
    _check_own(run, own)
    splits = prepare.open_splits(run, own)
    precision = Precision(run.precision, build.device(run.device))
    fingerprint = preparing.fingerprint(run, ALONE, precision)
    inventory = Inventory(splits)
    folder.refuse_other(path, run, prepare.record(splits, fingerprint), inventory)
    total_steps = parts.total_images(run, splits) // run.batch_size
    number = _number(step, images, run.batch_size, total_steps)
    start = (number - 1) * run.batch_size

    task = prepare.task_of(splits, own)
    with built(run, splits, own, task, precision) as tried:
        state, notes = _newest_before(path / "checkpoints", start)
        if state is not None:
            tried.step.load_state_dict(state)
        elif isinstance(model, nn.Module):
            raise checks.invalid(
                "replay", "step", f"{_left(path, run)}, for a module built before the run", number,
                "Give fit a function that builds the model: then every step can be replayed.",
            )  # fmt: skip
        before = {key: began.get(key, "not known") for key in fingerprint}
        if rewritten := inventory.rewritten(path):
            notes.append(rewritten)
        notes += environment.differences(state["environment"] if state else before, fingerprint)
        began_images = state["images_seen"] if state else 0
        factor = state["nonfinite"]["rate_factor"] if state else 1.0
        say(_told(number - began_images // run.batch_size, began_images, state is None, path, run))
        batch, outcome, watch = _run_again(tried, began_images, start, factor)
        losses = _each_loss(tried.loss, outcome.outputs, outcome.targets, precision)
    mean, std = _normalisation(build.pipelines(run, splits, task)[0])
    return Replayed(
        step=number,
        images_seen=start,
        began_images=began_images,
        learning_rate=factor * tried.rate(start),
        loss=float(outcome.loss),
        gradient_norm=watch.norm(),
        skipped=bool(outcome.skipped),
        not_finite=watch.not_finite(),
        images=torch.cat(watch.seen)[: len(batch)].cpu(),
        mean=mean,
        std=std,
        names=tuple(splits.train.name(int(index)) for index in batch.indices),
        indices=batch.indices,
        epoch=batch.epoch,
        targets=batch.targets.cpu(),
        outputs=outcome.outputs,
        losses=losses,
        classes=splits.classes,
        exact=_equals_checkpoint(path / "checkpoints", start + run.batch_size, tried.network),
        notes=tuple(notes),
    )


def _run_again(
    tried: Trial, images_seen: int, start: int, factor: float
) -> tuple[Batch, Outcome, _Watch]:
    """Run the steps from a count of images on, up to and with the one at `start`: its batch, what
    came of it, and what was watched in it.

    Args: factor: that the run's own answer to numbers which are none had left of the rate
    """
    watch = None
    with contextlib.ExitStack() as end:
        batches = tried.batches(images_seen, start + tried.run.batch_size)
        end.enter_context(contextlib.closing(batches))
        for batch in batches:
            if images_seen == start:
                scale = tried.step.state_dict()["loss_scale"]
                watch = end.enter_context(_watched(tried.network, scale))
            outcome = tried.step(batch, images_seen, factor * tried.rate(images_seen))
            images_seen += len(batch)
    assert watch is not None, "the last batch is the one asked for"
    return batch, outcome, watch


def _check_own(run: Run, own: Own) -> None:
    model = run.model or ""
    for argument, needed, given in (
        ("train", run.data == prepare.OWN, own.train is not None),
        ("model", model.startswith(f"{prepare.OWN}:"), own.model is not None),
    ):
        if needed != given:
            raise checks.invalid(
                "replay", argument, "what the run was given" if needed else "left out",
                "none" if needed else "one",
                "In Python: toque.train.replay(run, step=…, train=…, model=…, as given to fit)."
                if needed else "The run names its own.",
            )  # fmt: skip


def _number(step: int | None, images: int | None, batch_size: int, total_steps: int) -> int:
    if (step is None) == (images is None):
        raise checks.invalid(
            "replay", "step, images", "one of the two", "both" if step is not None else "neither",
            "As in --step 120, or --images 7680 as an error message has it.",
        )  # fmt: skip
    number = step if step is not None else -(-(images or 0) // batch_size)
    if not 1 <= number <= total_steps:
        raise checks.invalid(
            "replay", "step", f"1 .. {total_steps}", number,
            f"A step has {batch_size} images; the first is 1.",
        )  # fmt: skip
    return number


def _left(path: Path, run: Run) -> str:
    """Which steps a checkpoint that is left comes before."""
    found = checkpoint.found(path / "checkpoints")
    if not found:
        return "after a checkpoint, of which none is left"
    return (
        f"{found[0].images_seen // run.batch_size + 1} or later, after the oldest checkpoint left"
    )


def _told(steps: int, images: int, anew: bool, path: Path, run: Run) -> str:
    """How many steps are run, and why so many."""
    if steps == 1:
        return "one step, from the checkpoint just before it"
    found = checkpoint.found(path / "checkpoints")
    if not anew:
        return f"{steps} steps, from the checkpoint at image {images}"
    oldest = f"; the oldest left is at image {found[0].images_seen}" if found else ""
    return (
        f"{steps} steps, from the beginning: no checkpoint before it was kept{oldest} "
        f"(checkpoint.keep = {run.checkpoint.keep})"
    )


def _newest_before(checkpoints: Path, images: int) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole state of at most so many images, and what was wrong with newer ones."""
    notes: list[str] = []
    for one in reversed(checkpoint.found(checkpoints)):
        if one.images_seen <= images:
            try:
                return checkpoint.load(one.path), notes
            except checkpoint.DamagedCheckpoint as damage:
                notes.append(str(damage))
    return None, notes


def _equals_checkpoint(checkpoints: Path, images: int, network: nn.Module) -> bool | None:
    for one in checkpoint.found(checkpoints):
        if one.images_seen == images:
            try:
                saved = checkpoint.load(one.path)["model"]
            except checkpoint.DamagedCheckpoint:
                return None
            now = network.state_dict()
            return all(torch.equal(now[name].cpu(), saved[name]) for name in saved)
    return None


def _normalisation(
    pipeline: augment.Compose | None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for transform in pipeline.transforms if pipeline is not None else ():
        if isinstance(transform, augment.Normalize):
            return tuple(transform.mean), tuple(transform.std)
    return (0.0,), (1.0,)


class _Watch:
    """What goes into the network, and the gradients as backward leaves them: not yet unscaled,
    checked or clipped.
    """

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._norms: dict[str, Tensor] = {}
        self.seen: list[Tensor] = []

    def note_images(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.seen.append(inputs[0].detach())

    def note_gradient(self, name: str, parameter: Tensor) -> None:
        """Called after each part of the batch: what counts is the last, which has the sum."""
        assert parameter.grad is not None
        self._norms[name] = torch.linalg.vector_norm(parameter.grad.detach(), dtype=torch.float64)

    def norm(self) -> float:
        norms = list(self._norms.values())
        return float(torch.stack(norms).norm()) / self._scale if norms else 0.0

    def not_finite(self) -> tuple[str, ...]:
        return tuple(name for name, norm in self._norms.items() if not bool(norm.isfinite()))


@contextlib.contextmanager
def _watched(network: nn.Module, loss_scale: Mapping[str, Tensor] | None) -> Iterator[_Watch]:
    watch = _Watch(float(loss_scale["scale"]) if loss_scale else 1.0)
    handles = [network.register_forward_pre_hook(watch.note_images)]
    handles += [
        parameter.register_post_accumulate_grad_hook(partial(watch.note_gradient, name))  # type: ignore[no-untyped-call]
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _each_loss(
    loss: Loss, outputs: Tensor, targets: Any, precision: Precision
) -> tuple[float, ...]:
    """The loss of each image by itself; nothing where the loss needs the batch."""
    values = []
    with precision.autocast():
        for number in range(len(outputs)):
            one = slice(number, number + 1)
            try:
                own = tree_map(lambda tensor, one=one: tensor[one], targets)
                values.append(float(loss(outputs[one], own)))
            except (RuntimeError, ValueError, IndexError):
                return ()
    return tuple(values)
