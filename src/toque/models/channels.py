"""Which channels belong together: labels carried along every dimension through one meta pass.

Each entry of a weight's dimension gets a label. An operation that needs two channels to be the same
one (a sum of branches, a convolution reading what another wrote, a norm over it) unites their
labels; what is not understood pins the labels it touches, so that nothing about them may change.

Source: the grouping is that of Fang 2023, "DepGraph", arXiv:2301.12900, section 3.2, found here by
        following the data instead of the autograd graph
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from toque.layers.modes import mode
from toque.layers.tensors import tensors_in
from toque.models import shapes

Labels = list[int]
Dimensions = tuple[Labels | None, ...]
# Places of one label: (name of the parameter or buffer, dimension, position).
Place = tuple[str, int, int]

_KEEPS = {
    "relu", "relu_", "gelu", "silu", "silu_", "hardswish", "hardswish_", "hardsigmoid",
    "hardsigmoid_", "sigmoid", "sigmoid_", "tanh", "leaky_relu", "leaky_relu_", "hardtanh",
    "hardtanh_", "clamp", "clamp_min", "clamp_", "elu", "mish", "neg", "abs", "exp", "sqrt", "pow",
    "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "clone", "detach",
    "_to_copy", "alias", "constant_pad_nd", "zeros_like", "ones_like", "new_ones", "lift_fresh",
}  # fmt: skip
_PAIRS = {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "maximum", "minimum"}
_REDUCES = {"mean", "sum", "amax", "amin"}
_NORMS = {
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "batch_norm", "cudnn_batch_norm",
}  # fmt: skip
_VIEWS = {"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "expand", "flatten"}


def together(model: nn.Module, input_shape: Sequence[int]) -> list[list[Place]]:
    """Sets of places that are one channel, where channels may be taken away.

    The model's inputs and outputs keep theirs, and so does whatever an operation that is not known
    here has touched.
    """
    state = shapes.meta_state(model)
    labels = _Labels()
    names: dict[int, str] = {}
    for name, tensor in state.items():
        if id(tensor) not in names:
            names[id(tensor)] = name
            labels.new(tensor)
    images = shapes.empty_images(state, input_shape)
    with torch.no_grad(), mode(model, False), _Follow(labels):
        answer = functional_call(model, state, (images,))
    for tensor in tensors_in(answer):
        labels.pin(labels.of(tensor))
    places: defaultdict[int, list[Place]] = defaultdict(list)
    for name, tensor in state.items():
        if names[id(tensor)] == name:
            for dimension, entries in enumerate(labels.of(tensor)):
                for position, label in enumerate(entries or ()):
                    places[labels.root(label)].append((name, dimension, position))
    return [found for label, found in places.items() if label not in labels.pinned]


class _Labels:
    """Labels of tensors, united as they turn out to be one (union-find)."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.pinned: set[int] = set()
        self.tensors: dict[int, Dimensions] = {}
        self.alive: list[torch.Tensor] = []  # meta tensors cost nothing, and their ids stay theirs

    def new(self, tensor: torch.Tensor) -> None:
        """Labels of their own for the first two dimensions of a weight."""
        dimensions: list[Labels | None] = [None] * tensor.ndim
        for d in range(min(tensor.ndim, 2)):
            first = len(self.parent)
            self.parent.extend(range(first, first + tensor.shape[d]))
            dimensions[d] = list(range(first, first + tensor.shape[d]))
        self.set(tensor, tuple(dimensions))

    def of(self, tensor: torch.Tensor) -> Dimensions:
        return self.tensors.get(id(tensor), (None,) * tensor.ndim)

    def set(self, tensor: torch.Tensor, dimensions: Dimensions) -> None:
        self.tensors[id(tensor)] = dimensions
        self.alive.append(tensor)

    def root(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = self.parent[self.parent[label]]
            label = self.parent[label]
        return label

    def unite(self, one: Labels | None, other: Labels | None) -> Labels | None:
        """The two become one; where only one is labelled, it meets something that cannot change."""
        if one is None or other is None or len(one) != len(other):
            self.pin((one, other))
            return one if other is None else other
        for a, b in zip(one, other, strict=True):
            a, b = self.root(a), self.root(b)
            self.parent[b] = a
            if b in self.pinned:
                self.pinned.add(a)
        return one

    def pin(self, dimensions: Sequence[Labels | None]) -> None:
        for entries in dimensions:
            self.pinned.update(self.root(label) for label in entries or ())


class _Follow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, labels: _Labels) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.labels = labels

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        outputs = tensors_in(answer)
        known = _rule(self.labels, name, args, kwargs or {}, outputs)
        if known is None:
            for tensor in tensors_in((args, kwargs)):
                self.labels.pin(self.labels.of(tensor))
            known = [(None,) * out.ndim for out in outputs]
        for out, dimensions in zip(outputs, known, strict=False):
            self.labels.set(out, dimensions)
        return answer


def _rule(
    labels: _Labels,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outputs: list[torch.Tensor],
) -> list[Dimensions] | None:
    """The labels of an operation's outputs; None where the operation is not known."""
    if not outputs:
        return []
    out = outputs[0]
    if name == "convolution":
        return [_convolution(labels, args, out)]
    if name in _NORMS:
        given = labels.of(args[0])
        for vector in args[1:5]:
            if isinstance(vector, torch.Tensor):
                labels.unite(given[1], labels.of(vector)[0])
        return [given]
    if name in ("addmm", "mm"):
        x, weight = (labels.of(t) for t in args[-2:])
        labels.unite(weight[0], x[1])
        if name == "addmm":
            labels.unite(weight[1], labels.of(args[0])[-1])
        return [(x[0], weight[1])]
    if name in ("t", "transpose", "permute"):
        given = labels.of(args[0])
        if name == "permute":
            return [tuple(given[d] for d in args[1])]
        swapped = list(given)
        a, b = args[1:3] if name == "transpose" else (0, 1)
        if len(swapped) > 1:
            swapped[a], swapped[b] = swapped[b], swapped[a]
        return [tuple(swapped)]
    if name in _VIEWS:
        return [_view(labels, args[0], out)]
    if name in _PAIRS:
        return [_pair(labels, [a for a in args[:2] if isinstance(a, torch.Tensor)], out)]
    if name in _REDUCES and len(args) > 1:
        return [_reduced(labels, args[0], args[1], out)]
    if name in ("cat", "stack"):
        d = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
        return [_joined(labels, args[0], d, out, stacked=name == "stack")]
    if name in _KEEPS:
        given = labels.of(args[0])
        same = [
            entries if entries is not None and len(entries) == size else None
            for entries, size in zip(given, out.shape, strict=False)
        ]
        return [(*same, *(None,) * (out.ndim - len(same)))]
    return None


def _convolution(labels: _Labels, args: tuple[Any, ...], out: torch.Tensor) -> Dimensions:
    x, weight = labels.of(args[0]), labels.of(args[1])
    transposed, groups = args[6], args[8]
    channels = args[0].shape[1]
    reads, writes = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
    if groups == 1:
        labels.unite(reads, x[1])
    elif not transposed and groups == channels == out.shape[1]:
        labels.unite(writes, x[1])
    else:
        labels.pin((*x, *weight))
        writes = writes if not transposed else None
    if args[2] is not None:
        labels.unite(writes, labels.of(args[2])[0])
    return (None, writes, *(None,) * (out.ndim - 2))


def _view(labels: _Labels, given: torch.Tensor, out: torch.Tensor) -> Dimensions:
    """Labels after a change of shape that keeps the order of the numbers."""
    before, old, new = labels.of(given), list(given.shape), list(out.shape)
    if math.prod(old) != math.prod(new):  # expand
        shift = len(new) - len(old)
        kept = [None] * shift + [
            e if old[i] == new[i + shift] else None for i, e in enumerate(before)
        ]
        return tuple(kept)
    answer: list[Labels | None] = [None] * len(new)
    i = j = 0
    while i < len(old) and j < len(new):
        start_i, start_j, left, right = i, j, old[i], new[j]
        while left != right:
            if left < right:
                i += 1
                left *= old[i]
            else:
                j += 1
                right *= new[j]
        i, j = i + 1, j + 1
        labelled = [d for d in range(start_i, i) if before[d] is not None and old[d] > 1]
        targets = [d for d in range(start_j, j) if new[d] > 1]
        if len(labelled) == 1 and len(targets) == 1:
            d = labelled[0]
            times, each = math.prod(old[start_i:d]), math.prod(old[d + 1 : i])
            answer[targets[0]] = [
                label for _ in range(times) for label in before[d] or () for _ in range(each)
            ]
        else:
            labels.pin([before[d] for d in labelled])
    return tuple(answer)


def _pair(labels: _Labels, given: list[torch.Tensor], out: torch.Tensor) -> Dimensions:
    answer: list[Labels | None] = [None] * out.ndim
    for d in range(out.ndim):
        facing = []
        for tensor in given:
            own = d - (out.ndim - tensor.ndim)
            if own >= 0 and tensor.shape[own] == out.shape[d] and out.shape[d] > 1:
                facing.append(labels.of(tensor)[own])
        if any(entries is not None for entries in facing):
            answer[d] = facing[0]
            for other in facing[1:]:
                answer[d] = labels.unite(answer[d], other)
    return tuple(answer)


def _reduced(labels: _Labels, given: torch.Tensor, over: Any, out: torch.Tensor) -> Dimensions:
    dimensions = [over] if isinstance(over, int) else list(over or range(given.ndim))
    gone = {d % given.ndim for d in dimensions}
    before = labels.of(given)
    labels.pin([before[d] for d in gone])
    if out.ndim == given.ndim:
        return tuple(None if d in gone else e for d, e in enumerate(before))
    return tuple(e for d, e in enumerate(before) if d not in gone)


def _joined(
    labels: _Labels, given: list[torch.Tensor], d: int, out: torch.Tensor, stacked: bool
) -> Dimensions:
    before = [labels.of(tensor) for tensor in given]
    if stacked:
        before = [(*dims[:d], None, *dims[d:]) for dims in before]
    answer: list[Labels | None] = [None] * out.ndim
    for position in range(out.ndim):
        facing = [dims[position] for dims in before]
        if position == d:
            whole = [label for entries in facing for label in entries or ()]
            answer[d] = whole if None not in facing and not stacked else None
            if answer[d] is None:
                labels.pin(facing)
        elif any(entries is not None for entries in facing):
            answer[position] = facing[0]
            for other in facing[1:]:
                answer[position] = labels.unite(answer[position], other)
    return tuple(answer)
