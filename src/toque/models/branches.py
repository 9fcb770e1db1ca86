"""Branches beside each other and how they meet; several heads; one network for several images.

Shape letters: B batch, C channels, H W height and width, n branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from toque import checks
from toque.models import shapes


class Sum(nn.Module):
    """The sum of the branches."""

    free_dimension: int | None = None

    def forward(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        total = outputs[0]
        for branch in outputs[1:]:
            total = total + branch
        return total


class Mean(nn.Module):
    """The mean of the branches."""

    free_dimension: int | None = None

    def forward(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        total = outputs[0]
        for branch in outputs[1:]:
            total = total + branch
        return total / len(outputs)


class Concat(nn.Module):
    """The channels of the branches one after the other."""

    free_dimension: int | None = 1

    def forward(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(outputs, 1)


class Gate(nn.Module):
    """A weighted mean of the branches: learned weights per channel, the same for every image.

    Shape: n x [B, C, H, W] -> [B, C, H, W]; weights = softmax over the branches of [n, C], equal at
           the start
    """

    free_dimension: int | None = None

    def __init__(self, branches: int, channels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.empty(branches, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.logits)

    def forward(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        weights = self.logits.softmax(0)[:, :, None, None]
        return torch.stack([w * x for w, x in zip(weights, outputs, strict=True)]).sum(0)


class Attention(nn.Module):
    """A weighted mean of the branches whose weights each image chooses, per channel.

    Shape:  n x [B, C, H, W] -> [B, C, H, W]
    Args:   branches, channels: n and C
            reduction: the bottleneck has max(C / reduction, 8) channels
    Source: Li 2019, "Selective kernel networks", arXiv:1903.06586, eqs. 1-6, without the BatchNorm
            in the bottleneck, so that a batch of one image works
    """

    free_dimension: int | None = None

    def __init__(self, branches: int, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 8)
        self.squeeze = nn.Linear(channels, hidden)
        self.select = nn.Linear(hidden, branches * channels)
        self.branches = branches

    def forward(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        stacked = torch.stack(outputs, 1)
        pooled = stacked.sum(1).mean((2, 3))
        logits = self.select(F.relu(self.squeeze(pooled))).unflatten(1, (self.branches, -1))
        weights: torch.Tensor = logits.softmax(1)[..., None, None]
        return (stacked * weights).sum(1)


class Parallel(nn.Module):
    """Several branches on the same input, merged into one output.

    The branches are tried on the meta device when the part is built, if their first layers tell how
    many channels they take; else when the model is first run or described.

    Shape:   [B, C, H, W] -> the branches' shape; "concat" adds up their channels
    Args:    branches: name -> module, or (name, module) pairs
             merge: "sum", "mean", "concat", "gate", "attention", or a module that takes the list of
             outputs in the order of the branches
    Raises:  BranchMismatch: two branches give shapes that cannot be merged
             ValueError: no branch, a name twice, an unknown merge
    Example: >>> Parallel({"local": conv_norm(16, 16, 3), "wide": conv_norm(16, 16, 7)}, "gate")
    """

    def __init__(
        self,
        branches: Mapping[str, nn.Module] | Sequence[tuple[str, nn.Module]],
        merge: str | nn.Module = "sum",
    ) -> None:
        super().__init__()
        pairs = list(branches.items()) if isinstance(branches, Mapping) else list(branches)
        _check_names("Parallel", [name for name, _ in pairs])
        self.names = tuple(name for name, _ in pairs)
        self.branches = nn.ModuleDict(dict(pairs))
        made = self._try_out(merge)
        self.merge = _merge(merge, len(pairs), made)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = [branch(x) for branch in self.branches.values()]
        self._check(outputs)
        return cast(torch.Tensor, self.merge(outputs))

    def _check(self, outputs: Sequence[torch.Tensor]) -> None:
        free = getattr(self.merge, "free_dimension", -1)
        if free != -1:  # a merge of one's own decides by itself what it takes
            shapes.same("Parallel", self.names, outputs, free)

    def _try_out(self, merge: str | nn.Module) -> int | None:
        """The channels of the first branch, if they can be told; the others are checked on it."""
        channels = {shapes.channels_in(branch) for branch in self.branches.values()} - {None}
        if not channels:
            return None
        if len(channels) > 1:
            taken = {name: shapes.channels_in(b) for name, b in self.branches.items()}
            raise checks.invalid(
                "Parallel", "branches", "modules that take the same number of channels", taken,
                "Every branch gets the same input.",
            )  # fmt: skip
        taken_channels = cast(int, channels.pop())
        probe = [2, taken_channels, shapes.PROBE_PX, shapes.PROBE_PX]
        made = [shapes.check(branch, probe) for branch in self.branches.values()]
        free = (1 if merge == "concat" else None) if isinstance(merge, str) else -1
        free = getattr(merge, "free_dimension", free)
        if free != -1:
            shapes.same("Parallel", self.names, made, free)
        return int(made[0].shape[1])


class MultiHead(nn.Module):
    """One trunk, several outputs.

    Shape:   x -> {name: head(trunk(x))}
    Raises:  ValueError: no head, a name twice
    Example: >>> MultiHead(backbone, {"species": nn.Linear(512, 40), "age": nn.Linear(512, 1)})
    """

    def __init__(
        self,
        trunk: nn.Module,
        heads: Mapping[str, nn.Module] | Sequence[tuple[str, nn.Module]],
    ) -> None:
        super().__init__()
        pairs = list(heads.items()) if isinstance(heads, Mapping) else list(heads)
        _check_names("MultiHead", [name for name, _ in pairs])
        self.trunk = trunk
        self.heads = nn.ModuleDict(dict(pairs))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}


class HeadLosses(nn.Module):
    """The weighted sum of the heads' own losses.

    Args:    losses: head name -> its loss module, called as loss(output, target)
             weights: head name -> weight; 1 where not given
    Raises:  ValueError: a weight or an output without a loss, a head without a target
    Example: >>> losses = HeadLosses({"species": nn.CrossEntropyLoss(), "age": nn.L1Loss()},
             ...                     weights={"age": 0.1})
             >>> losses(model(images), {"species": species, "age": age}).backward()
    """

    def __init__(
        self, losses: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        _check_names("HeadLosses", list(losses))
        self.losses = nn.ModuleDict(dict(losses))
        self.weights = dict.fromkeys(losses, 1.0) | dict(weights or {})
        for name in self.weights:
            if name not in losses:
                raise checks.invalid(
                    "HeadLosses", "weights", "for heads that have a loss", repr(name),
                    checks.nearest(name, losses),
                )  # fmt: skip

    def each(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The loss of every head, not weighted."""
        for what, given in (("outputs", outputs), ("targets", targets)):
            if given.keys() != self.weights.keys():
                raise checks.invalid(
                    "HeadLosses", what, f"for the heads {sorted(self.weights)}", sorted(given),
                    "Give every head an output, a target and a loss.",
                )  # fmt: skip
        return {name: loss(outputs[name], targets[name]) for name, loss in self.losses.items()}

    def forward(
        self, outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        each = self.each(outputs, targets)
        return torch.stack([self.weights[name] * loss for name, loss in each.items()]).sum()


class Siamese(nn.Module):
    """The same network, with the same weights, on each of several inputs.

    Shape:   x, y, ... -> compare(body(x), body(y), ...), or the tuple of answers without `compare`
    Source:  Bromley 1993, "Signature verification using a Siamese time delay neural network"
    Example: >>> Siamese(backbone, nn.CosineSimilarity())(left, right)
    """

    def __init__(self, body: nn.Module, compare: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.compare = compare

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        if not inputs:
            raise checks.invalid("Siamese", "inputs", "one or more", "none", "Give it images.")
        answers = tuple(self.body(x) for x in inputs)
        return answers if self.compare is None else cast(torch.Tensor, self.compare(*answers))


_MERGES: dict[str, type[Sum] | type[Mean] | type[Concat]] = {
    "sum": Sum,
    "mean": Mean,
    "concat": Concat,
}


def _merge(merge: str | nn.Module, branches: int, channels: int | None) -> nn.Module:
    if isinstance(merge, nn.Module):
        return merge
    if merge in _MERGES:
        return _MERGES[merge]()
    if merge not in ("gate", "attention"):
        raise checks.invalid(
            "Parallel", "merge", "sum, mean, concat, gate, attention or a module", repr(merge),
            checks.nearest(merge, [*_MERGES, "gate", "attention"]),
        )  # fmt: skip
    if channels is None:
        raise checks.invalid(
            "Parallel", "merge", "a module where the branches do not tell their channels",
            repr(merge), f"Give merge={merge.capitalize()}(branches, channels).",
        )  # fmt: skip
    return Gate(branches, channels) if merge == "gate" else Attention(branches, channels)


def _check_names(where: str, names: Sequence[str]) -> None:
    if not names:
        raise checks.invalid(where, "branches", "one or more", "none", "Give it a module.")
    for position, name in enumerate(names):
        if name in names[:position]:
            raise checks.invalid(
                where, "names", "each used once", repr(name),
                "Give the branches names of their own.",
            )  # fmt: skip
        if not name.isidentifier() and not name.replace("x", "").isdigit():
            raise checks.invalid(
                where, "names", "words without dots and blanks", repr(name),
                "Name it like a variable.",
            )  # fmt: skip
        if hasattr(nn.ModuleDict, name):
            raise checks.invalid(
                where, "names", "other than the methods of a dict", repr(name), "Take another name."
            )
