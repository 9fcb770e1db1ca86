"""Where a network looked: Grad-CAM, and the picture of it.

Shape letters: C channels of the image, D channels of a feature map, H W height and width of the
image, h w of what the network saw.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import interpolate

from toque import augment, checks
from toque.deploy.details import SEGMENTATION
from toque.deploy.predictor import Pixels, Predictor
from toque.random import Key

_MOST_EXTRA_TOKENS = 8


def heat(network: nn.Module, images: torch.Tensor, label: int) -> torch.Tensor:
    """What raised the score of a class, or a number, over the image: float32 [h, w] in 0 .. 1.

    The map of the last features whose places still matter to the score, each channel weighted by
    the mean of the score's gradient in it. All zeros if nothing raised it.

    Shape:  images [1, C, h, w], prepared as the network expects
    Args:   label: the class or number, its position in the scores
    Raises: ValueError: a network without maps of features, or tokens that form no square
    Source: Selvaraju 2017, arXiv:1610.02391, equations 1 and 2; for transformers the tokens are the
            places of the map
    """
    kept: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> torch.Tensor | None:
        if not isinstance(output, torch.Tensor) or not output.requires_grad or output.ndim < 3:
            return None
        output.retain_grad()
        kept.append(output)
        return output.clone()  # what follows may work in place

    handles = [module.register_forward_hook(keep) for module in network.modules()]
    try:
        with torch.enable_grad():
            scores = network(images.clone().requires_grad_())
            scores.reshape(len(images), -1)[0, label].backward()  # one number may come as [B]
    finally:
        for handle in handles:
            handle.remove()
        for parameter in network.parameters():
            parameter.grad = None
    for output in reversed(kept):
        if output.grad is None:
            continue
        features, gradient = _as_map(output.detach()), _as_map(output.grad)
        # Behind the last attention only the class token counts: the places there say nothing.
        if features is None or gradient is None or not bool(gradient.any()):
            continue
        seen = (gradient.mean((1, 2), keepdim=True) * features).sum(0).clamp(min=0)
        seen = seen / seen.amax().clamp(min=1e-12)
        size = (images.shape[2], images.shape[3])
        return interpolate(seen[None, None].float(), size, mode="bilinear")[0, 0].clamp(0, 1)
    raise checks.invalid(
        "explain", "the network", "one with maps of features, [B, D, h, w] or tokens of a square",
        type(network).__name__, "Explain a convolutional network or a vision transformer.",
    )  # fmt: skip


def _as_map(output: torch.Tensor) -> torch.Tensor | None:
    """The features of the one image as [D, h, w]; None if they have no places."""
    if output.ndim == 4:
        return output[0] if output.shape[2] * output.shape[3] > 1 else None
    if output.ndim != 3:
        return None
    side = math.isqrt(output.shape[1])
    extra = output.shape[1] - side * side
    if side < 2 or extra > _MOST_EXTRA_TOKENS:
        return None
    return output[0, extra:].T.reshape(-1, side, side)  # class and register tokens come first


def overlay(predictor: Predictor, image: Pixels, label: str) -> npt.NDArray[np.uint8]:
    """What the network saw of an image, reddened where it looked for a class: uint8 [h, w, 3].

    Raises: ValueError: a predictor that cannot be explained, as `why_not` says
    """
    reason = why_not(predictor)
    if reason is not None:
        raise checks.invalid("explain", "the model", *reason)
    assert predictor.network is not None
    network = predictor.network
    tensor = [torch.from_numpy(image).permute(2, 0, 1)]
    key = Key(0, 0, np.arange(1))
    prepared = network.pipeline(tensor, key=key).to(network.device)
    seen = heat(network.module, prepared, predictor.labels.index(label)).cpu()
    steps = [s for s in network.pipeline.transforms if not isinstance(s, augment.Normalize)]
    picture = augment.Compose(steps)(tensor, key=key)[0]
    gray = picture.mean(0, keepdim=True).expand(3, -1, -1)
    red = torch.tensor([1.0, 0.15, 0.0])[:, None, None]
    mixed = (1 - 0.65 * seen) * gray + 0.65 * seen * red
    return mixed.permute(1, 2, 0).mul(255).round().to(torch.uint8).numpy()


def why_not(predictor: Predictor) -> tuple[str, object, str] | None:
    """Why a model cannot be explained: the rule, what it is, and what to do; None if it can."""
    if predictor.task == SEGMENTATION:
        return (
            "of classes, labels or numbers", "a model of masks",
            "A mask shows by itself where each class was seen: leave it out.",
        )  # fmt: skip
    if predictor.network is None:
        return (
            "a run folder or a .safetensors file", predictor.source,
            "Exported programs cannot be looked into.",
        )  # fmt: skip
    return None


def write_overlay(predictor: Predictor, image: Pixels, label: str, file: Path) -> None:
    """Write `overlay` as a PNG.

    Raises: ValueError: as `overlay`
    """
    from PIL import Image

    Image.fromarray(overlay(predictor, image, label)).save(file, "PNG")
