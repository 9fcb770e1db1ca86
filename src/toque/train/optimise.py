"""The optimiser by name and settings, and schedules that are functions of images seen."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from toque import checks
from toque.models import parameters
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


def build(settings: OptimizerSettings, model: nn.Module) -> Optimizers:
    """The optimisers of a model's parameters.

    Raises: ValueError: no parameter to train, or a setting that the optimiser refuses
    """
    groups = parameters.groups(model, weight_decay=settings.weight_decay)
    return Optimizers({"default": create(settings, groups)})


def create(settings: OptimizerSettings, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser over parameter groups, with the arguments that `resolve_optimizer` checked.

    A group may carry `lr_scale`; torch's optimisers ignore it, so `Optimizers` multiplies it in.
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


class Optimizers:
    """One or several optimisers, each for its own parameters, stepped as one.

    Args: parts: by name; "default" is the one whose rate the schedule gives
    """

    def __init__(self, parts: Mapping[str, torch.optim.Optimizer]) -> None:
        self.parts = dict(parts)
        self._groups = [group for part in self.parts.values() for group in part.param_groups]
        # These skip a step by themselves when a flag on the device says so, as under GradScaler.
        self._skipping = all(
            getattr(part, "_step_supports_amp_scaling", False) for part in self.parts.values()
        )

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self._groups for parameter in group["params"]]

    def set_learning_rate(self, rate: float) -> None:
        """Give every group the rate, times the group's own `lr_scale`."""
        for group in self._groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)

    def step(self, bad: torch.Tensor) -> None:
        """Change the parameters, unless `bad` (float32 [], 1 or 0) says that nothing may change.

        Nothing waits for a GPU if every optimiser is fused; else `bad` is read.
        """
        if self._reads(bad):
            if bad.item() == 0:
                for part in self.parts.values():
                    part.step()
            return
        for part in self.parts.values():
            flagged: Any = part
            flagged.found_inf, flagged.grad_scale = bad, None
            part.step()
            del flagged.found_inf, flagged.grad_scale

    def _reads(self, bad: torch.Tensor) -> bool:
        """Whether the flag is read here: where that is free, or where nothing else is right."""
        # The first step allocates the state, which a flagged SGD would leave uninitialised.
        begun = all(part.state for part in self.parts.values())
        return bad.device.type == "cpu" or not self._skipping or not begun

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self._groups = [group for part in self.parts.values() for group in part.param_groups]


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
