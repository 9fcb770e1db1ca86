"""One plain composition and one fast pass made into a layer that survives every transform.

A hand-written autograd.Function is fast in one situation: eager forward and backward. In every
other (torch.compile, torch.func, forward-mode AD, vmap, double backward) it is refused, or worse,
wrong. `fused` keeps both: the fast pass for the eager step, the plain composition for the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from toque import checks

Needs = tuple[bool, ...]
Residuals = tuple[Tensor, ...]
Autocast = Literal["lower", "float32", "keep"]
Traced = Literal["reference", "checkpoint"]

_functorch_is_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
_is_legacy_batched: Callable[[Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor


def is_transformed() -> bool:
    """True inside a torch.func transform or a forward-mode level: the reference must run."""
    return _functorch_is_active() or torch.autograd.forward_ad._current_level >= 0


class Fused:
    """What `fused` returns: call it like its reference, with positional arguments."""

    def __init__(
        self,
        reference: Callable[..., Tensor],
        forward: Callable[..., tuple[Tensor, Residuals]],
        backward: Callable[..., Sequence[Tensor | None]],
        keeps: frozenset[int],
        autocast: Autocast,
        traced: Traced,
        name: str,
    ) -> None:
        self.reference, self.forward, self.backward = reference, forward, backward
        self.keeps, self.autocast, self.traced, self.name = keeps, autocast, traced, name
        # A class of its own, so that the name of the node in the graph is the name of the layer.
        self._function: type[Function] = type(
            name, (Function,), {"forward": _forward, "backward": _backward}
        )
        self.__name__ = self.__qualname__ = name
        self.__doc__ = reference.__doc__

    def __repr__(self) -> str:
        return f"fused({self.name})"

    def __call__(self, *arguments: Any) -> Tensor:
        if torch.compiler.is_compiling():
            if self.traced == "checkpoint" and not torch.compiler.is_exporting():
                recomputed: Tensor = checkpoint(self.reference, *arguments, use_reentrant=False)
                return recomputed
            return self.reference(*arguments)
        if is_transformed():
            return self.reference(*arguments)
        device = next(a.device.type for a in arguments if isinstance(a, Tensor))
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            cast = [self._cast(argument, device) for argument in arguments]
            with torch.autocast(device, enabled=False):
                return self._run(*cast)
        return self._run(*arguments)

    def _run(self, *arguments: Any) -> Tensor:
        if torch.is_grad_enabled():
            needs = tuple(isinstance(a, Tensor) and a.requires_grad for a in arguments)
            if True in needs:
                out: Tensor = self._function.apply(self, needs, *arguments)
                return out
        return self.forward((False,) * len(arguments), *arguments)[0]

    def _cast(self, argument: Any, device: str) -> Any:
        if not isinstance(argument, Tensor) or not argument.is_floating_point():
            return argument
        if self.autocast == "keep" or argument.dtype == torch.float64:
            return argument
        if self.autocast == "float32":
            return argument.float()
        return argument.to(torch.get_autocast_dtype(device))


def _forward(ctx: Any, op: Fused, needs: Needs, *arguments: Any) -> Tensor:
    out, residuals = op.forward(needs, *arguments)
    ctx.set_materialize_grads(False)
    ctx.op = op
    ctx.kept = [i for i, a in enumerate(arguments) if i in op.keeps and isinstance(a, Tensor)]
    ctx.num_tensors = sum(isinstance(a, Tensor) for a in arguments)
    ctx.plain = [None if isinstance(a, Tensor) else a for a in arguments]
    ctx.save_for_backward(*(arguments[i] for i in ctx.kept), *residuals)
    return out


def _backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    op: Fused = ctx.op
    needs: Needs = ctx.needs_input_grad[2:]
    if grad is None:
        return (None,) * (len(needs) + 2)
    inputs = list(ctx.plain)
    saved = ctx.saved_tensors  # read once: under checkpoint a second reading is an error
    for position, tensor in zip(ctx.kept, saved, strict=False):
        inputs[position] = tensor
    if torch.is_grad_enabled() or is_transformed() or _is_legacy_batched(grad):
        return (None, None, *_differentiate_reference(op, grad, inputs, needs, ctx))
    residuals = saved[len(ctx.kept) :]
    device = grad.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return (None, None, *op.backward(needs, grad, inputs, residuals))
    return (None, None, *op.backward(needs, grad, inputs, residuals))


def _differentiate_reference(
    op: Fused, grad: Tensor, inputs: list[Any], needs: Needs, ctx: Any
) -> list[Tensor | None]:
    """Gradients that can be differentiated again: those of the plain composition."""
    wanted = [position for position, needed in enumerate(needs) if needed]
    if len(ctx.kept) < ctx.num_tensors:
        raise RuntimeError(
            f"{op.name}: its inputs must be kept for a second derivative; got a layer that drops "
            f"them to save memory. Call {op.name}.reference instead."
        )
    with torch.enable_grad():
        out = op.reference(*inputs)
        found = torch.autograd.grad(
            out, [inputs[i] for i in wanted], grad, create_graph=True, allow_unused=True
        )
    gradients: list[Tensor | None] = [None] * len(needs)
    for position, gradient in zip(wanted, found, strict=True):
        gradients[position] = gradient
    return gradients


def fused(
    reference: Callable[..., Tensor],
    forward: Callable[..., tuple[Tensor, Residuals]],
    backward: Callable[..., Sequence[Tensor | None]],
    *,
    keeps: Sequence[str] | None = None,
    autocast: Autocast = "lower",
    traced: Traced = "reference",
    name: str | None = None,
) -> Fused:
    """A layer from one plain composition and one fast pass.

    Eager forward and backward take the fast pass. torch.compile, torch.func, forward-mode AD and
    double backward take the reference, which torch can transform in any way. `needs` tells the fast
    pass which arguments want a gradient.

    Args:    reference: (*inputs) -> out; plain PyTorch, differentiable any number of times. Its
             signature is the layer's
             forward: (needs, *inputs) -> (out, residuals); runs without autograd. residuals is a
             tuple of tensors kept for backward besides the inputs
             backward: (needs, grad, inputs, residuals) -> one gradient or None for each input. It
             must not write into grad, inputs or residuals
             keeps: names of the tensor inputs backward reads (None for all). An input left out is
             not kept alive, and second derivatives with respect to it are refused
             autocast: "lower" casts the inputs to autocast's dtype (as linear and convolution do),
             "float32" casts half inputs up (as losses and norms do), "keep" leaves them
             traced: what torch.compile sees: the "reference", or the reference under "checkpoint"
             name: of the layer and its node in the graph; the reference's name when None
    Raises:  ValueError: a name in keeps that is not an argument of reference
    Example: >>> square = fused(lambda x: x * x,
             ...                lambda needs, x: (x * x, ()),
             ...                lambda needs, grad, inputs, residuals: (2 * inputs[0] * grad,))
    Cost:    about 20 microseconds a call above a bare autograd.Function
    """
    parameters = list(inspect.signature(reference).parameters)
    for kept in keeps or ():
        if kept not in parameters:
            raise checks.invalid(
                "fused", "keeps", "names of the reference's arguments", kept,
                checks.nearest(kept, parameters),
            )  # fmt: skip
    positions = frozenset(
        i for i, parameter in enumerate(parameters) if keeps is None or parameter in keeps
    )
    return Fused(
        reference, forward, backward, positions, autocast, traced, name or reference.__name__
    )
