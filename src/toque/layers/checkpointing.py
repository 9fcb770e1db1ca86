"""Whole blocks computed again in backward: only what goes into each is kept.

Names, state and outputs of a model stay as they are: a block's forward is called through an object
that stands in its place, and every hook around the block runs once, as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from toque.layers.tensors import tensors_in


def checkpoint_blocks(model: nn.Module, blocks: Iterable[str]) -> None:
    """Compute these blocks again in backward; about a third more time for most of the memory.

    The same draws (dropout) are made again, BatchNorm's running statistics move once.

    Args: blocks: names of modules, as `find_blocks` gives them; none inside another
    """
    for name in blocks:
        block: Any = model.get_submodule(name)
        if not isinstance(vars(block).get("forward"), _Again):
            block.forward = _Again(block)


def keep_blocks(model: nn.Module) -> None:
    """Undo checkpoint_blocks."""
    for module in model.modules():
        if isinstance(vars(module).get("forward"), _Again):
            del module.forward


def find_blocks(model: nn.Module, run: Callable[[], Any]) -> tuple[str, ...]:
    """The names of a model's blocks that may be computed again.

    A block is one of several in a row (nn.Sequential, nn.ModuleList) with two or more weights, and
    no two of its own parts are such blocks. Left out are those that are not called exactly once,
    that change what they are given, or that change buffers other than BatchNorm's.

    Args: run: one forward of the model in training, which may be on fake tensors
    """
    names = _innermost(_rows(model))
    watched = {name: _Watched(model.get_submodule(name)) for name in names}
    try:
        run()
    finally:
        for watch in watched.values():
            watch.remove()
    return tuple(name for name, watch in watched.items() if watch.calls == 1 and not watch.changed)


def again(body: nn.Module, run: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """What `run` returns, computed again in backward; `body` holds the statistics it moves."""
    if not torch.is_grad_enabled():
        return run(*inputs, **options)
    if torch.compiler.is_compiling():  # the recomputation is the compiler's and moves nothing
        return checkpoint(lambda *x: run(*x, **options), *inputs, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _statistics_kept(body)

    return checkpoint(
        lambda *x: run(*x, **options), *inputs, use_reentrant=False, context_fn=contexts
    )


class _Again:
    """Stands in the place of a block's forward; a copy of the block has its own."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        forward: Any = type(self.block).forward
        return again(self.block, lambda *x, **y: forward(self.block, *x, **y), *inputs, **options)


class _Watched:
    """How often a block is called, and whether it changes what it is given or holds."""

    def __init__(self, block: nn.Module) -> None:
        self.calls, self.changed = 0, False
        kept = [m for m in block.modules() if not isinstance(m, _BatchNorm)]
        self._buffers = [b for module in kept for b in module.buffers(recurse=False)]
        self._before: list[tuple[Tensor, int]] = []
        self._hooks = [
            block.register_forward_pre_hook(self._enter, with_kwargs=True),
            block.register_forward_hook(self._leave),
        ]

    def _enter(self, block: nn.Module, inputs: Any, options: Any) -> None:
        self.calls += 1
        given = (*tensors_in((inputs, options)), *self._buffers)
        self._before = [(tensor, tensor._version) for tensor in given]

    def _leave(self, block: nn.Module, inputs: Any, outputs: Any) -> None:
        self.changed |= any(tensor._version != version for tensor, version in self._before)
        self._before = []

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _rows(model: nn.Module) -> list[str]:
    """Names of modules in a row that hold two or more weights of layers, each before its parts."""
    return [
        name
        for name, module in model.named_modules()
        if name
        and isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Sequential | nn.ModuleList)
        and sum(parameter.ndim > 1 for parameter in module.parameters()) > 1
    ]


def _innermost(names: list[str]) -> list[str]:
    """Those of the names that do not hold two others."""
    chosen: list[str] = []
    for name in reversed(names):
        inside = [other for other in chosen if other.startswith(f"{name}.")]
        if len(inside) < 2:
            chosen = [other for other in chosen if other not in inside] + [name]
    return chosen[::-1]


@contextmanager
def _statistics_kept(body: nn.Module) -> Iterator[None]:
    norms = [m for m in body.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    counts = [None if count is None else count.clone() for _, count in before]
    try:
        for norm in norms:
            # Not track_running_stats = False: the layer would then save other tensors than before.
            norm.momentum = 0.0
        yield
    finally:
        for norm, (momentum, tracked), count in zip(norms, before, counts, strict=True):
            norm.momentum = momentum
            if tracked is not None and count is not None:
                tracked.copy_(count)
