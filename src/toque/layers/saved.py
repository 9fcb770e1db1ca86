"""What one forward keeps for backward: every node of the graph, its tensors, and who made it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from toque import checks
from toque.layers.running import modules_running
from toque.layers.tensors import storage_of, tensors_in

Kind = Literal["own", "input", "parameter", "buffer"]


@dataclass(frozen=True)
class SavedTensor:
    """A tensor that a node keeps for backward.

    `kind` is "own" for what the forward made and would free without autograd; inputs, parameters
    and buffers are alive anyway. `storage` tells tensors that share memory.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    storage: int
    kind: Kind


@dataclass(frozen=True)
class Node:
    """One node of the autograd graph: the backward of one operation."""

    number: int
    name: str
    module: str
    """Path of the module that ran it, "" at the top."""
    line: str
    """File, line and code that made it, as "net.py:12: x = self.conv(x)"."""
    outputs: tuple[str, ...]
    """Shape and dtype of what its operation returned: "2x8x16 float32"."""
    saves: tuple[SavedTensor, ...]
    inputs: tuple[int, ...]
    """Numbers of the nodes whose results its operation read."""


@dataclass(frozen=True)
class Place:
    """One place of a model's code, in all its blocks: "blocks.*.mlp.act"."""

    module: str
    saver: str
    """Node and tensor: "GeluBackward0.self"."""
    count: int
    num_bytes: int


@dataclass(frozen=True)
class Trace:
    """The graph of one real forward."""

    nodes: tuple[Node, ...]

    @property
    def saved_bytes(self) -> int:
        """Bytes kept for backward that the forward made itself, each storage once."""
        return sum(tensor.num_bytes for _, tensor in self.largest())

    def largest(self, count: int | None = None) -> list[tuple[Node, SavedTensor]]:
        """The largest savers, each storage under the first node that keeps it."""
        first: dict[int, tuple[Node, SavedTensor]] = {}
        for node in self.nodes:
            for tensor in node.saves:
                if tensor.kind == "own":
                    first.setdefault(tensor.storage, (node, tensor))
        ordered = sorted(first.values(), key=lambda pair: -pair[1].num_bytes)
        return ordered[:count]

    def places(self) -> list[Place]:
        """What the same place of every block keeps together, the largest first."""
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for node, tensor in self.largest():
            parts = ("*" if part.isdigit() else part for part in node.module.split("."))
            key = ".".join(parts), f"{node.name}.{tensor.name}"
            count, num_bytes = sums.get(key, (0, 0))
            sums[key] = count + 1, num_bytes + tensor.num_bytes
        made = [Place(*key, *total) for key, total in sums.items()]
        return sorted(made, key=lambda place: -place.num_bytes)

    def __str__(self) -> str:
        lines = [f"{len(self.nodes)} nodes, {self.saved_bytes:,} bytes saved for backward"]
        for node, tensor in self.largest(10):
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            saver = f"{node.name}.{tensor.name}" + (f" in {node.module}" if node.module else "")
            line = f"  {tensor.num_bytes:>12,}  {shape} {tensor.dtype}  {saver}  {node.line}"
            lines.append(line.rstrip())
        repeated = [place for place in self.places() if place.count > 1]
        if repeated:
            lines.append("the same place of every block together:")
        lines += [
            f"  {place.num_bytes:>12,}  {place.count} x {place.saver} in {place.module or '-'}"
            for place in repeated[:5]
        ]
        return "\n".join(lines)


def trace_saved(function: Callable[..., Any], *inputs: Any) -> Trace:
    """Run one forward and look at the graph it leaves behind.

    The model's parameters and the inputs that require gradients are as in training: call it with
    `model.train()` and one real batch.

    Args:    function: a module or a function; inputs: what it is called with
    Raises:  ValueError: no output has a graph (nothing requires a gradient, or no_grad is on)
    Example: >>> print(trace_saved(torch.nn.Linear(4, 2), torch.randn(3, 4)))
             1 nodes, 0 bytes saved for backward
    """
    modules = function.named_modules() if isinstance(function, nn.Module) else ()
    kinds: dict[int, Kind] = {}
    for tensor in tensors_in(inputs):
        kinds[storage_of(tensor)] = "input"
    if isinstance(function, nn.Module):
        for parameter in function.parameters():
            kinds[storage_of(parameter)] = "parameter"
        for buffer in function.buffers():
            kinds[storage_of(buffer)] = "buffer"

    unpacked: list[Tensor] = []

    def unpack(tensor: Tensor) -> Tensor:
        unpacked.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack)
    with _module_spans(modules) as spans, _tracebacks(), hooks:
        found = function(*inputs)
    roots = [output.grad_fn for output in tensors_in(found) if output.grad_fn is not None]
    if not roots:
        raise checks.invalid(
            "trace_saved", "the output", "part of a graph", "no grad_fn",
            "Let a parameter or an input require gradients, and leave torch.no_grad().",
        )  # fmt: skip
    return Trace(tuple(_nodes(roots, spans, kinds, unpacked)))


def _nodes(
    roots: list[Any],
    spans: list[tuple[int, int, str]],
    kinds: dict[int, Kind],
    unpacked: list[Tensor],
) -> Iterator[Node]:
    order = _in_forward_order(roots)
    numbers = {node: number for number, node in enumerate(order)}
    for node, number in numbers.items():
        parents = tuple(numbers[parent] for parent, _ in node.next_functions if parent in numbers)
        yield Node(
            number=number,
            name=node.name().rsplit("::", 1)[-1],
            module=_module_at(node, spans),
            line="" if _is_leaf(node) else _user_line(node.metadata.get("traceback_", [])),
            outputs=tuple(_described(meta) for meta in node._input_metadata),
            saves=tuple(_saves(node, kinds, unpacked)),
            inputs=parents,
        )


def _in_forward_order(roots: list[Any]) -> list[Any]:
    seen: dict[Any, None] = dict.fromkeys(roots)
    stack = list(roots)
    while stack:
        for parent, _ in stack.pop().next_functions:
            if parent is not None and parent not in seen:
                seen[parent] = None
                stack.append(parent)
    # AccumulateGrad nodes have the largest sequence number: they belong to leaves, so first.
    return sorted(seen, key=lambda node: (not _is_leaf(node), node._sequence_nr()))


def _is_leaf(node: Any) -> bool:
    return bool(node.name().endswith("AccumulateGrad"))


def _saves(node: Any, kinds: dict[int, Kind], unpacked: list[Tensor]) -> Iterator[SavedTensor]:
    """Reading a node's saved attribute calls the unpack hook: that is how its tensors are found."""
    names = [name for name in dir(node) if name.startswith("_saved_")]
    if hasattr(node, "saved_tensors"):  # an autograd.Function of Python
        names = ["saved_tensors"]
    for name in names:
        unpacked.clear()
        try:
            getattr(node, name)
        except RuntimeError:  # freed already, or of a type that Python cannot see
            continue
        for tensor in unpacked:
            storage = storage_of(tensor)
            yield SavedTensor(
                name=name.removeprefix("_saved_").removeprefix("saved_"),
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                num_bytes=tensor.untyped_storage().nbytes(),
                storage=storage,
                kind=kinds.get(storage, "own"),
            )


def _described(meta: Any) -> str:
    shape = "x".join(str(int(size)) for size in meta.shape) or "scalar"
    return f"{shape} {str(meta.dtype).removeprefix('torch.')}"


@contextmanager
def _module_spans(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[list[tuple[int, int, str]]]:
    """Which sequence numbers of nodes each module's forward made: (first, behind last, path)."""
    spans: list[tuple[int, int, str]] = []

    def enter(*_: Any) -> int:
        return torch._C._autograd._get_sequence_nr()

    def leave(path: str, first: int, _output: Any) -> None:
        spans.append((first, torch._C._autograd._get_sequence_nr(), path))

    with modules_running(modules, enter, leave):
        yield spans


@contextmanager
def _tracebacks() -> Iterator[None]:
    """Anomaly mode keeps, on each node, the Python stack that made it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with torch.autograd.detect_anomaly(check_nan=False):
            yield


def _module_at(node: Any, spans: list[tuple[int, int, str]]) -> str:
    if _is_leaf(node):
        return ""
    number = node._sequence_nr()
    # Modules end inside out, so the first span that holds the number is the innermost module.
    return next((name for first, last, name in spans if first <= number < last), "")


_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*\n\s*(?P<code>[^\n]*)')
_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def _user_line(stack: list[str]) -> str:
    """The innermost line of the stack that is neither torch's nor this package's."""
    for text in reversed(stack):
        match = _FRAME.search(text)
        if match and not match["file"].startswith((*_OURS, "<frozen")):
            return f"{Path(match['file']).name}:{match['line']}: {match['code'].strip()}"
    return ""
