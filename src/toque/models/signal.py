"""The signal at step 0: does it reach the end of the network, and does the gradient come back?

Source: the sizes followed are those of Glorot & Bengio 2010 (section 4), and of He 2015,
        arXiv:1502.01852 (section 2.2); the similarity of inputs is that of Schoenholz 2016,
        arXiv:1611.01232 (section 3)
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from toque.models.blocks import Residual
from toque.models.columns import columns

_WATCHED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.ConvTranspose2d)
# Beyond these, networks of 20 layers trained badly or not at all (see the decisions).
_DECADES = 1.5
_LOGITS = 10.0
_ALIKE = 0.99
_DEAD = 0.9


@dataclass(frozen=True)
class Watched:
    """One layer at step 0, in the order of execution.

    `dead` is the fraction of output channels that are zero for the whole batch after the activation
    (of the outputs themselves for the last layer), `alike` the mean cosine between what different
    images feed into the layer, `gradient` the root mean square of the gradient of the outputs.
    """

    path: str
    kind: str
    mean: float
    deviation: float
    dead: float
    alike: float
    gradient_mean: float
    gradient: float


@dataclass(frozen=True)
class Signal:
    """What `signal` saw, what is wrong (nothing if `good`), and remarks that are no fault."""

    layers: tuple[Watched, ...]
    faults: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def good(self) -> bool:
        return not self.faults

    def __str__(self) -> str:
        lines = [("layer", "mean", "std", "dead", "alike", "grad mean", "grad rms")]
        lines += (_line(layer) for layer in self.layers)
        verdict = "verdict: good" if self.good else "verdict: bad: " + "; ".join(self.faults)
        return "\n".join(
            [*columns(lines), verdict, *(f"remark: {remark}" for remark in self.remarks)]
        )

    def svg(self, width_px: int = 640, height_px: int = 240) -> str:
        """The deviations of outputs and gradients over the layers, as a picture, on a log scale."""
        return _plot(self, width_px, height_px)


def signal(model: nn.Module, images: torch.Tensor, targets: torch.Tensor | None = None) -> Signal:
    """Mean, deviation and dead fraction of every layer's output and gradient for one batch.

    A copy of the model runs in training mode, and torch's generator is put back: nothing changes.

    Args:    images: a batch the model takes, 8 images or more
             targets: class numbers [B] for a cross-entropy; without them the gradient is that of a
             fixed mixture of the outputs, of the same size
    Example: >>> print(signal(model, images))
    """
    twin = copy.deepcopy(model).train()
    seen: list[_Seen] = []
    forward = True

    def look(path: str, module: nn.Module, fed: torch.Tensor, out: torch.Tensor) -> None:
        if forward:  # and not where a checkpointed block is computed again on the way back
            seen.append(_Seen(path, module, fed, out))

    hooks = [
        module.register_forward_hook(
            lambda module, given, out, path=path: look(path, module, given[0], out)
        )
        for path, module in twin.named_modules()
        if isinstance(module, _WATCHED)
    ]
    learning = [(name, p) for name, p in twin.named_parameters() if p.requires_grad]
    generator = torch.get_rng_state()
    try:
        with torch.enable_grad():
            answer = twin(images)
            answer = next(iter(answer.values())) if isinstance(answer, dict) else answer
            forward = False
            gradients = torch.autograd.grad(
                _loss(answer, targets), [p for _, p in learning], allow_unused=True
            )
    finally:
        torch.set_rng_state(generator)
        for hook in hooks:
            hook.remove()
    layers = [one.watched(last=one is seen[-1]) for one in seen]
    unmoved = [
        name
        for (name, _), gradient in zip(learning, gradients, strict=True)
        if gradient is None or not bool(gradient.any())
    ]
    return Signal(tuple(layers), tuple(_faults(layers, answer)), tuple(_remarks(twin, unmoved)))


class _Seen:
    """What is known of a layer; nothing of its tensors is held, so that they die as in training."""

    def __init__(self, path: str, module: nn.Module, fed: torch.Tensor, out: torch.Tensor) -> None:
        self._path, self._kind = path, type(module).__name__
        values = out.detach().float()
        features = F.normalize(fed.detach().float().flatten(1), dim=1)
        count = len(features)
        self._alike = (features.sum(0).square().sum() - count) / max(count * (count - 1), 1)
        channel = 1 if values.ndim != 3 else 2
        others = [d for d in range(values.ndim) if d != channel]
        self._mean, self._deviation = values.mean(), values.std()
        self._zero = values.abs().amax(others) == 0
        self._not_positive = values.amax(others) <= 0
        self._gradient = torch.zeros(2)
        if out.requires_grad:
            out.register_hook(self._take)  # type: ignore[no-untyped-call]

    def _take(self, gradient: torch.Tensor) -> None:
        gradient = gradient.detach().float()
        self._gradient = torch.stack([gradient.mean(), gradient.square().mean().sqrt()])

    def watched(self, last: bool) -> Watched:
        """All of it; the last layer has no activation after it."""
        dead = self._zero if last else self._not_positive
        mean, size = self._gradient.tolist()
        return Watched(
            self._path, self._kind, float(self._mean), float(self._deviation),
            float(dead.float().mean()), float(self._alike), mean, size,
        )  # fmt: skip


def _line(layer: Watched) -> tuple[str, str, str, str, str, str, str]:
    return (
        f"{layer.path} {layer.kind}", f"{layer.mean:+.2e}", f"{layer.deviation:.2e}",
        f"{layer.dead:.0%}", f"{layer.alike:.2f}", f"{layer.gradient_mean:+.1e}",
        f"{layer.gradient:.1e}",
    )  # fmt: skip


def _faults(layers: list[Watched], answer: torch.Tensor) -> list[str]:
    faults = []
    finite = [layer for layer in layers if math.isfinite(layer.deviation)]
    if len(finite) < len(layers) or not bool(torch.isfinite(answer).all()):
        first = next((la.path for la in layers if not math.isfinite(la.deviation)), "the answer")
        return [f"numbers that are not finite, from {first} on"]
    forward = _rise([layer.deviation for layer in layers[:-1]])
    if abs(forward) > _DECADES:
        word = "grow" if forward > 0 else "vanish"
        faults.append(f"activations {word} by {forward:+.1f} decades from first to last layer")
    # Without the last layer: the pooling before it spreads the gradient over the whole map.
    backward = _rise([layer.gradient for layer in layers[:-1]])
    if abs(backward) > _DECADES:
        word = "vanish" if backward > 0 else "explode"
        faults.append(f"gradients {word} by {abs(backward):.1f} decades on the way back")
    dead = [layer.path for layer in layers if layer.dead > _DEAD and layer.deviation > 0]
    if dead:
        faults.append(f"{len(dead)} layers are dead for this batch, first {dead[0]}")
    if len(layers) > 2 and layers[-2].alike > _ALIKE and layers[0].alike < 0.9:
        faults.append(
            f"all images look the same at the end (cosine {layers[0].alike:.2f} at the start, "
            f"{layers[-2].alike:.3f} before the last layers)"
        )
    size = float(answer.detach().float().square().mean().sqrt())
    if size > _LOGITS:
        faults.append(f"answers are large at the start (rms {size:.1f})")
    return faults


def _rise(sizes: list[float]) -> float:
    """Decades from the first to the last size, along the least-squares line; zeros are left out."""
    points = [(i, math.log10(s)) for i, s in enumerate(sizes) if s > 0 and math.isfinite(s)]
    if len(points) < 3:
        return 0.0
    middle = sum(i for i, _ in points) / len(points)
    level = sum(v for _, v in points) / len(points)
    slope = sum((i - middle) * (v - level) for i, v in points)
    slope /= sum((i - middle) ** 2 for i, _ in points)
    return slope * (points[-1][0] - points[0][0])


def _remarks(model: nn.Module, unmoved: list[str]) -> list[str]:
    if not unmoved:
        return []
    inside = {
        f"{path}.body" if path else "body"
        for path, part in model.named_modules()
        if isinstance(part, Residual)
    }
    still = [name for name in unmoved if any(name.startswith(f"{path}.") for path in inside)]
    remarks = []
    if still:
        remarks.append(
            f"{len(still)} parameters inside residual bodies get no gradient at step 0, as they do "
            "when the body's last layer starts at zero; they move from step 1 on"
        )
    if len(unmoved) > len(still):
        other = [name for name in unmoved if name not in still]
        remarks.append(f"{len(other)} parameters get no gradient, such as {other[0]}")
    return remarks


def _loss(answer: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
    if targets is not None:
        return F.cross_entropy(answer, targets)
    # A fixed mixture without a pattern that the network could share: the digits of the sine.
    mixture = torch.linspace(0, 1e4, answer.numel(), device=answer.device).sin_()
    return (answer * mixture.reshape(answer.shape).to(answer.dtype)).sum() / len(answer)


def _plot(seen: Signal, width: int, height: int) -> str:
    series = {
        "output std": ([layer.deviation for layer in seen.layers], "#1f77b4"),
        "gradient rms": ([layer.gradient for layer in seen.layers], "#d62728"),
    }
    logs = [math.log10(v) for values, _ in series.values() for v in values if v > 0]
    low, high = (math.floor(min(logs)), math.ceil(max(logs))) if logs else (0, 1)
    high = max(high, low + 1)
    left, top, right, bottom = 52, 24, width - 12, height - 28
    step = (right - left) / max(len(seen.layers) - 1, 1)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (math.log10(value) - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11">'
    ]
    for decade in range(low, high + 1):
        line = y(10.0**decade)
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{line:.1f}" y2="{line:.1f}" stroke="#ddd"/>'
            f'<text x="{left - 6}" y="{line + 4:.1f}" text-anchor="end">1e{decade}</text>'
        )
    for number, (name, (values, color)) in enumerate(series.items()):
        points = " ".join(
            f"{left + i * step:.1f},{y(v):.1f}" for i, v in enumerate(values) if v > 0
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}"/>')
        parts.append(f'<text x="{left + 120 * number}" y="14" fill="{color}">{name}</text>')
    parts.append(f'<text x="{left}" y="{height - 8}">layers in order of execution</text></svg>')
    return "".join(parts)
