"""Recipes: how tensors of one forward are made again, and what autograd holds in their place."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from toque.layers.tensors import storage_of

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


Hooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]


class _Kept:
    """What autograd holds in place of a saved tensor."""

    __slots__ = (
        "base_stride", "held", "outer", "recipe", "shape", "storage", "tensor", "version", "view",
    )  # fmt: skip

    def __init__(self, tensor: Tensor | None, storage: int, shape: torch.Size) -> None:
        self.tensor, self.storage, self.shape = tensor, storage, shape
        self.version = 0 if tensor is None else tensor._version
        self.outer: Hooks | None = None
        self.held: Any = None
        self.recipe: Recipe | None = None
        self.base_stride: tuple[int, ...] = ()
        self.view: tuple[Any, ...] | None = None

    def replace(self, recipe: Recipe, base: _Entry, tensor: Tensor) -> None:
        self.tensor, self.recipe, self.base_stride = None, recipe, base.stride
        recipe.pending += 1
        layout = (tensor.shape, tensor.stride(), tensor.storage_offset())
        self.view = None if layout == (base.shape, base.stride, 0) else layout

    def hand_over(self, outer: Hooks) -> None:
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
    outer: Hooks | None = None
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
        key = storage_of(tensor)
        kept = _Kept(tensor, key, tensor.shape)
        entry = self.entries.get(key)
        if entry is not None and entry.is_current():
            kept.replace(entry.recipe, entry, tensor)
        else:
            self.note(tensor)
            self.packed.append(kept)
        return kept

    def note(self, tensor: Tensor) -> None:
        if storage_of(tensor) not in self.whole:
            self.whole[storage_of(tensor)] = _weak(tensor)

    def recipe_of(self, tensor: Tensor) -> Recipe | None:
        entry = self.entries.get(storage_of(tensor))
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
        if is_kept or storage_of(tensor) in self.whole:
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
            self.entries.pop(storage_of(out), None)
            return None
        recipe = Recipe(make, sources, depth, overwrite)
        entry = _Entry(recipe, _weak(out), weakref.ref(out), out._version, out.shape, out.stride())
        self.entries[storage_of(out)] = entry
        return recipe

    def take_back(self, kept: _Kept, like: Tensor, entry: _Entry, recipe: Recipe) -> None:
        """Let what the running operation has already packed stand for a recipe instead."""
        kept.replace(recipe, entry, like)
        self.whole.pop(kept.storage, None)


def _weak(tensor: Tensor) -> StorageWeakRef:
    # While the weak reference lives, no other storage gets the same address.
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _is_dense(tensor: Tensor) -> bool:
    size = tensor.numel() * tensor.element_size()
    return bool(tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == size)
