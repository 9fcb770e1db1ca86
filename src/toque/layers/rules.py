"""The operations that save_memory makes again in backward, and from what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from toque.layers.recipe import Recipe, Watch
from toque.layers.tensors import storage_of

Handler = Callable[..., Any]
HANDLERS: dict[Any, Handler] = {}
"""torch function -> what runs in its place: (watch, function, arguments, options) -> output."""


def _handles(*functions: Any) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(functions, handler))
        return handler

    return register


def _is_tracked(value: Any) -> bool:
    return _is_plain(value) and value.requires_grad and value.is_floating_point()


def _is_plain(value: Any) -> bool:
    # FakeTensor: what the memory of a step is predicted with.
    return type(value) is Tensor or isinstance(value, FakeTensor)


_WITHOUT_COPY = {
    F.silu: torch.ops.aten.silu_backward,
    F.hardswish: torch.ops.aten.hardswish_backward,
}


def _asks_in_place(args: Any, kwargs: Any) -> bool:
    return bool(args[1] if len(args) > 1 else kwargs.get("inplace", False))


class _InPlace(Function):
    """SiLU or Hardswish in place, without the copy of its input that autograd would make."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, before: Recipe, func: Any) -> Tensor:
        before.pending += 1
        ctx.before, ctx.func = before, func
        ctx.mark_dirty(x)
        return func(x, inplace=True)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            return _WITHOUT_COPY[ctx.func](grad, ctx.before.serve()), None, None


_KEEP_INPUT = [
    F.gelu, F.silu, F.hardswish, F.mish, F.elu, F.selu, F.leaky_relu, F.softplus, F.logsigmoid,
    F.celu,
]  # fmt: skip


@_handles(*_KEEP_INPUT)
def _activation_of_input(watch: Watch, func: Any, args: Any, kwargs: Any) -> Any:
    """Activations whose backward reads their input: it is kept, so the output need not be."""
    x = args[0] if args else kwargs["input"]
    before = watch.recipe_of(x) if _is_tracked(x) else None
    entry = watch.entries.get(storage_of(x)) if before is not None else None
    if before is not None and func in _WITHOUT_COPY and _asks_in_place(args, kwargs):
        out = _InPlace.apply(x, before, func)
        watch.learn(out, _again(func, x, (), {}), before)
        return out
    out = func(*args, **kwargs)
    if not _is_tracked(out):
        return out
    if storage_of(out) == storage_of(x):
        # In place: autograd has kept a copy of the old x, which its recipe can stand for.
        copies = [k for k in watch.packed if k.shape == x.shape and k.tensor is not None]
        if before is None or entry is None or len(copies) != 1:
            watch.entries.pop(storage_of(out), None)
            return out
        copy = copies[0]
        assert copy.tensor is not None
        watch.take_back(copy, copy.tensor, entry, before)
        source: Recipe | Tensor | None = before
    else:
        source = watch.source(x, is_kept=True)
    assert source is not None
    rest, options = args[1:], {k: v for k, v in kwargs.items() if k not in ("input", "inplace")}
    if len(rest) > 0 and func in (F.silu, F.hardswish, F.mish, F.selu):
        rest = ()  # their second argument is inplace
    watch.learn(out, _again(func, x, rest, options), source)
    return out


@_handles(F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh)
def _activation_of_output(watch: Watch, func: Any, args: Any, kwargs: Any) -> Any:
    """ReLU keeps its output, so this pays only where the input can itself be made again."""
    x = args[0] if args else kwargs["input"]
    before = watch.recipe_of(x) if _is_tracked(x) else None
    out = func(*args, **kwargs)
    if before is None or not _is_tracked(out):
        if isinstance(out, Tensor):
            watch.entries.pop(storage_of(out), None)
        return out
    if func in (F.relu6, F.hardtanh):
        rest, options = args[1:], {k: v for k, v in kwargs.items() if k not in ("input", "inplace")}
        if func is F.relu6:
            rest = ()
        again = _again(func, x, rest, options)
    else:
        again = _again(torch.relu, x, (), {})
    already = [k for k in watch.packed if k.storage == storage_of(out)]
    overwrite = torch.relu_ if func not in (F.relu6, F.hardtanh) else None
    recipe = watch.learn(out, again, before, overwrite=overwrite)
    if recipe is not None:
        entry = watch.entries[storage_of(out)]
        for kept in already:
            if kept.tensor is not None:
                watch.take_back(kept, kept.tensor, entry, recipe)
    return out


@_handles(torch.square, Tensor.square)
def _square(watch: Watch, func: Any, args: Any, kwargs: Any) -> Any:
    """A square keeps its input."""
    out = func(*args, **kwargs)
    source = watch.source(args[0]) if args and _is_tracked(out) else None
    if source is not None:
        watch.learn(out, torch.square, source)
    return out


@_handles(F.layer_norm, F.group_norm, F.rms_norm)
def _norm(watch: Watch, func: Any, args: Any, kwargs: Any) -> Any:
    """LayerNorm, GroupNorm and RMSNorm keep their input and two numbers a row."""
    out = func(*args, **kwargs)
    x = args[0] if args else kwargs["input"]
    source = watch.source(x) if _is_tracked(out) and isinstance(x, Tensor) else None
    if source is not None:
        detached = [a.detach() if isinstance(a, Tensor) else a for a in args[1:]]
        options = {
            k: v.detach() if isinstance(v, Tensor) else v for k, v in kwargs.items() if k != "input"
        }
        watch.learn(out, _again(func, x, tuple(detached), options), source)
    return out


@_handles(F.batch_norm)
def _batch_norm(watch: Watch, func: Any, args: Any, kwargs: Any) -> Any:
    return _BatchNorm(watch, func)(*args, **kwargs)


@dataclass(frozen=True)
class _BatchNorm:
    """BatchNorm's output is an affine function of its kept input and its kept statistics."""

    watch: Watch
    func: Any

    def __call__(
        self,
        input: Tensor,  # noqa: A002 torch's own name
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        whole = (running_mean, running_var, weight, bias, training, momentum, eps)
        fits = input.device.type == "cpu" and input.dtype == torch.float32
        if not training or not fits or not _is_plain(input) or input.numel() == 0:
            out: Tensor = self.func(input, *whole)
            self._learn_slowly(out, input, whole)
            return out
        if input.numel() // input.shape[1] <= 1:
            refused: Tensor = self.func(input, *whole)  # it says what is wrong
            return refused
        out, mean, inverse = torch.native_batch_norm(
            input, weight, bias, running_mean, running_var, True, momentum, eps
        )
        source = self.watch.source(input) if out.requires_grad else None
        if source is not None:
            again = _Affine(
                mean.detach(),
                inverse.detach(),
                None if weight is None else weight.detach(),
                None if bias is None else bias.detach(),
            )
            self.watch.learn(out, again, source)
        return out

    def _learn_slowly(self, out: Tensor, input: Tensor, whole: tuple[Any, ...]) -> None:  # noqa: A002
        """Elsewhere the statistics are computed again too, and the running ones left alone."""
        if not _is_tracked(out) or not _is_plain(input):
            return
        mean, var, weight, bias, training, _, eps = whole
        source = self.watch.source(input)
        if source is None:
            return
        fixed = (None, None) if training else (mean, var)
        detached = tuple(t.detach() if t is not None else None for t in (weight, bias))
        again = _again(F.batch_norm, input, (*fixed, *detached, training, 0.0, eps), {})
        self.watch.learn(out, again, source)


@dataclass(frozen=True)
class _Affine:
    """The last step of BatchNorm by its own kernel, so that the bits are the same."""

    mean: Tensor
    inverse: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        scale = self.inverse if self.weight is None else self.weight * self.inverse
        shift = -self.mean * scale if self.bias is None else self.bias - self.mean * scale
        zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
        out: Tensor = torch.native_batch_norm(x, scale, shift, zeros, ones, False, 0.0, 0.0)[0]
        return out


@_handles(torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__)
def _residual(watch: Watch, func: Any, args: Any, kwargs: Any) -> Any:
    """A residual sum, where both sides are kept or can be made again; one such step in a row."""
    if len(args) != 2 or kwargs or not all(map(_is_plain, args)):
        return func(*args, **kwargs)
    a, b = args
    if a.shape != b.shape or a.dtype != b.dtype:
        return func(*args)
    in_place = func in (Tensor.add_, Tensor.__iadd__)
    first = watch.recipe_of(a) if in_place else watch.source(a)
    second = watch.source(b)
    out = func(*args)
    if not _is_tracked(out):
        return out
    watch.entries.pop(storage_of(out), None)
    if first is not None and second is not None:
        if not isinstance(first, Recipe):
            first, second = second, first
        if isinstance(first, Recipe):
            watch.learn(out, torch.add, first, second, step=1, overwrite=Tensor.add_)
    return out


@_handles(torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)
def _scaled(watch: Watch, func: Any, args: Any, kwargs: Any) -> Any:
    """A gate or a layer scale: one side large and kept or made again, the other small."""
    if len(args) != 2 or kwargs or not all(isinstance(a, Tensor) for a in args):
        return func(*args, **kwargs)
    out = func(*args)
    if not _is_tracked(out):
        return out
    sources = []
    for side in args:
        is_small = 8 * side.numel() <= out.numel()
        source = side.detach() if is_small else watch.source(side)
        if source is not None:
            sources.append(source)
    if len(sources) == 2 and out.dtype == args[0].dtype == args[1].dtype:
        large_first = args[0].shape == out.shape
        watch.learn(out, torch.mul, *sources, overwrite=Tensor.mul_ if large_first else None)
    return out


def _again(
    func: Any, like: Tensor, rest: tuple[Any, ...], options: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    """The same call outside autograd, under the autocast of the forward."""
    device = like.device.type
    has_autocast = device != "meta" and torch.amp.is_autocast_available(device)
    is_on = has_autocast and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if is_on else None

    def make(x: Tensor) -> Tensor:
        if not is_on and not (has_autocast and torch.is_autocast_enabled(device)):
            return func(x, *rest, **options)  # type: ignore[no-any-return]
        with torch.autocast(device, dtype=dtype, enabled=is_on):
            return func(x, *rest, **options)  # type: ignore[no-any-return]

    return make
