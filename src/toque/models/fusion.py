"""Fewer layers with the same answers, for deployment: BatchNorm and parallel branches folded.

Everything that is linear in evaluation mode is written as a convolution and merged in float64; what
cannot be merged exactly, or would cost more multiplications afterwards, is left as it is.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toque import checks
from toque.layers.tensors import tensors_in
from toque.models import branches, convolution, shapes
from toque.models.blocks import Residual
from toque.models.convolution import CannotMerge, Convolution
from toque.models.surgery import replace


class Fused(NamedTuple):
    """A model with the same answers; how far they are off at most, relative to the largest one."""

    model: nn.Module
    difference: float


@dataclass(frozen=True)
class FusionStep:
    """What becomes of the module at `path`: merged, or kept for a reason."""

    path: str
    merged: bool
    what: str

    def __str__(self) -> str:
        return f"{self.path or '(model)'}: {'merged' if self.merged else 'kept'}: {self.what}"


def fuse(model: nn.Module, images: torch.Tensor | None = None) -> Fused:
    """A copy of the model, in evaluation mode, with its linear parts merged; and the difference.

    Chains in an nn.Sequential, Parallel parts merged by sum, mean or concat, and Residual parts are
    merged by their structure, in any model. With `images` the flow of the data is followed as well,
    so that a BatchNorm is folded into the convolution before it in models that are not made of our
    parts (timm, torchvision); `fusion_plan` says what was merged and why the rest was not.

    Args:    model: any model; it is not changed
             images: a batch the model takes. The difference is then measured on its answers, and
             without it on random inputs of each merged part
    Raises:  ValueError: the merged model differs by more than 1e-3, which only a model that
             amplifies rounding can do
             TypeError: no module
    Source:  BatchNorm: Jacob 2017, arXiv:1712.05877, section 3.2; branches: Ding 2021,
             arXiv:2101.03697, section 3.3
    Example: >>> deployed, difference = fuse(model)
    """
    fused, _, difference = _fused(model, images)
    return Fused(fused, difference)


def fusion_plan(model: nn.Module, images: torch.Tensor | None = None) -> list[FusionStep]:
    """What `fuse` merges, and what it keeps and why."""
    return _fused(model, images)[1]


def _fused(
    model: nn.Module, images: torch.Tensor | None
) -> tuple[nn.Module, list[FusionStep], float]:
    checks.require_module("fuse", model)
    walk = _Walk()
    before = copy.deepcopy(model).eval()
    after = walk.module(copy.deepcopy(before), "")
    if images is not None:
        walk.fold_by_flow(after, images)
        with torch.no_grad():
            difference = _difference(before(images), after(images))
    else:
        difference = walk.difference
    return after, walk.steps, difference


class _Walk:
    """One walk through a model: the steps taken and the largest difference of a merged part."""

    def __init__(self) -> None:
        self.steps: list[FusionStep] = []
        self.difference = 0.0

    def module(self, module: nn.Module, path: str) -> nn.Module:
        """The module with everything inside merged that can be."""
        if isinstance(module, branches.Parallel | Residual):
            try:
                merged = _of_part(module)
                return self._replaced(module, merged, path, _kind(module))
            except CannotMerge as reason:
                self.steps.append(FusionStep(path, False, str(reason)))
        if isinstance(module, nn.Sequential):
            return self._sequential(module, path)
        for name, child in list(module.named_children()):
            setattr(module, name, self.module(child, f"{path}.{name}".lstrip(".")))
        return module

    def _sequential(self, row: nn.Sequential, path: str) -> nn.Sequential:
        """Runs of linear layers in a row become one layer under the name of the first."""
        kept: OrderedDict[str, nn.Module] = OrderedDict()
        run: list[tuple[str, nn.Module]] = []
        merged: Convolution | None = None

        def flush() -> None:
            nonlocal run, merged
            if merged is not None and len(run) > 1 and not merged.is_identity:
                part = nn.Sequential(OrderedDict(run))
                where = f"{path}.{run[0][0]}".lstrip(".")
                names = " + ".join(type(layer).__name__ for _, layer in run)
                kept[run[0][0]] = self._replaced(part, merged, where, names)
            else:
                kept.update(run)
            run, merged = [], None

        for name, child in row.named_children():
            where = f"{path}.{name}".lstrip(".")
            child = self.module(child, where)
            try:
                conv = _of_part(child)
            except CannotMerge:
                flush()
                kept[name] = child
                continue
            try:
                joined = conv if merged is None else convolution.chain(merged, conv)
                if merged is not None and convolution.cost(joined) > convolution.cost(
                    merged
                ) + convolution.cost(conv):
                    raise CannotMerge("merged with what comes before it costs more")
                run, merged = [*run, (name, child)], joined
            except CannotMerge as reason:
                self.steps.append(FusionStep(where, False, str(reason)))
                flush()
                run, merged = [(name, child)], conv
        flush()
        row._modules = dict(kept)
        return row

    def _replaced(self, part: nn.Module, merged: Convolution, path: str, what: str) -> nn.Module:
        if merged.is_identity:
            return nn.Identity()
        like = next(part.parameters(), merged.weight)
        layer = merged.module(like).eval()
        probe = torch.linspace(-1, 1, 2 * merged.in_channels * 19 * 19).sin_()
        images = probe.reshape(2, merged.in_channels, 19, 19).to(like)
        with torch.no_grad():
            difference = _difference(part.eval()(images), layer(images))
        self.difference = max(self.difference, difference)
        self.steps.append(FusionStep(path, True, f"{what} into one convolution"))
        return layer

    def fold_by_flow(self, model: nn.Module, images: torch.Tensor) -> None:
        """Fold every BatchNorm whose input is a convolution's output that nothing else uses."""
        paths = {module: path for path, module in model.named_modules()}
        for conv, norm in _links(model, images):
            try:
                scale, shift = convolution.affine_of(norm)
            except CannotMerge as reason:
                self.steps.append(FusionStep(paths[norm], False, str(reason)))
                continue
            folded = copy.deepcopy(conv)
            with torch.no_grad():
                folded.weight.copy_(conv.weight.double() * scale[:, None, None, None])
                bias = 0.0 if conv.bias is None else conv.bias.double() * scale
                folded.bias = nn.Parameter((shift + bias).to(conv.weight.dtype))
            # timm's BatchNormAct2d carries the activation inside.
            rest = [m for m in (getattr(norm, n, None) for n in ("drop", "act")) if m is not None]
            replace(model, paths[conv], folded)
            replace(model, paths[norm], nn.Sequential(*rest) if rest else nn.Identity())
            self.steps.append(
                FusionStep(paths[conv], True, f"{paths[norm]} folded into the convolution")
            )


def _of_part(part: nn.Module) -> Convolution:
    """A layer, chain, Parallel or Residual as one convolution."""
    if isinstance(part, nn.Sequential):
        merged = convolution.IDENTITY
        for layer in part:
            merged = convolution.chain(merged, _of_part(layer))
        return merged
    if isinstance(part, branches.Parallel):
        return _cheaper(part.branches, part.merge)
    if isinstance(part, Residual):
        body = nn.Sequential(part.body, part.scale, part.drop)
        merged = _cheaper(nn.ModuleDict({"body": body, "shortcut": part.shortcut}), branches.Sum())
        return convolution.chain(merged, _of_part(part.after))
    return convolution.of_layer(part)


def _cheaper(parts: nn.ModuleDict, merge: nn.Module) -> Convolution:
    found = []
    for name, branch in parts.items():
        try:
            found.append(_of_part(branch))
        except CannotMerge as reason:
            raise CannotMerge(f"branch {name!r}: {reason}") from None
    if isinstance(merge, branches.Sum):
        merged = convolution.add(found)
    elif isinstance(merge, branches.Mean):
        merged = convolution.add(found, 1 / len(found))
    elif isinstance(merge, branches.Concat):
        merged = convolution.concat(found)
    elif isinstance(merge, branches.Gate):
        weights = merge.logits.detach().double().softmax(0)
        zero = torch.zeros_like(weights[0])
        gates = [convolution.per_channel(w, zero) for w in weights]
        merged = convolution.add(
            [convolution.chain(a, b) for a, b in zip(found, gates, strict=True)]
        )
    else:
        raise CannotMerge(f"merged by {type(merge).__name__}, which depends on the image")
    if convolution.cost(merged) > sum(convolution.cost(conv) for conv in found):
        raise CannotMerge("one convolution would cost more multiplications than the branches")
    return merged


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often each tensor is given to an operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: defaultdict[int, int] = defaultdict(int)
        self.alive: list[torch.Tensor] = []  # meta tensors cost nothing, and their ids stay theirs

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        for tensor in tensors_in((args, kwargs)):
            self.count[id(tensor)] += 1
            self.alive.append(tensor)
        return func(*args, **(kwargs or {}))


def _links(model: nn.Module, images: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions and norms of which the one's output goes into the other and nowhere else."""
    made: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}  # keeps the tensors, so that ids stay
    calls: defaultdict[nn.Module, int] = defaultdict(int)
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d, int]] = []

    def after_conv(module: nn.Module, given: Any, answer: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        calls[module] += 1
        made[id(answer)] = (module, answer)

    def before_norm(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        calls[module] += 1
        if id(given[0]) in made:
            pairs.append((made[id(given[0])][0], module, id(given[0])))

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _plain(module):
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        with torch.no_grad(), _Uses() as uses:
            functional_call(model, shapes.meta_state(model), (images.to("meta"),))
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (conv, norm)
        for conv, norm, tensor in pairs
        if uses.count[tensor] == 1 and calls[conv] == calls[norm] == 1
    ]


def _plain(conv: nn.Conv2d) -> bool:
    # A subclass may compute its weight in its own way; timm's Conv2dSame only pads in its own way.
    return type(conv) is nn.Conv2d or type(conv).__name__ == "Conv2dSame"


def _kind(part: nn.Module) -> str:
    names = part.names if isinstance(part, branches.Parallel) else ("body", "shortcut")
    return f"{type(part).__name__} ({', '.join(names)})"


def _difference(before: Any, after: Any) -> float:
    """The largest difference of two answers, relative to the largest number in the first."""
    worst = 0.0
    for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
        largest = old.double().abs().max().clamp_min(1e-30)
        worst = max(worst, float((old.double() - new.double()).abs().max() / largest))
    return worst
