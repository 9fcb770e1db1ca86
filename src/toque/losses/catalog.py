"""name -> loss: toque's own, any torch.nn loss, any callable."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from toque import checks
from toque.losses import (
    contrastive,
    focusing,
    linear,
    metric,
    mixed,
    overlap,
    regression,
    upsampled,
)
from toque.losses.cross_entropy import cross_entropy

LossFunction = Callable[..., Tensor]

_Maker = Callable[..., Any]  # a function, a class or a module

FUNCTIONS: dict[str, LossFunction] = {
    function.__name__: function
    for function in (
        cross_entropy,
        focusing.focal,
        focusing.sigmoid_focal,
        focusing.asymmetric,
        overlap.dice,
        overlap.generalised_dice,
        overlap.tversky,
        overlap.lovasz,
        upsampled.upsample_cross_entropy,
        mixed.mixup_cross_entropy,
        linear.linear_cross_entropy,
        contrastive.contrastive_loss,
        regression.huber,
        regression.quantile,
        regression.giou,
        regression.ciou,
        metric.supervised_contrastive,
        metric.triplet,
        metric.distillation,
    )
}
"""Losses that are functions of (predictions, targets) and settings."""

MODULES: dict[str, Callable[..., nn.Module]] = {
    "arcface": metric.ArcFace,
    "uncertainty_weights": metric.UncertaintyWeights,
}
"""Losses that have parameters of their own: the optimizer must be given these too."""


class Loss(nn.Module):
    """A loss function with its settings: called with predictions and targets.

    Tensors among the settings are buffers, so `.to(device)` moves them with the module.

    Args:    function: called as function(predictions, targets, **settings)
             settings: keyword arguments of the function
    Raises:  ValueError: a setting the function does not have
    Example: >>> Loss(cross_entropy, {"label_smoothing": 0.1})
             Loss(cross_entropy, label_smoothing=0.1)
    """

    def __init__(self, function: LossFunction, settings: Mapping[str, object] | None = None):
        super().__init__()
        self.function = function
        self.settings: dict[str, object] = {}
        known = _settings_of(function)
        for name, value in (settings or {}).items():
            if known is not None and name not in known:
                raise checks.invalid(
                    f"losses.{_name(function)}", "setting", "one of its arguments", name,
                    checks.nearest(name, known),
                )  # fmt: skip
            if isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                self.settings[name] = value

    def forward(self, predictions: Tensor, *targets: Tensor) -> Tensor:
        settings = {**self.settings, **self._buffers} if self._buffers else self.settings
        return self.function(predictions, *targets, **settings)

    def extra_repr(self) -> str:
        settings = {**self.settings, **dict(self.named_buffers())}
        return ", ".join([_name(self.function), *(f"{k}={v}" for k, v in settings.items())])


def create(
    name: str | LossFunction,
    settings: Mapping[str, object] | None = None,
    *,
    label_smoothing: float = 0.0,
) -> nn.Module:
    """The loss of that name, ready to be called with predictions and targets.

    Args:    name: one of `names()`; the class name of a torch.nn loss ("MSELoss"); a path to a
             function, "package.module:function"; or a callable itself
             settings: arguments of the loss
             label_smoothing: as a setting, for the losses that have it
    Raises:  ValueError: unknown name, unknown setting, smoothing for a loss that has none
    Example: >>> loss = create("cross_entropy", label_smoothing=0.1)
             >>> loss(torch.randn(8, 10), torch.randint(10, [8])).backward()
    """
    chosen = dict(settings or {})
    made, known = _find(name)
    if label_smoothing:
        if known is not None and "label_smoothing" not in known:
            raise checks.invalid(
                "losses.create", "label_smoothing", f"0 for {_name(name)}", label_smoothing,
                "It has no smoothing: leave the setting out.",
            )  # fmt: skip
        chosen.setdefault("label_smoothing", label_smoothing)
    if isinstance(made, type):
        unknown = [setting for setting in chosen if known is not None and setting not in known]
        if unknown:
            raise checks.invalid(
                f"losses.{_name(made)}", "setting", "one of its arguments", unknown[0],
                checks.nearest(unknown[0], known or ()),
            )  # fmt: skip
        module: nn.Module = made(**chosen)
        return module
    if isinstance(made, nn.Module):
        if chosen:
            raise checks.invalid(
                "losses.create", "settings", "left out for a module", sorted(chosen),
                "Give them to the module's own constructor.",
            )  # fmt: skip
        return made
    return Loss(made, chosen)


def names() -> list[str]:
    """toque's own losses, sorted; torch.nn's class names work too."""
    return sorted([*FUNCTIONS, *MODULES])


def arguments(name: str) -> set[str] | None:
    """The settings of the loss of that name; None where it takes any.

    Raises: ValueError: unknown name
    """
    return _find(name)[1]


def _find(name: str | LossFunction) -> tuple[_Maker, set[str] | None]:
    """The function, class or module of that name, and the settings it has (None: any)."""
    if not isinstance(name, str):
        return name, None if isinstance(name, nn.Module) else _settings_of(name)
    if name in FUNCTIONS:
        return FUNCTIONS[name], _settings_of(FUNCTIONS[name])
    if name in MODULES:
        return MODULES[name], _settings_of(MODULES[name], first=0)
    if ":" in name:
        found = _imported(name)
        return found, _settings_of(found, first=0 if isinstance(found, type) else 2)
    bare = name.removeprefix("torch.").removeprefix("nn.")
    listed: object = getattr(nn, bare, None)
    if isinstance(listed, type) and bare.endswith("Loss"):
        return listed, _settings_of(listed, first=0)
    known = [*names(), *(loss for loss in dir(nn) if loss.endswith("Loss"))]
    raise checks.invalid("losses.create", "name", "a known loss", name, checks.nearest(name, known))


def _imported(path: str) -> LossFunction:
    module_name, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise checks.invalid(
            "losses.create", "name", "importable as package.module:function", path,
            f"{type(error).__name__}: {error}.",
        ) from error  # fmt: skip
    if not callable(found):
        raise checks.invalid_type(
            "losses.create", "name", "a callable", type(found).__name__, "Name a function."
        )
    function: LossFunction = found
    return function


def _settings_of(function: Callable[..., object], first: int = 2) -> set[str] | None:
    """Names of the arguments after the first ones, or None when it takes any."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters[first:]}


def _name(function: object) -> str:
    return str(
        getattr(
            function, "__name__", function if isinstance(function, str) else type(function).__name__
        )
    )
