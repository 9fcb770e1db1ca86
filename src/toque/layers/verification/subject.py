"""The layer under proof: a module or a function, its tensors by name, and one way to run it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from toque import random
from toque.layers.tensors import tensors_in


class Wrong(Exception):
    """A check found a mistake; the message is the likely cause in one sentence."""


class NotSupported(Exception):
    """The layer does not offer this; the message says what it answered."""


@dataclass(frozen=True)
class Slot:
    """A tensor that the layer reads: an input or a parameter."""

    name: str
    is_parameter: bool
    is_differentiable: bool


@dataclass(frozen=True)
class Outcome:
    """What one forward and backward gave: outputs and the gradient of each differentiable slot."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor | None]


@dataclass
class Subject:
    """A layer with example values, run as a pure function of its tensors.

    Buffers are cloned before each run, and torch's generator is seeded, so that the same values
    give the same answer even for BatchNorm and Dropout. `target` itself is never changed.
    """

    target: Callable[..., Any]
    name: str
    slots: list[Slot]
    examples: list[Tensor]
    spec: pytree.TreeSpec
    leaves: list[Any]
    tensor_positions: list[int]
    buffers: dict[str, Tensor]
    reference: Callable[..., Any] | None = None
    is_in_place: bool = False
    pristine: nn.Module | None = None
    """A copy of the module that has not run yet."""

    @property
    def module(self) -> nn.Module | None:
        return self.target if isinstance(self.target, nn.Module) else None

    @property
    def wanted(self) -> list[int]:
        """Positions of the slots whose gradient is asked."""
        return [i for i, slot in enumerate(self.slots) if slot.is_differentiable]

    @property
    def input_positions(self) -> list[int]:
        return [i for i, slot in enumerate(self.slots) if not slot.is_parameter]

    def values(
        self,
        dtype: torch.dtype | None = torch.float64,
        *,
        wanted: Sequence[int] | None = None,
        change: Callable[[int, Tensor], Tensor] | None = None,
    ) -> list[Tensor]:
        """Fresh leaves with the example values; `change(position, tensor)` may lay them out."""
        wanted = self.wanted if wanted is None else wanted
        made = []
        for position, example in enumerate(self.examples):
            value = example.detach()
            if dtype is not None and value.is_floating_point():
                value = value.to(dtype)
            value = value.clone(memory_format=torch.preserve_format)
            if change is not None:
                value = change(position, value)
            made.append(value.requires_grad_(position in wanted))
        return made

    def call(
        self,
        values: Sequence[Tensor],
        *,
        seed: int = 0,
        function: Callable[..., Any] | None = None,
        buffers: dict[str, Tensor] | None = None,
    ) -> list[Tensor]:
        """The tensors among the outputs for these values, of another `function` when given."""
        random.seed_torch(seed, "verify")
        leaves = list(self.leaves)
        parameters: dict[str, Tensor] = {}
        inputs_seen = 0
        for slot, value in zip(self.slots, values, strict=True):
            if slot.is_parameter:
                parameters[slot.name] = value
            else:
                fed = value.clone() if self.is_in_place else value
                leaves[self.tensor_positions[inputs_seen]] = fed
                inputs_seen += 1
        arguments = pytree.tree_unflatten(leaves, self.spec)
        target = self.target if function is None else function
        if isinstance(target, nn.Module):
            if buffers is None:
                buffers = self.fresh_buffers(values)
            found = functional_call(target, {**parameters, **buffers}, tuple(arguments))
        else:
            found = target(*arguments)
        return tensors_in(found)

    def call_directly(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The outputs with the module's own parameters; its buffers move, as in training."""
        if self.module is None:
            return self.call(values)
        own = dict(self.module.named_parameters())
        mixed = [
            own[slot.name] if slot.is_parameter else value
            for slot, value in zip(self.slots, values, strict=True)
        ]
        return self.call(mixed, function=lambda *arguments: self.target(*arguments))

    def fresh_buffers(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
        """Clones of the buffers in the dtype and on the device of the values."""
        # Parameters first: under autocast the inputs may be of a lower dtype than the module's.
        ordered = sorted(zip(self.slots, values, strict=True), key=lambda p: not p[0].is_parameter)
        floating = next((v for _, v in ordered if v.is_floating_point()), None)
        made = {}
        for name, buffer in self.buffers.items():
            clone = buffer.detach().clone()
            if floating is not None:
                clone = clone.to(floating.device)
                if clone.is_floating_point():
                    clone = clone.to(floating.dtype)
            made[name] = clone
        return made

    def run(
        self,
        values: Sequence[Tensor],
        *,
        seed: int = 0,
        function: Callable[..., Any] | None = None,
        cotangents: Sequence[Tensor] | None = None,
    ) -> Outcome:
        """Forward, then backward from fixed cotangents."""
        outputs = self.call(values, seed=seed, function=function)
        return self.finish(outputs, values, cotangents)

    def finish(
        self,
        outputs: list[Tensor],
        values: Sequence[Tensor],
        cotangents: Sequence[Tensor] | None = None,
        *,
        retain_graph: bool = False,
    ) -> Outcome:
        """The backward pass of a forward made by `call`."""
        sources = [output for output in outputs if output.requires_grad]
        leaves = {
            slot.name: value
            for slot, value in zip(self.slots, values, strict=True)
            if value.requires_grad
        }
        gradients: dict[str, Tensor | None] = dict.fromkeys(leaves)
        if sources and leaves:
            if cotangents is None:
                # By position among all outputs: which of them require gradients may change.
                floating = [o for o in outputs if o.is_floating_point() or o.is_complex()]
                pairs = zip(floating, cotangents_for(floating), strict=True)
                cotangents = [c for o, c in pairs if o.requires_grad]
            found = torch.autograd.grad(
                sources,
                list(leaves.values()),
                list(cotangents),
                allow_unused=True,
                retain_graph=retain_graph,
            )
            gradients = dict(zip(leaves, found, strict=True))
        # Copies: a layer that uses a buffer again would change the answer afterwards.
        with torch.no_grad():
            return Outcome([output.clone() for output in outputs], gradients)

    def resized(self, resize: Callable[[int, Tensor], Tensor]) -> Subject:
        """The same layer with other example inputs; parameters keep their shapes."""
        smaller = copy.copy(self)
        smaller.examples = [
            example if slot.is_parameter else resize(position, example)
            for position, (slot, example) in enumerate(zip(self.slots, self.examples, strict=True))
        ]
        return smaller

    def shapes(self) -> str:
        """The inputs' shapes in words: "input 2x8x16x16"."""
        return ", ".join(
            f"{slot.name} {'x'.join(map(str, example.shape)) or 'scalar'}"
            for slot, example in zip(self.slots, self.examples, strict=True)
            if not slot.is_parameter
        )


def cotangents_for(outputs: Sequence[Tensor], seed: int = 1) -> list[Tensor]:
    """A fixed gradient for each output: normal numbers, the same for every dtype and layout."""
    key = random.Key(seed, 0, [0])
    made = []
    for position, output in enumerate(outputs):
        numbers = key.normal(f"verify {position}", output.numel()).reshape(output.shape)
        made.append(numbers.to(device=output.device, dtype=output.dtype))
    return made


def subject_of(
    target: Callable[..., Any], inputs: Sequence[Any], reference: Callable[..., Any] | None
) -> Subject:
    """Read a layer and its example inputs into a Subject.

    Inputs that require gradients are the differentiable ones; when none does, all floating inputs
    are. Parameters are moved a little off their values (seeded), so that a weight that starts at 1
    or a bias that starts at 0 cannot hide its own factor.
    """
    leaves, spec = pytree.tree_flatten(tuple(inputs))
    positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    tensors = [leaves[i] for i in positions]
    chosen = any(tensor.requires_grad for tensor in tensors)
    names = _input_names(target, inputs, len(tensors))
    slots = [
        Slot(name, False, t.is_floating_point() and (t.requires_grad or not chosen))
        for name, t in zip(names, tensors, strict=True)
    ]
    examples = [tensor.detach() for tensor in tensors]
    buffers: dict[str, Tensor] = {}
    if isinstance(target, nn.Module):
        key = random.Key(2, 0, [0])
        for name, parameter in target.named_parameters():
            moved = parameter.detach().double().cpu()
            noise = key.uniform(name, moved.numel()).reshape(moved.shape).double()
            moved = (moved * (1 + 0.2 * noise) + 0.05 * noise).to(parameter.dtype)
            slots.append(Slot(name, True, parameter.requires_grad))
            examples.append(moved.to(parameter.device))
        buffers = {name: buffer.detach().clone() for name, buffer in target.named_buffers()}
    leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    name = type(target).__name__ if isinstance(target, nn.Module) else _function_name(target)
    return Subject(
        target, name, slots, examples, spec, leaves, positions, buffers, reference
    )  # fmt: skip


def _function_name(target: Callable[..., Any]) -> str:
    return str(getattr(target, "__qualname__", getattr(target, "__name__", type(target).__name__)))


def _input_names(target: Callable[..., Any], inputs: Sequence[Any], count: int) -> list[str]:
    """Argument names where each argument is one tensor, numbered names otherwise."""
    function = target.forward if isinstance(target, nn.Module) else target
    owner = getattr(target, "__self__", None)
    is_function = False
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        is_function, function = True, owner.forward
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    if is_function and parameters and parameters[0].name == "ctx":
        del parameters[0]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters[: len(inputs)]):
        parameters = []
    names: list[str] = []
    for position, value in enumerate(inputs):
        base = parameters[position].name if position < len(parameters) else f"input{position}"
        if isinstance(value, Tensor):
            names.append(base)
        else:
            names.extend(f"{base}[{i}]" for i in range(len(tensors_in(value))))
    return names if len(names) == count else [f"input{i}" for i in range(count)]
