"""Saved tensors that are made again in backward instead of kept: the engine of save_memory.

Autograd keeps the input of each convolution and linear layer. Most of these are cheap functions of
something that is kept anyway: an activation of its own input, a normalisation of its own input. The
engine watches one forward, remembers for such tensors how they were made (a recipe), and hands
autograd the recipe where it would keep the tensor. Backward computes the same operation on the same
numbers again, so gradients are the same bits, and a BatchNorm's running statistics move once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from toque.layers.fused import is_transformed
from toque.layers.recipe import Hooks, Watch
from toque.layers.rules import HANDLERS


class _Listening(TorchFunctionMode):
    """Sends the operations above to their handlers."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        handler = HANDLERS.get(func)
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
    outer: Hooks | None = torch._C._autograd._top_saved_tensors_default_hooks(True)
    watch = Watch(min_bytes, max_depth, outer)
    with saved_tensors_hooks(watch.pack, lambda kept: kept.unpack()), _Listening(watch):
        yield
    watch.settle()
