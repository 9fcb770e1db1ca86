"""The step of `toque.fit` for a loop of your own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from toque import checks
from toque.models.ema import EMA
from toque.train.optimisation.optimizers import Optimizers
from toque.train.settings.optimisation import ClipSettings
from toque.train.steps.precision import Precision
from toque.train.steps.step import Step

_PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def create_step(
    model: nn.Module,
    loss: Callable[[Tensor, Any], Tensor],
    optimizer: Optimizers | torch.optim.Optimizer,
    *,
    seed: int,
    micro_batch: int | None = None,
    precision: str = "auto",
    clip_norm: float | None = None,
    ema: EMA | None = None,
) -> Step:
    """From a batch to changed weights, the same step that `toque.fit` takes.

    Called as `step(batch, images_seen, learning_rate)`, with a `toque.data.Batch` of the count of
    images before it. It reseeds torch from (seed, images_seen), for dropout; goes through the batch
    in parts, each weighed by its share of the targets that count; halves the parts where memory
    runs out, and says so as a warning; changes nothing where the loss or a gradient is no finite
    number; clips, steps and averages.

    It gives `.loss` [], the mean over the batch's targets; `.skipped` [], 1 where nothing was
    changed; `.outputs` [B, ...] and `.targets`, all on the device. Nothing waits for a GPU. What
    the next step depends on is in `state_dict()`: weights, optimiser, average, loss scale, parts.
    `with step.evaluated() as model` is what to evaluate: the average where there is one.

    On one device. Call `model.train()` before it where you had called `eval()`.

    Args:    model: gives one tensor [B, ...] for images [B, C, H, W]
             loss: (outputs, targets) -> [], the mean over the targets that count; one of your own
             that leaves some out says how many count by `loss.num_targets(targets)`
             optimizer: of `create_optimizer`, or torch's; the step sets its learning rate
             seed: of what torch draws itself
             micro_batch: images at a time (gradient accumulation); None: the whole batch
             precision: auto, float32, bfloat16 or float16; auto is bfloat16 on a GPU that has it
             clip_norm: the length that the gradients are cut to
             ema: an average of this model to bring every step into
    Raises:  ValueError: a number out of range, an unknown precision, rates that differ by groups
             without lr_scale, a model that is wrapped for several ranks
    Example: >>> step = create_step(model, loss, optimizer, seed=0, micro_batch=16)
             >>> outcome = step(batch, images_seen, rate(images_seen))
    """
    where = "create_step"
    checks.require_module(where, model)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise checks.invalid(
            where, "model", "on one device", "DistributedDataParallel",
            "Train on several with toque.fit, or step the optimizer yourself.",
        )  # fmt: skip
    if precision not in _PRECISIONS:
        raise checks.invalid(
            where, "precision", f"one of {', '.join(_PRECISIONS)}", precision,
            checks.nearest(str(precision), _PRECISIONS),
        )  # fmt: skip
    for argument, value, least in (("micro_batch", micro_batch, 1), ("clip_norm", clip_norm, 0)):
        if value is not None and not (value >= least and value > 0):
            raise checks.invalid(where, argument, "> 0", value, "Leave it out for none.")
    device = next(model.parameters()).device
    step = Step(
        model,
        loss,
        optimizer if isinstance(optimizer, Optimizers) else _own(where, optimizer),
        seed=seed,
        precision=Precision(precision, device),
        micro_batch=micro_batch,
        clip=ClipSettings(norm=clip_norm),
        ema=ema,
    )
    step.warn = lambda sentence: warnings.warn(sentence, stacklevel=2)
    return step


def _own(where: str, optimizer: torch.optim.Optimizer) -> Optimizers:
    """One of torch's, whose groups follow one learning rate."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise checks.invalid_type(
            where, "optimizer", "of create_optimizer or of torch.optim", type(optimizer).__name__,
            "Give toque.train.create_optimizer(model, {...}).",
        )  # fmt: skip
    rates = {float(group["lr"]) for group in optimizer.param_groups if "lr_scale" not in group}
    if len(rates) > 1:
        raise checks.invalid(
            where, "the groups of the optimizer", "of one rate, or with an lr_scale each",
            sorted(rates), 'Give a group that learns ten times faster {"lr_scale": 10}.',
        )  # fmt: skip
    return Optimizers({"default": optimizer})
