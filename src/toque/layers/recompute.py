"""Saved tensors that are made again in backward instead of kept: the engine of save_memory.

Autograd keeps the input of each convolution and linear layer. Most of these are cheap functions of
something that is kept anyway: an activation of its own input, a normalisation of its own input. The
engine watches one forward, remembers for such tensors how they were made (a recipe), and hands
autograd the recipe where it would keep the tensor. Backward computes the same operation on the same
numbers again, so gradients are the same bits, and a BatchNorm's running statistics move once.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from toque.layers.fused import is_transformed

_CHANGED = (
    "save_memory: a tensor needed for backward must stay as it was in forward; got one that was "
    "changed in place. Work on a copy there."
)


class Recipe:
    """How a tensor is made again. It is computed once for all who kept it, then dropped."""

    __slots__ = (
        "_cache", "_make", "_overwrite", "_served", "_sources", "_versions", "depth",
        "pending",
    )  # fmt: skip

    def __init__(
        self,
        make: Callable[..., Tensor],
        sources: tuple[Recipe | Tensor, ...],
        depth: int,
        overwrite: Callable[..., Tensor] | None,
    ) -> None:
        self._make, self._sources, self.depth = make, sources, depth
        self._versions = [None if isinstance(s, Recipe) else s._version for s in sources]
        # The same operation in place on its first source, where nobody else wants that one.
        self._overwrite = overwrite
        self.pending = 0  # how many saved tensors stand for this recipe
        self._served = 0
        self._cache: Tensor | None = None

    def serve(self) -> Tensor:
        """The tensor, for one of those who kept it; the last one frees it."""
        value = self._compute()
        self._served += 1
        done = self._served >= self.pending
        self._served, self._cache = (0, None) if done else (self._served, value)
        return value

    def _compute(self) -> Tensor:
        if self._cache is not None:
            return self._cache
        for source, version in zip(self._sources, self._versions, strict=True):
            if isinstance(source, Tensor) and source._version != version:
                raise RuntimeError(_CHANGED)
        ready = [s._ingredient() if isinstance(s, Recipe) else s for s in self._sources]
        first = self._sources[0]
        if self._overwrite is not None and isinstance(first, Recipe) and first._cache is None:
            return self._overwrite(*ready)
        return self._make(*ready)

    def _ingredient(self) -> Tensor:
        value = self._compute()
        if self._served < self.pending:  # it will be asked for by itself soon
            self._cache = value
        return value


_Hooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]


class _Kept:
    """What autograd holds in place of a saved tensor."""

    __slots__ = (
        "base_stride", "held", "outer", "recipe", "shape", "storage", "tensor", "version", "view",
    )  # fmt: skip

    def __init__(self, tensor: Tensor | None, storage: int, shape: torch.Size) -> None:
        self.tensor, self.storage, self.shape = tensor, storage, shape
        self.version = 0 if tensor is None else tensor._version
        self.outer: _Hooks | None = None
        self.held: Any = None
        self.recipe: Recipe | None = None
        self.base_stride: tuple[int, ...] = ()
        self.view: tuple[Any, ...] | None = None

    def replace(self, recipe: Recipe, base: _Entry, tensor: Tensor) -> None:
        self.tensor, self.recipe, self.base_stride = None, recipe, base.stride
        recipe.pending += 1
        layout = (tensor.shape, tensor.stride(), tensor.storage_offset())
        self.view = None if layout == (base.shape, base.stride, 0) else layout

    def hand_over(self, outer: _Hooks) -> None:
        """Let the saved-tensor hooks around this forward (offloading, a trace) keep it."""
        if self.tensor is not None:
            self.held, self.outer, self.tensor = outer[0](self.tensor), outer, None

    def unpack(self) -> Tensor:
        if self.outer is not None:
            returned: Tensor = self.outer[1](self.held)
            return returned
        if self.recipe is None:
            assert self.tensor is not None
            if self.tensor._version != self.version:  # autograd checks this only without hooks
                raise RuntimeError(_CHANGED)
            return self.tensor
        with torch.no_grad():
            value = self.recipe.serve()
            if value.stride() != self.base_stride:
                laid_out = torch.empty_strided(
                    value.shape, self.base_stride, dtype=value.dtype, device=value.device
                )
                value = laid_out.copy_(value)
            return value if self.view is None else value.as_strided(*self.view)


@dataclass
class _Entry:
    """A tensor of this forward that has a recipe."""

    recipe: Recipe
    storage: StorageWeakRef
    tensor: weakref.ref[Tensor]
    version: int
    shape: torch.Size
    stride: tuple[int, ...]

    def is_current(self) -> bool:
        tensor = self.tensor()
        return tensor is None or tensor._version == self.version


@dataclass
class Watch:
    """The recipes of one forward."""

    min_bytes: int
    max_depth: int
    outer: _Hooks | None = None
    entries: dict[int, _Entry] = field(default_factory=dict)
    whole: dict[int, StorageWeakRef] = field(default_factory=dict)
    """Storages that autograd keeps as they are."""
    packed: list[_Kept] = field(default_factory=list)
    """What the operation now running keeps."""

    def settle(self) -> None:
        """The operation before is over: what it packed and no recipe took back is kept."""
        if self.outer is not None:
            for kept in self.packed:
                kept.hand_over(self.outer)
        self.packed.clear()

    def pack(self, tensor: Tensor) -> _Kept:
        key = _key(tensor)
        kept = _Kept(tensor, key, tensor.shape)
        entry = self.entries.get(key)
        if entry is not None and entry.is_current():
            kept.replace(entry.recipe, entry, tensor)
        else:
            self.note(tensor)
            self.packed.append(kept)
        return kept

    def note(self, tensor: Tensor) -> None:
        if _key(tensor) not in self.whole:
            self.whole[_key(tensor)] = _weak(tensor)

    def recipe_of(self, tensor: Tensor) -> Recipe | None:
        entry = self.entries.get(_key(tensor))
        if entry is None or not entry.is_current():
            return None
        # Only the tensor itself: a view would need its own layout.
        same = tensor.shape == entry.shape and tensor.stride() == entry.stride
        return entry.recipe if same else None

    def source(self, tensor: Tensor, *, is_kept: bool = False) -> Recipe | Tensor | None:
        """The recipe of a tensor, or itself when autograd keeps it anyway, or None."""
        recipe = self.recipe_of(tensor)
        if recipe is not None:
            return recipe
        if is_kept or _key(tensor) in self.whole:
            return tensor.detach()
        return None

    def learn(
        self,
        out: Tensor,
        make: Callable[..., Tensor],
        *sources: Recipe | Tensor,
        step: int = 0,
        overwrite: Callable[..., Tensor] | None = None,
    ) -> Recipe | None:
        """Remember how `out` was made, for whoever keeps it from now on."""
        if out.numel() * out.element_size() < self.min_bytes or not _is_dense(out):
            return None
        depth = step + max((s.depth for s in sources if isinstance(s, Recipe)), default=0)
        if depth > self.max_depth:
            self.entries.pop(_key(out), None)
            return None
        recipe = Recipe(make, sources, depth, overwrite)
        entry = _Entry(recipe, _weak(out), weakref.ref(out), out._version, out.shape, out.stride())
        self.entries[_key(out)] = entry
        return recipe

    def take_back(self, kept: _Kept, like: Tensor, entry: _Entry, recipe: Recipe) -> None:
        """Let what the running operation has already packed stand for a recipe instead."""
        kept.replace(recipe, entry, like)
        self.whole.pop(kept.storage, None)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _weak(tensor: Tensor) -> StorageWeakRef:
    # While the weak reference lives, no other storage gets the same address.
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _is_dense(tensor: Tensor) -> bool:
    size = tensor.numel() * tensor.element_size()
    return bool(tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == size)


# ---- operations that are made again -------------------------------------------------------------


Handler = Callable[..., Any]
_HANDLERS: dict[Any, Handler] = {}


def _handles(*functions: Any) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        _HANDLERS.update(dict.fromkeys(functions, handler))
        return handler

    return register


def _is_tracked(value: Any) -> bool:
    return type(value) is Tensor and value.requires_grad and value.is_floating_point()


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
    entry = watch.entries.get(_key(x)) if before is not None else None
    if before is not None and func in _WITHOUT_COPY and _asks_in_place(args, kwargs):
        out = _InPlace.apply(x, before, func)
        watch.learn(out, _again(func, x, (), {}), before)
        return out
    out = func(*args, **kwargs)
    if not _is_tracked(out):
        return out
    if _key(out) == _key(x):
        # In place: autograd has kept a copy of the old x, which its recipe can stand for.
        copies = [k for k in watch.packed if k.shape == x.shape and k.tensor is not None]
        if before is None or entry is None or len(copies) != 1:
            watch.entries.pop(_key(out), None)
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
            watch.entries.pop(_key(out), None)
        return out
    if func in (F.relu6, F.hardtanh):
        rest, options = args[1:], {k: v for k, v in kwargs.items() if k not in ("input", "inplace")}
        if func is F.relu6:
            rest = ()
        again = _again(func, x, rest, options)
    else:
        again = _again(torch.relu, x, (), {})
    already = [k for k in watch.packed if k.storage == _key(out)]
    overwrite = torch.relu_ if func not in (F.relu6, F.hardtanh) else None
    recipe = watch.learn(out, again, before, overwrite=overwrite)
    if recipe is not None:
        entry = watch.entries[_key(out)]
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
        if not training or not fits or type(input) is not Tensor or input.numel() == 0:
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
        if not _is_tracked(out) or type(input) is not Tensor:
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
    if len(args) != 2 or kwargs or not all(type(a) is Tensor for a in args):
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
    watch.entries.pop(_key(out), None)
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


class _Listening(TorchFunctionMode):
    """Sends the operations above to their handlers."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        handler = _HANDLERS.get(func)
        if handler is None or not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        self.watch.settle()
        return handler(self.watch, func, args, kwargs or {})


@contextlib.contextmanager
def recomputing(min_bytes: int = 2**15, max_depth: int = 1) -> Iterator[None]:
    """Inside, autograd keeps recipes for what is cheap to make again.

    Args: min_bytes: tensors smaller than this are kept as they are
          max_depth: how many residual sums in a row may be made again from one another
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or is_transformed():
        yield
        return
    # Hooks do not nest by themselves: the innermost hides the others, so they are called from it.
    outer: _Hooks | None = torch._C._autograd._top_saved_tensors_default_hooks(True)
    watch = Watch(min_bytes, max_depth, outer)
    with saved_tensors_hooks(watch.pack, lambda kept: kept.unpack()), _Listening(watch):
        yield
    watch.settle()
