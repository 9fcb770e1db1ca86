"""The optimiser by name and settings, and schedules that are functions of images seen."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from toque import checks
from toque.train.run import OptimizerSettings, Run

Schedule = Callable[[int], float]


SMALL_IMAGE_PX = 64


def default_learning_rate(name: str, batch_size: int, image_size: int) -> float:
    """0.001 for optimisers that normalise their step; for sgd 0.1 per 256 images, or per 64 images
    of up to 64 pixels.

    Small networks on small images bear and gain by the higher rate (bundled images: 91 % against
    90 %), a ResNet-18 on a few hundred photos does not (flowers: 49 % against 59 %).

    Source: the linear scaling rule, Goyal 2017, arXiv:1706.02677, section 2.1
    """
    if name.lower() != "sgd":
        return 1e-3
    return 0.1 * batch_size / (64 if image_size <= SMALL_IMAGE_PX else 256)


def resolve_optimizer(
    settings: OptimizerSettings, batch_size: int, image_size: int
) -> OptimizerSettings:
    """The settings with every default filled in, checked against the class's own arguments.

    Raises: ValueError: no such class in torch.optim, or an argument that it does not take
    """
    kind = _class(settings.name)
    filled = settings.model_dump()
    if settings.learning_rate is None:
        filled["learning_rate"] = default_learning_rate(settings.name, batch_size, image_size)
    if settings.name.lower() == "sgd":
        filled.setdefault("momentum", 0.9)
        filled.setdefault("nesterov", filled["momentum"] > 0)
    known = set(inspect.signature(kind).parameters) - {"params", "lr"}
    for argument in settings.model_extra or {}:
        if argument not in known:
            raise checks.InvalidValue(
                f"run.toml [optimizer]: {argument} is not a setting of {kind.__name__}. "
                f"{checks.nearest(argument, known | {'learning_rate'})}"
            )
    return OptimizerSettings(**filled)


def create(settings: OptimizerSettings, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser over parameter groups, with the arguments that `resolve_optimizer` checked.

    A group may carry `lr_scale`; torch's optimisers ignore it, so `set_learning_rate` multiplies it
    in.
    Raises: ValueError: the class refuses a value (its own words are quoted)
    """
    kind = _class(settings.name)
    arguments = dict(settings.model_extra or {})
    if "weight_decay" in inspect.signature(kind).parameters:
        arguments["weight_decay"] = settings.weight_decay
    if "betas" in arguments:
        arguments["betas"] = tuple(arguments["betas"])
    try:
        return kind(groups, lr=settings.learning_rate, **arguments)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise checks.InvalidValue(
            f"run.toml [optimizer]: {kind.__name__} refused its settings ({error}). "
            "Change or remove that setting."
        ) from error


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the rate, times the group's own `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def schedule(run: Run, total_images: int) -> Schedule:
    """The learning rate as a function of images seen: a linear warm-up, then the named decay.

    Args:    total_images: images of the whole run
    Example: >>> rate = schedule(run, total_images=100_000)
             >>> rate(0), rate(100_000)
    """
    peak = run.optimizer.learning_rate
    assert peak is not None, "resolve_optimizer fills it in"
    warmup = round(run.schedule.warmup_fraction * total_images)
    # The first step learns too: the rise begins one batch above 0.
    first = run.batch_size
    floor = run.schedule.final_fraction
    name = run.schedule.name
    decaying = max(1, total_images - warmup)

    def rate(images_seen: int) -> float:
        if images_seen < warmup:
            return peak * min(1.0, (images_seen + first) / (warmup + first))
        progress = min(1.0, (images_seen - warmup) / decaying)
        if name == "constant":
            return peak
        remaining = 1 - progress if name == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return peak * (floor + (1 - floor) * remaining)

    return rate


def _class(name: str) -> type[torch.optim.Optimizer]:
    known = {
        attribute.lower(): value
        for attribute, value in vars(torch.optim).items()
        if inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
    }
    if name.lower() not in known:
        raise checks.InvalidValue(
            f"run.toml [optimizer]: {name} is not an optimiser of torch.optim. "
            f"{checks.nearest(name.lower(), known)}"
        )
    return known[name.lower()]
