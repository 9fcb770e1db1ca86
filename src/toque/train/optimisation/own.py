"""Optimisers and learning rates for a loop of your own, by the words of a run's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from toque import checks
from toque.models.parameters import Rule
from toque.train.optimisation.optimise import assemble, resolve_optimizer
from toque.train.optimisation.optimizers import Optimizers
from toque.train.optimisation.schedule import Schedule, curve
from toque.train.run import Run
from toque.train.settings.optimisation import OptimizerSettings

_Made = TypeVar("_Made")

_OF_FIT = ("sam", "for_batch_size")  # what the step of a run does besides, or its batch size


def create_optimizer(
    model: nn.Module,
    settings: Mapping[str, Any],
    rules: Sequence[Rule] = (),
    *,
    others: Mapping[str, Mapping[str, Any]] | None = None,
) -> Optimizers:
    """The optimiser of a model's parameters by name, with groups by rules; as `toque.fit` has it.

    What it gives has `set_learning_rate(rate)`, which every group multiplies by its `lr_scale`,
    `zero_grad()`, `step()`, `state_dict()` and `load_state_dict(state)`; `parts` are torch's own
    optimisers by name, fused where torch can. Weight decay leaves out biases and normalisation.
    Muon leaves what is no hidden matrix to AdamW.

    Args:    settings: as [optimizer] of run.toml: name, learning_rate, and arguments of the class
             rules: of `toque.models.parameters`; frozen parameters are left out
             others: settings of further optimisers, by the names that rules give to parameters
    Raises:  ValueError: an unknown name or argument (the nearest is suggested), no learning_rate, a
             rule that matches nothing or names no optimiser, nothing that learns
    Example: >>> optimizer = create_optimizer(
             ...     model, {"name": "adamw", "learning_rate": 1e-3}, [Rule("head.*", lr_scale=10)]
             ... )
             >>> optimizer.zero_grad(); loss.backward(); optimizer.step()
    """
    where = "create_optimizer"
    checks.require_module(where, model)
    chosen = {"default": settings, **(others or {})}
    made = {name: _resolved(where, given) for name, given in chosen.items()}
    for rule in rules:
        if rule.optimizer is not None and rule.optimizer not in made:
            raise checks.invalid(
                where, f"the optimizer of rule {rule}", "a name among others", rule.optimizer,
                checks.nearest(rule.optimizer, made),
            )  # fmt: skip
    device = next(model.parameters()).device
    optimizer = _in_words(where, lambda: assemble(model, made, rules, device))
    peak = made["default"].learning_rate
    assert peak is not None, "refused by _resolved"
    optimizer.set_learning_rate(peak)
    return optimizer


def create_schedule(
    settings: Mapping[str, Any],
    *,
    learning_rate: float,
    total_images: int,
    batch_size: int,
    epochs: float | None = None,
) -> Schedule:
    """The learning rate as a function of images seen: a warm-up, then a named shape.

    Nothing is counted inside: after a restart the same images have the same rate.

    Args:    settings: as [schedule] of run.toml: name (cosine, linear, constant, step, one_cycle,
             trapezoid, polynomial), warmup_fraction, final_fraction, ...
             learning_rate: the highest
             total_images: images of the whole training
             batch_size: images in a step: the first one learns at more than 0
             epochs: of the whole training; for "step", which falls every so many
    Raises:  ValueError: an unknown name or setting (the nearest is suggested), a count below 1
    Example: >>> rate = create_schedule({"name": "cosine"}, learning_rate=1e-3,
             ...                        total_images=100_000, batch_size=64)
             >>> optimizer.set_learning_rate(rate(images_seen))
    """
    where = "create_schedule"
    for argument, value in (
        ("learning_rate", learning_rate),
        ("total_images", total_images),
        ("batch_size", batch_size),
    ):
        if not value > 0:
            raise checks.invalid(where, argument, "> 0", value, "Raise it.")
    chosen = _in_words(where, lambda: Run(schedule=dict(settings)).schedule)
    if chosen.name == "step" and not (epochs is not None and epochs > 0):
        raise checks.invalid(
            where, "epochs", "> 0 for step", epochs, "Say how many epochs total_images are."
        )
    return curve(
        chosen, learning_rate, total_images=total_images, batch_size=batch_size,
        epochs=1.0 if epochs is None else epochs,
    )  # fmt: skip


def _resolved(where: str, given: Mapping[str, Any]) -> OptimizerSettings:
    """Settings whose every argument the class takes."""
    for setting in _OF_FIT:
        if given.get(setting):
            raise checks.invalid(
                where, setting, "left out: it belongs to a run", given[setting], "Leave it out."
            )
    if given.get("learning_rate") is None:
        raise checks.invalid(
            where, "learning_rate", "given", "none", "0.001 is usual, with sgd 0.1 per 256 images."
        )
    # The default rate alone would depend on batches and images.
    return _in_words(
        where,
        lambda: resolve_optimizer(Run(optimizer=dict(given)).optimizer, batch_size=1, image_size=1),
    )


def _in_words(where: str, make: Callable[[], _Made]) -> _Made:
    """What `make` gives; its errors name this function in place of a file of settings."""
    try:
        return make()
    except checks.InvalidValue as error:
        place, colon, rest = str(error).partition(": ")
        known = place in ("Run", "run.toml") or place.endswith("]")
        raise checks.InvalidValue(f"{where}: {rest}" if colon and known else str(error)) from None
