"""A model seen before it is trained: a tree of shapes, parameters, operations and bytes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from toque import checks
from toque.layers.modes import mode
from toque.layers.running import modules_running
from toque.layers.tensors import tensors_in
from toque.models import shapes
from toque.models.columns import columns
from toque.models.receptive import Following
from toque.models.step_time import profile_step


@dataclass
class Layer:
    """One module of the tree; its sums contain those of its children.

    `flops` are of one forward pass of the batch described, a multiplication and an addition being
    two; `saved_bytes` are kept for the backward pass; `sees_px` is the side of the receptive field
    (infinite where the whole image is seen); `share` of the time of a training step, and
    `backward_share` of the same time that its backward pass takes, if they were measured.
    """

    path: str
    kind: str
    shape: tuple[int, ...] | None = None
    parameters: int = 0
    flops: int = 0
    saved_bytes: int = 0
    sees_px: float | None = None
    share: float | None = None
    backward_share: float | None = None
    children: list[Layer] = field(default_factory=list)


@dataclass(frozen=True)
class Description:
    """A described model: the root of the tree and the input it was described for."""

    root: Layer
    input_shape: tuple[int, ...]

    def layers(self) -> list[Layer]:
        """Every layer, a module before what is inside it."""
        found, waiting = [], [self.root]
        while waiting:
            layer = waiting.pop()
            found.append(layer)
            waiting += reversed(layer.children)
        return found

    def text(self, depth: int | None = None) -> str:
        """The tree as a table; `depth` levels of it, or all."""
        head = ("layer", "output", "parameters", "MFLOP", "saved MB", "sees px")
        timed = self.root.share is not None
        lines: list[tuple[str, ...]] = [(*head, "time", "backward") if timed else head]
        for layer in self.layers():
            level = layer.path.count(".") + 1 if layer.path else 0
            if depth is not None and level > depth:
                continue
            name = layer.path.rpartition(".")[2] or "(model)"
            line: tuple[str, ...] = (
                f"{'  ' * level}{name} {layer.kind}",
                "x".join(map(str, layer.shape[1:])) if layer.shape else "-",
                f"{layer.parameters:,}",
                f"{layer.flops / 1e6:,.1f}",
                f"{layer.saved_bytes / 1e6:,.2f}",
                _pixels(layer.sees_px),
            )
            shares = (layer.share or 0.0, layer.backward_share or 0.0)
            lines.append((*line, *(f"{share:.1%}" for share in shares)) if timed else line)
        return "\n".join(columns(lines, left={0, 1}))

    def __str__(self) -> str:
        return self.text()


def describe(
    model: nn.Module, input_shape: Sequence[int], *, images: torch.Tensor | None = None
) -> Description:
    """Follow a batch through the model on the meta device, and write down what happens.

    Args:    model: any module; it is not changed
             input_shape: [B, C, H, W]
             images: a real batch; if given, each layer's share of the time of one training step
             is measured too, on a copy of the model
    Raises:  BranchMismatch, ValueError: as `shapes.check`
    Example: >>> print(describe(create("resnet18", num_classes=10), [1, 3, 224, 224]).text(depth=2))
    """
    checks.require_module("describe", model)
    if hasattr(input_shape, "ndim"):  # an array of images would be taken for its rows
        raise checks.invalid_type(
            "describe", "input_shape", "a list of whole numbers [B, C, H, W]", "a tensor",
            "Give its shape, images.shape.",
        )  # fmt: skip
    shape = tuple(input_shape)
    shapes.check(model, shape)
    layers = _tree(model)
    _follow_forward(model, shape, layers)
    _follow_saved(model, shape, layers)
    if images is not None:
        _measure(model, images, layers)
    return Description(layers[""], shape)


def _tree(model: nn.Module) -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    for path, module in model.named_modules():
        parameters = sum(p.numel() for p in module.parameters())
        layers[path] = Layer(path, type(module).__name__, parameters=parameters)
        if path:
            layers[path.rpartition(".")[0]].children.append(layers[path])
    return layers


def _follow_forward(model: nn.Module, shape: tuple[int, ...], layers: dict[str, Layer]) -> None:
    state = shapes.meta_state(model)
    images = shapes.empty_images(state, shape)
    following = Following([images])

    def leave(path: str, flops_before: int, output: Any) -> None:
        layer = layers[path]
        layer.flops += following.flops - flops_before
        if tensors := tensors_in(output):
            layer.shape = tuple(tensors[-1].shape)
            sees = following.field(tensors[-1])
            layer.sees_px = None if sees is None else sees.size_px

    watched = modules_running(model.named_modules(), lambda *_: following.flops, leave)
    with torch.no_grad(), mode(model, False), watched, following:
        functional_call(model, state, (images,))
    for layer in reversed(layers.values()):
        if layer.shape is None:  # a list whose modules are called one by one
            layer.flops = sum(child.flops for child in layer.children)


def _follow_saved(model: nn.Module, shape: tuple[int, ...], layers: dict[str, Layer]) -> None:
    """Bytes kept for the backward pass, each storage once, without weights and buffers.

    On fake CPU tensors, not meta ones: attention has another kernel on each device, and the one
    that meta tensors take keeps the whole matrix of weights.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        state = shapes.meta_state(model, "cpu")
        images = shapes.empty_images(state, shape, "cpu")
    known = {tensor.untyped_storage()._cdata for tensor in state.values()}
    kept = []  # keeps storages alive, so that their addresses stay theirs

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known.add(storage._cdata)
            kept.append(storage)
            path = inside[-1] if inside else ""
            while True:
                layers[path].saved_bytes += storage.nbytes()
                if not path:
                    break
                path = path.rpartition(".")[0]
        return tensor

    watched = modules_running(model.named_modules(), lambda path, *_: path)
    kept_for_backward = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with fake, mode(model, True), watched as inside, kept_for_backward:
        functional_call(model, state, (images,))


def _measure(model: nn.Module, images: torch.Tensor, layers: dict[str, Layer]) -> None:
    # BatchNorm cannot train on one value per channel, which one image may come down to.
    copied = copy.deepcopy(model).train(len(images) > 1)
    took = profile_step(copied, images)
    total = took.forward_us[""] + took.backward_us[""]
    for path, layer in layers.items():
        layer.backward_share = took.backward_us.get(path, 0.0) / total
        layer.share = took.forward_us.get(path, 0.0) / total + layer.backward_share


def _pixels(size: float | None) -> str:
    if size is None:
        return "-"
    return "all" if math.isinf(size) else f"{size:.0f}"
