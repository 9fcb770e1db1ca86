"""save_memory: a model whose backward makes cheap activations again instead of keeping them."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import nn

from toque import checks
from toque.layers.recompute import recomputing
from toque.layers.saved import trace_saved

Model = TypeVar("Model", bound=nn.Module)


def save_memory(
    model: Model,
    *,
    compiled: bool = False,
    budget: float = 0.9,
    min_bytes: int = 2**15,
    max_depth: int = 1,
) -> Model:
    """Let a model keep fewer bytes for backward, with the same gradients.

    In eager mode, what activations, normalisations, gates and residual sums return is made again in
    backward from what is kept anyway. It works on any model, by the operations it runs: nothing in
    it is replaced, and names, state_dict and outputs stay as they are. Where the run compiles,
    torch.compile's own activation_memory_budget does better and is set instead; compiled, gradients
    differ from eager's by rounding, as without a budget (measure it with `compare_gradients`).

    Saved bytes, eager (batch 8 at 224, torch 2.14): see benchmarks/RESULTS.md, "layers".

    Args:    model: changed in place and returned; calling it twice does nothing more
             compiled: the model will be compiled: set the budget, for the whole process
             budget: share of the activations that a compiled model may keep, 0 to 1
             min_bytes, max_depth: as in `recomputing`
    Raises:  ValueError: budget outside 0 .. 1
             TypeError: no module
    Example: >>> model = save_memory(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU()))
    """
    checks.require_module("save_memory", model)
    if not 0 <= budget <= 1:
        raise checks.invalid("save_memory", "budget", "in 0 .. 1", budget, "0.9 is usual.")
    if compiled:
        _set_compile_budget(budget)
        return model
    if not is_saving_memory(model):
        saving = _Saving(min_bytes, max_depth)
        model.register_forward_pre_hook(saving.enter)
        model.register_forward_hook(saving.leave, always_call=True)
    return model


def keep_activations(model: Model) -> Model:
    """Undo save_memory."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for handle, hook in list(hooks.items()):
            if isinstance(getattr(hook, "__self__", None), _Saving):
                del hooks[handle]
                model._forward_hooks_always_called.pop(handle, None)
    return model


def is_saving_memory(model: nn.Module) -> bool:
    """True after save_memory."""
    hooks = model._forward_pre_hooks.values()
    return any(isinstance(getattr(hook, "__self__", None), _Saving) for hook in hooks)


def saved_bytes(model: nn.Module, *inputs: Any) -> int:
    """Bytes that one forward keeps for backward, beside parameters, buffers and the inputs."""
    return trace_saved(model, *inputs).saved_bytes


class _Saving:
    """The two hooks of one model; each thread has its own stack of running forwards."""

    def __init__(self, min_bytes: int, max_depth: int) -> None:
        self.min_bytes, self.max_depth = min_bytes, max_depth

    def __deepcopy__(self, memo: dict[int, Any]) -> _Saving:
        return _Saving(self.min_bytes, self.max_depth)

    def enter(self, module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        stack = ExitStack()
        stack.enter_context(recomputing(self.min_bytes, self.max_depth))
        _running().append(stack)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        _running().pop().close()


_local = threading.local()


def _running() -> list[ExitStack]:
    if not hasattr(_local, "stack"):
        _local.stack = []
    stack: list[ExitStack] = _local.stack
    return stack


def _set_compile_budget(budget: float) -> None:
    import torch._functorch.config as config

    if config.activation_memory_budget != budget:
        config.activation_memory_budget = budget
        torch._dynamo.reset()  # what was compiled before would keep the old budget
