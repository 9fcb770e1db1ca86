"""What the autograd graph of one forward shows: leaves of its own, gradients of another shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from toque.layers.verification.subject import Subject, Wrong


def own_leaves(subject: Subject) -> str:
    """What a module trains is in its parameters(): no weight made in forward or kept in a list."""
    values = subject.values(torch.float32)
    given = {id(value) for value in values}
    first, second = (_leaves(subject, values) for _ in range(2))
    strange = [leaf for key, leaf in first.items() if key not in given]
    if not strange:
        return ""
    shape = "x".join(map(str, strange[0].shape)) or "scalar"
    if not first.keys() & second.keys() - given:
        raise Wrong(
            f"forward makes a new tensor of shape {shape} that requires a gradient in every call: "
            "what it learns is lost; make it an nn.Parameter in __init__, or compute with the "
            "input itself and not with a copy (torch.tensor, from_numpy)"
        )
    if subject.module is not None:
        raise Wrong(
            f"a weight of shape {shape} is trained that parameters() does not list, so no "
            "optimizer, device move or state_dict sees it: keep layers in nn.ModuleList, weights "
            "in nn.Parameter"
        )
    return f"a weight of shape {shape} is not among its arguments"


def _leaves(subject: Subject, values: list[torch.Tensor]) -> dict[int, torch.Tensor]:
    """The tensors at the ends of the graph, by identity; they stay alive in the answer."""
    outputs = subject.call(values)
    ends = (node for node in _nodes(outputs) if hasattr(node, "variable"))
    return {id(node.variable): node.variable for node in ends}


def gradient_shapes(subject: Subject) -> str:
    """A hand-written backward returns gradients of its inputs' shapes.

    The engine sums a gradient that was broadcast down to its input's shape without a word, which
    is right by luck, takes the memory of the whole, and fails elsewhere (torch.func, compile).
    """
    values = subject.values()
    outputs = subject.call(values)
    names = {id(v): f"`{s.name}`" for s, v in zip(subject.slots, values, strict=True)}
    found: list[str] = []
    with ExitStack() as stack:
        for function in {type(node): node for node in _nodes(outputs) if _is_python(node)}:
            stack.enter_context(_watched(function._forward_cls, names, found))
        subject.finish(outputs, values)
    if found:
        raise Wrong(found[0])
    return ""


def _is_python(node: Any) -> bool:
    return isinstance(node, torch.autograd.function.BackwardCFunction)


@contextmanager
def _watched(function: Any, names: dict[int, str], found: list[str]) -> Iterator[None]:
    """While it is open, the backward of an autograd.Function reports gradients of another shape."""
    attribute = "vjp" if function.backward is torch.autograd.Function.backward else "backward"
    inherited, original = attribute not in vars(function), getattr(function, attribute)

    def backward(ctx: Any, *arriving: Any) -> Any:
        gradients = original(ctx, *arriving)
        each = gradients if isinstance(gradients, tuple | list) else (gradients,)
        for position, (gradient, edge) in enumerate(zip(each, ctx.next_functions, strict=False)):
            parent, output = edge
            if not isinstance(gradient, torch.Tensor) or parent is None:
                continue
            expected = tuple(parent._input_metadata[output].shape)
            if tuple(gradient.shape) != expected:
                name = names.get(id(getattr(parent, "variable", None)), f"its input {position}")
                found.append(
                    f"backward returns a gradient of shape {list(gradient.shape)} for {name} of "
                    f"shape {list(expected)}: sum it over what was broadcast"
                )
        return gradients

    setattr(function, attribute, staticmethod(backward))
    try:
        yield
    finally:
        if inherited:
            delattr(function, attribute)
        else:
            setattr(function, attribute, staticmethod(original))


def _nodes(outputs: list[torch.Tensor]) -> Iterator[Any]:
    stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        yield node
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                stack.append(parent)
