"""Fewer channels by rule, the shapes following through branches, sums and joins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from toque import checks
from toque.models import shapes
from toque.models.channels import Place, together
from toque.models.parameters.rules import Match, matching


@dataclass(frozen=True)
class Pruned:
    """What `prune` did: parameters before and after, and (before, after) channels of each weight.

    `bound` are weights a rule matched whose channels could not change: those of the model's
    answers, or of something that an operation unknown to `prune` touches.
    """

    parameters: tuple[int, int]
    channels: dict[str, tuple[int, int]]
    bound: tuple[str, ...]

    def __str__(self) -> str:
        before, after = self.parameters
        lines = [f"{before:,} parameters, {after:,} left ({after / before:.0%})"]
        lines += [
            f"{name}: {old} channels, {new} left" for name, (old, new) in self.channels.items()
        ]
        return "\n".join([*lines, *(f"{name}: bound" for name in self.bound)])


@torch.no_grad()
def prune(
    model: nn.Module, input_shape: Sequence[int], rules: Sequence[tuple[Match, float]]
) -> Pruned:
    """Take away the least channels, in place; fine-tune afterwards.

    Channels that are one because a sum, a skip or a depthwise layer binds them go together. The
    least are those whose weights, over all layers of the set, have the smallest norm relative to
    the mean of their layer. New parameters need a new optimiser and a new EMA.

    Args:    input_shape: [B, C, H, W] that the model takes
             rules: (match, fraction of the channels to take away) as in parameters.Rule, over the
             weights that write the channels; the last match wins
    Raises:  ValueError: a fraction outside 0 <= fraction < 1; a rule that matches nothing
    Source:  grouping and norm over the group: Fang 2023, arXiv:2301.12900, sections 3.2 and 3.3
    Example: >>> print(prune(model, [1, 3, 224, 224], [("features.stage*", 0.5)]))
    """
    fractions: dict[str, float] = {}
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters():
        names[id(parameter)] = name
    for match, fraction in rules:
        if not 0 <= fraction < 1:
            raise checks.invalid(
                "prune", "a fraction", "0 <= fraction < 1", fraction, "0.5 takes half away."
            )
        fractions.update({names[found]: fraction for found in matching(model, match)})
    before = sum(p.numel() for p in model.parameters())
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    going: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    changed: set[str] = set()
    for channels in _layers(together(model, input_shape)).values():
        writers = {name for name, d, _ in channels[0] if d == 0 and tensors[name].ndim > 1}
        chosen = [fractions[name] for name in fractions if name in writers]
        least = round(len(channels) * chosen[-1]) if chosen else 0
        changed |= writers if chosen else set()
        order = _importance(channels, tensors).argsort()
        for number in order[: min(least, len(channels) - 1)].tolist():
            for name, d, position in channels[number]:
                going[name, d].add(position)
    wide = {name: p.shape[0] for name, p in model.named_parameters()}
    _cut(model, going)
    shapes.check(model, input_shape)
    now = dict(model.named_parameters())
    return Pruned(
        (before, sum(p.numel() for p in model.parameters())),
        {n: (wide[n], len(now[n])) for n in wide if len(now[n]) < wide[n] and now[n].ndim > 1},
        tuple(n for n in fractions if tensors[n].ndim > 1 and n not in changed),
    )


def _layers(sets: list[list[Place]]) -> dict[frozenset[tuple[str, int]], list[list[Place]]]:
    """Channels sorted by the weights they pass through."""
    layers: defaultdict[frozenset[tuple[str, int]], list[list[Place]]] = defaultdict(list)
    for places in sets:
        layers[frozenset((name, d) for name, d, _ in places)].append(places)
    return layers


def _importance(channels: list[list[Place]], tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of each channel: its norm over all weights, each relative to the mean of its layer."""
    total = torch.zeros(len(channels))
    norms: dict[tuple[str, int], torch.Tensor] = {}
    for name, d in {(name, d) for name, d, _ in channels[0]}:
        if tensors[name].ndim > 1:
            sizes = tensors[name].float().transpose(0, d).flatten(1).norm(dim=1).cpu()
            norms[name, d] = sizes / sizes.mean().clamp_min(1e-12)
    for number, places in enumerate(channels):
        for name, d, position in places:
            if (name, d) in norms:
                total[number] += norms[name, d][position]
    return total


def _cut(model: nn.Module, going: dict[tuple[str, int], set[int]]) -> None:
    smaller = {
        id(tensor): _smaller(tensor, name, going)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    for module in model.modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, tensor in own:
            setattr(module, key, smaller[id(tensor)])
        _rename(module)
    head = getattr(model, "get_classifier", lambda: None)()
    known = "num_features" in vars(model)
    if known and isinstance(head, nn.Linear | nn.Conv2d):
        width = head.in_features if isinstance(head, nn.Linear) else head.in_channels
        vars(model)["num_features"] = width


def _smaller(
    tensor: torch.Tensor, name: str, going: dict[tuple[str, int], set[int]]
) -> torch.Tensor:
    left = tensor
    for d in range(tensor.ndim):
        gone = going.get((name, d))
        if gone:
            stays = [i for i in range(tensor.shape[d]) if i not in gone]
            left = left.index_select(d, torch.tensor(stays, device=tensor.device))
    if left is tensor:
        return tensor
    return nn.Parameter(left, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else left


def _rename(module: nn.Module) -> None:
    """The numbers a layer says of itself follow its weights."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        if module.groups > 1 and module.groups == module.in_channels == module.out_channels:
            module.groups = len(module.weight)
        rows, columns = len(module.weight), module.weight.shape[1] * module.groups
        transposed = isinstance(module, nn.ConvTranspose2d)
        module.out_channels, module.in_channels = (columns, rows) if transposed else (rows, columns)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _BatchNorm):
        kept = module.weight if module.affine else module.running_mean
        if kept is not None:
            module.num_features = len(kept)
