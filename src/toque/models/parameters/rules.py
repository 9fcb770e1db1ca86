"""Which parameter gets what: learning rate, weight decay, freezing, by rules; the last one wins.

A rule matches parameters by name (a glob), by the type of the layer that owns them, or by a
predicate. Each setting of a parameter comes from the last rule that matches it and says something
about that setting. What no rule touches keeps the defaults, and the table says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from toque import checks

Match = str | type[nn.Module] | Callable[[str, nn.Parameter], bool]
Change = Callable[[torch.Tensor], object]


@dataclass(frozen=True)
class Rule:
    """What the parameters that match get; None leaves a setting to the other rules.

    Args:    match: a glob over full names ("features.stage1.*"), a layer type (nn.LayerNorm), or a
             predicate (name, parameter) -> bool
             lr_scale: multiplies the learning rate
             weight_decay: in place of the default
             frozen: no gradient, and no new statistics in a BatchNorm frozen whole
             optimizer: name of the optimiser that takes the parameter, for `by_optimizer`
             initialise: called with the tensor by `initialise(model, rules)`
             constraint: called with the tensor by `constrain(model, rules)`, after each step
    Example: >>> Rule("features.stem.*", frozen=True)
    """

    match: Match
    lr_scale: float | None = None
    weight_decay: float | None = None
    frozen: bool | None = None
    optimizer: str | None = None
    initialise: Change | None = None
    constraint: Change | None = None

    def __post_init__(self) -> None:
        for name in ("lr_scale", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise checks.invalid("Rule", name, ">= 0", value, "Use 0 to switch it off.")

    def __str__(self) -> str:
        return _shown(self.match)


@dataclass(frozen=True)
class Settings:
    """What one parameter gets from all rules; `rules` are the numbers of those that matched."""

    lr_scale: float = 1.0
    weight_decay: float = 0.0
    frozen: bool = False
    optimizer: str = "default"
    initialise: Change | None = None
    constraint: Change | None = None
    rules: tuple[int, ...] = ()


_FIELDS = ("lr_scale", "weight_decay", "frozen", "optimizer", "initialise", "constraint")


def rules(given: Sequence[Rule | Mapping[str, Any]]) -> tuple[Rule, ...]:
    """Rules from rules and from tables such as TOML holds: {match = "head.*", lr_scale = 10.0}.

    Raises:  ValueError: a key that is no setting, with the nearest name; a table without match
    Example: >>> rules([{"match": "features.*", "lr_scale": 0.1}, Rule("head.*", weight_decay=0)])
    """
    made = []
    for rule in given:
        if isinstance(rule, Rule):
            made.append(rule)
            continue
        for key in rule:
            if key not in ("match", *_FIELDS):
                raise checks.invalid(
                    "rules", "the keys of a rule", "match and settings", repr(key),
                    checks.nearest(key, ["match", *_FIELDS]),
                )  # fmt: skip
        if "match" not in rule:
            raise checks.invalid(
                "rules", "a rule", "a table with match", dict(rule),
                "Say which parameters it is for.",
            )  # fmt: skip
        made.append(Rule(**rule))
    return tuple(made)


def settings(
    model: nn.Module, rules: Sequence[Rule] = (), *, weight_decay: float = 0.0
) -> dict[str, Settings]:
    """What every parameter of the model gets, by name; a shared parameter under its first name.

    Without a rule about it, weight decay is the default for weights of two dimensions or more and
    nothing for the others (biases, norms, scales) and for what the model names in its
    `no_weight_decay()` (timm's convention). A parameter that needs no gradient is frozen.

    Raises: ValueError: a rule that matches nothing, with the nearest name; weight_decay < 0
    """
    if not weight_decay >= 0:
        raise checks.invalid("parameters", "weight_decay", ">= 0", weight_decay, "Use 0 for none.")
    exempt: set[str] = getattr(model, "no_weight_decay", set)()
    found = [matching(model, rule.match) for rule in rules]
    answer = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim >= 2 and name not in exempt
        chosen: dict[str, Any] = {
            "weight_decay": weight_decay if decays else 0.0,
            "frozen": not parameter.requires_grad,
        }
        touched = [number for number, ids in enumerate(found) if id(parameter) in ids]
        for number in touched:
            said = {field: getattr(rules[number], field) for field in _FIELDS}
            chosen |= {field: value for field, value in said.items() if value is not None}
        answer[name] = Settings(**chosen, rules=tuple(touched))
    return answer


def groups(
    model: nn.Module,
    rules: Sequence[Rule] = (),
    *,
    weight_decay: float = 0.0,
    learning_rate: float | None = None,
    with_frozen: bool = False,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser.

    Each group holds "params", "names", "weight_decay" and "lr_scale", and with a `learning_rate`
    also "lr". PyTorch's optimisers know no "lr_scale": whoever changes "lr" multiplies by it.

    Args:    with_frozen: frozen parameters too, for gradual unfreezing (optimisers pass over
             parameters without a gradient)
    Raises:  ValueError: as `settings`; no parameter is left to train
    Example: >>> torch.optim.SGD(groups(model, weight_decay=5e-4), lr=0.1)
    """
    every = by_optimizer(
        model, rules, weight_decay=weight_decay, learning_rate=learning_rate,
        with_frozen=with_frozen,
    )  # fmt: skip
    return [group for groups_of_one in every.values() for group in groups_of_one]


def by_optimizer(
    model: nn.Module,
    rules: Sequence[Rule] = (),
    *,
    weight_decay: float = 0.0,
    learning_rate: float | None = None,
    with_frozen: bool = False,
) -> dict[str, list[dict[str, Any]]]:
    """As `groups`, for each optimiser that the rules name ("default" where none does).

    Example: >>> parts = by_optimizer(model, [Rule(is_hidden_matrix, optimizer="muon")])
             >>> torch.optim.Muon(parts["muon"]), torch.optim.AdamW(parts["default"])
    """
    parameters = dict(model.named_parameters())
    made: dict[str, dict[tuple[float, float], dict[str, Any]]] = {}
    for name, given in settings(model, rules, weight_decay=weight_decay).items():
        if given.frozen and not with_frozen:
            continue
        same = made.setdefault(given.optimizer, {})
        group = same.setdefault(
            (given.weight_decay, given.lr_scale),
            {
                "params": [],
                "names": [],
                "weight_decay": given.weight_decay,
                "lr_scale": given.lr_scale,
            },
        )
        group["params"].append(parameters[name])
        group["names"].append(name)
        if learning_rate is not None:
            group["lr"] = learning_rate * given.lr_scale
    if not made:
        raise checks.invalid(
            "groups", "model", "trainable in part", "no parameter that requires a gradient",
            "Unfreeze a layer.",
        )  # fmt: skip
    return {optimizer: list(same.values()) for optimizer, same in made.items()}


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Two-dimensional weights but those of the last layer: what Muon is for (Jordan 2024)."""
    last = name.rpartition(".")[0].rpartition(".")[2]
    return parameter.ndim == 2 and last not in ("head", "fc", "classifier")


def layer_wise(model: nn.Module, decay: float) -> list[Rule]:
    """One rule per layer: the last has the full learning rate, each one before `decay` times less.

    Layers are the blocks of nn.Sequential and nn.ModuleList, or the direct children of the model,
    in the order in which they are registered; parameters of the model itself belong to the first.

    Raises: ValueError: decay outside 0 < decay <= 1
    Source: Clark 2020, ELECTRA, arXiv:2003.10555; for images Bao 2021, arXiv:2106.08254
    """
    if not 0 < decay <= 1:
        raise checks.invalid(
            "layer_wise", "decay", "0 < decay <= 1", decay, "0.65 to 0.9 are usual."
        )
    layers = [path for path in _blocks(model, "") if path]
    rules = [Rule("*", lr_scale=decay ** len(layers))]
    for number, path in enumerate(layers):
        rules.append(Rule(f"{_escaped(path)}.*", lr_scale=decay ** (len(layers) - 1 - number)))
    return rules


@torch.no_grad()
def initialise(model: nn.Module, rules: Sequence[Rule]) -> None:
    """Call each parameter's `initialise`, in the order of the parameters, in place."""
    given = settings(model, rules)
    for name, parameter in model.named_parameters():
        if (change := given[name].initialise) is not None:
            change(parameter)


@torch.no_grad()
def constrain(model: nn.Module, rules: Sequence[Rule]) -> None:
    """Call each parameter's `constraint`, in place; for after each step of the optimiser."""
    given = settings(model, rules)
    for name, parameter in model.named_parameters():
        if (change := given[name].constraint) is not None:
            change(parameter)


def unit_norm(tensor: torch.Tensor) -> None:
    """A constraint: the weights of each output have length 1."""
    tensor.div_(tensor.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *(1,) * (tensor.ndim - 1)))


def matching(model: nn.Module, match: Match) -> set[int]:
    """Identities of the parameters that match; a shared one matches by any of its names.

    Raises: ValueError: none does, with the nearest name
    """
    named = list(model.named_parameters(remove_duplicate=False))
    found = {id(p) for name, p in named if _match(match, name, p)}
    if isinstance(match, type):
        for module in model.modules():
            if isinstance(module, match):
                found |= {id(p) for p in module.parameters(recurse=False)}
    if not found:
        globs = [f"{path}.*" for path, _ in model.named_modules() if path]
        hint = checks.nearest(_shown(match), [*globs, *(name for name, _ in named)])
        if isinstance(match, type):
            hint = f"Known: {', '.join(sorted({type(m).__name__ for m in model.modules()}))}."
        raise checks.invalid(
            "parameters", "every rule", "one that matches a parameter", repr(_shown(match)), hint
        )
    return found


def _shown(match: Match) -> str:
    return match if isinstance(match, str) else getattr(match, "__name__", repr(match))


def _match(match: Match, name: str, parameter: nn.Parameter) -> bool:
    if isinstance(match, str):
        return fnmatchcase(name, match)
    return not isinstance(match, type) and match(name, parameter)


def _escaped(path: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", path)


def _blocks(module: nn.Module, path: str) -> Iterator[str]:
    """Paths of the layers that learn: rows are opened, everything else is one layer."""
    opened = isinstance(module, nn.Sequential | nn.ModuleList) or not path
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if not any(True for _ in child.parameters()):
            continue
        rows = isinstance(child, nn.Sequential | nn.ModuleList) and any(
            any(True for _ in block.children()) for block in child
        )
        if opened and rows:
            yield from _blocks(child, inner)
        else:
            yield inner
