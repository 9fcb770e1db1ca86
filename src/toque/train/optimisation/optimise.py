"""The optimiser by name and settings, from torch or from a library that has it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from toque import checks
from toque.models import parameters
from toque.models.parameters import Rule
from toque.train.distributed import sharding
from toque.train.optimisation.optimizers import Optimizers
from toque.train.run import Run
from toque.train.settings.optimisation import OptimizerSettings

SMALL_IMAGE_PX = 64

PACKAGES = ("timm", "schedulefree", "pytorch_optimizer")
ELSEWHERE = {
    "lion": "timm/lion",
    "lamb": "timm/lamb",
    "madgrad": "timm/madgrad",
    "adopt": "timm/adopt",
    "soap": "pytorch_optimizer/soap",
    "adamw_schedule_free": "schedulefree/AdamWScheduleFree",
    "sgd_schedule_free": "schedulefree/SGDScheduleFree",
}
"""Short names; every other optimiser of these packages goes by "package/name"."""

_LINEAR = ("sgd", "sgd_schedule_free")


def default_learning_rate(name: str, batch_size: int, image_size: int) -> float:
    """0.001 for optimisers that normalise their step; for sgd 0.1 per 256 images, or per 64 images
    of up to 64 pixels.

    Small networks on small images bear and gain by the higher rate (bundled images: 91 % against
    90 %), a ResNet-18 on a few hundred photos does not (flowers: 49 % against 59 %).

    Source: the linear scaling rule, Goyal 2017, arXiv:1706.02677, section 2.1; Lion's tenth, Chen
            2023, arXiv:2302.06675, section 5
    """
    if name not in _LINEAR:
        return 1e-4 if name in ("lion", "timm/lion") else 1e-3
    return 0.1 * batch_size / (64 if image_size <= SMALL_IMAGE_PX else 256)


def resolve_optimizer(
    settings: OptimizerSettings, batch_size: int, image_size: int
) -> OptimizerSettings:
    """The settings with every default filled in, checked against the class's own arguments.

    Raises: ValueError: no such class in torch.optim, or an argument that it does not take
    """
    kind = _class(settings.name)
    filled = settings.model_dump()
    name = settings.name.lower()
    if settings.learning_rate is None:
        filled["learning_rate"] = default_learning_rate(name, batch_size, image_size)
    elif settings.for_batch_size is not None:
        ratio = batch_size / settings.for_batch_size
        filled["learning_rate"] *= ratio if name in _LINEAR else ratio**0.5
    # So that resolving what is resolved changes nothing.
    filled["for_batch_size"] = None if settings.for_batch_size is None else batch_size
    if name == "sgd":
        filled.setdefault("momentum", 0.9)
        filled.setdefault("nesterov", filled["momentum"] > 0)
    if name == "muon":
        # Steps as long as AdamW's, so that one rate suits both (Liu 2025, arXiv:2502.16982).
        filled.setdefault("adjust_lr_fn", "match_rms_adamw")
    known = set(inspect.signature(kind).parameters) - {"params", "lr", "kwargs"}
    for argument in settings.model_extra or {}:
        if argument not in known:
            meant = (
                "Did you mean learning_rate?"
                if argument == "lr"
                else checks.nearest(argument, known | {"learning_rate"})
            )
            raise checks.InvalidValue(
                f"run.toml [optimizer]: {argument} is not a setting of {kind.__name__}. {meant}"
            )
    return OptimizerSettings(**filled)


def resolve_rules(run: Run, image_size: int) -> list[dict[str, Any]]:
    """The rules with the optimisers in them filled in and checked, as `resolve_optimizer` does."""
    resolved = []
    for rule in run.rules:
        settings = rule.model_dump(exclude_none=True)
        if rule.optimizer is not None:
            chosen = resolve_optimizer(rule.optimizer, run.batch_size, image_size)
            settings["optimizer"] = chosen.model_dump()
        resolved.append(settings)
    return resolved


def build(run: Run, model: nn.Module, device: torch.device) -> Optimizers:
    """The optimisers of a model's parameters, as the settings and their rules say.

    Rules that name an optimiser give it the parameters they match.

    Raises: ValueError: no parameter to train, a rule that matches nothing, a refused setting
    """
    settings: dict[str, OptimizerSettings] = {"default": run.optimizer}
    rules = []
    for number, given in enumerate(run.rules):
        name = None if given.optimizer is None else f"rule {number}"
        if given.optimizer is not None:
            settings[f"rule {number}"] = given.optimizer
        rules.append(
            Rule(
                given.match,
                lr_scale=given.lr_scale,
                weight_decay=given.weight_decay,
                frozen=given.frozen,
                optimizer=name,
            )
        )
    late = any(given.frozen_epochs for given in run.rules)
    made = assemble(model, settings, rules, device, late=late)
    if made.averaging and run.schedule.name != "constant":
        raise checks.invalid(
            "run.toml", "schedule.name", f"constant for {run.optimizer.name}", run.schedule.name,
            "It averages instead of lowering the rate; set schedule.name = \"constant\".",
        )  # fmt: skip
    return made


def assemble(
    model: nn.Module,
    settings: Mapping[str, OptimizerSettings],
    rules: Sequence[Rule],
    device: torch.device,
    *,
    late: bool = False,
) -> Optimizers:
    """The optimisers of a model's parameters by the names that the rules give them.

    Muon, which takes matrices only, leaves everything else to AdamW.

    Args:   settings: resolved; "default" takes what no rule gives to another
            late: some parameters begin to learn later
    Raises: ValueError: no parameter to train, a rule that matches nothing, a refused setting
    """
    default = settings["default"]
    rules = list(rules)
    if default.name.lower() == "muon":
        adamw = OptimizerSettings(name="adamw", learning_rate=default.learning_rate)
        settings = {"adamw": adamw, **settings}
        before = [Rule("*", optimizer="adamw")]
        if any(parameters.is_hidden_matrix(*named) for named in model.named_parameters()):
            before.append(Rule(parameters.is_hidden_matrix, optimizer="default"))
        rules = before + rules
    parameters.apply(model, [rule for rule in rules if rule.frozen is not None])
    # Fused kernels know no pieces of parameters (FSDP2), and fused SGD none that learn later.
    late = late or sharding.is_sharded(model)
    groups = parameters.by_optimizer(model, rules, weight_decay=default.weight_decay)
    peak = default.learning_rate
    assert peak is not None, "resolve_optimizer fills it in"
    parts = {}
    for name, own in groups.items():
        for group in own:
            group["lr_scale"] *= (settings[name].learning_rate or peak) / peak
        parts[name] = create(settings[name], own, device, foreach_only=late)
    if default.lookahead:
        parts = {name: _looking_ahead(part, default) for name, part in parts.items()}
    return Optimizers(parts)


def _looking_ahead(
    part: torch.optim.Optimizer, settings: OptimizerSettings
) -> torch.optim.Optimizer:
    if "train_mode" in part.param_groups[0]:
        raise checks.invalid(
            "run.toml [optimizer]", "lookahead", f"0 with {type(part).__name__}",
            settings.lookahead, "It averages its weights already; leave lookahead out.",
        )  # fmt: skip
    try:
        optim = importlib.import_module("timm.optim")
    except ImportError:
        raise checks.InvalidValue(
            "run.toml [optimizer]: lookahead needs timm, which is not installed. "
            "Install it with: pip install timm"
        ) from None
    made: torch.optim.Optimizer = optim.Lookahead(part, k=settings.lookahead)
    return made


def create(
    settings: OptimizerSettings,
    groups: Iterable[dict[str, Any]],
    device: torch.device | None = None,
    *,
    foreach_only: bool = False,
) -> torch.optim.Optimizer:
    """The optimiser over parameter groups, with the arguments that `resolve_optimizer` checked.

    Where torch has a fused kernel (SGD, Adam, AdamW, Adagrad; on the CPU and on GPUs) it is used,
    unless the settings say `fused = false`.

    Args:   foreach_only: parameters may begin to learn later, or are pieces: fused ones cannot
    Raises: ValueError: the class refuses a value (its own words are quoted)
    """
    kind = _class(settings.name)
    arguments = dict(settings.model_extra or {})
    known = inspect.signature(kind).parameters
    if "weight_decay" in known:
        arguments["weight_decay"] = settings.weight_decay
    if "betas" in arguments:
        arguments["betas"] = tuple(arguments["betas"])
    on = torch.device("cpu") if device is None else device
    other_way = {"foreach", "differentiable"} & arguments.keys()  # only one can be asked for
    if "fused" in known and on.type in ("cpu", "cuda") and not other_way and not foreach_only:
        arguments.setdefault("fused", True)
    try:
        return kind(groups, lr=settings.learning_rate, **arguments)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise checks.InvalidValue(
            f"run.toml [optimizer]: {kind.__name__} refused its settings ({error}). "
            "Change or remove that setting."
        ) from error


def _class(name: str) -> type[torch.optim.Optimizer]:
    """The class that a name means.

    Raises: ValueError: no such name, or the package that has it is not installed
    """
    known = {
        attribute.lower(): value
        for attribute, value in vars(torch.optim).items()
        if inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
    }
    if name.lower() in known:
        return known[name.lower()]
    package, _, own = ELSEWHERE.get(name.lower(), name).partition("/")
    if package not in PACKAGES or not own:
        raise checks.InvalidValue(
            f"run.toml [optimizer]: {name} is not an optimiser of torch.optim. "
            f"{checks.nearest(name.lower(), [*known, *ELSEWHERE])}"
        )
    try:
        return _find(package, own)
    except ImportError:
        raise checks.InvalidValue(
            f"run.toml [optimizer]: {name} is an optimiser of {package}, which is not installed. "
            f"Install it with: pip install {package.replace('_', '-')}"
        ) from None
    except (ValueError, KeyError, NotImplementedError, AttributeError):
        raise checks.InvalidValue(
            f"run.toml [optimizer]: {own} is not an optimiser of {package}. "
            "See its documentation for the names it has."
        ) from None


def _find(package: str, name: str) -> type[torch.optim.Optimizer]:
    module = importlib.import_module("timm.optim" if package == "timm" else package)
    found: type[torch.optim.Optimizer]
    if package == "timm":
        found = module.get_optimizer_class(name, bind_defaults=False)
    elif package == "pytorch_optimizer":
        found = module.load_optimizer(name)
    else:
        found = getattr(module, name)
    return found
