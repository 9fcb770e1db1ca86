"""Validation's preprocessing as a module that can be exported: the one definition, read twice.

A pipeline of toque.augment is read step by step, so what an exported file does is what validation
did. Resize and crop become one matrix for the rows and one for the columns, and applying them is
two matrix products: every runtime agrees on those to rounding, while resize operators differ
(between ONNX Runtime's and PyTorch's anti-aliased ones lie up to 3e-3 of the range).

Shape letters: B images, C channels, H W height and width of the images, h w of what the model sees.
"""

from __future__ import annotations

from typing import NoReturn, cast

import torch
from torch import nn

from toque import augment, checks
from toque.augment import canvas as canvases
from toque.augment.color import ToDtype

_RESAMPLES = ("bilinear", "bicubic")


class Preprocess(nn.Module):
    """uint8 images as a camera or decoder gives them -> what the model was validated on.

    Shape:   uint8 [B, H, W, C] -> float32 [B, C, h, w]; H and W any, alike in one batch
    Args:    pipeline: Resize, CenterCrop and Normalize in that order, each at most once, as
             `toque.augment.preset("none", ...)` makes it
             channels: C
    Raises:  ValueError: a pipeline of other transforms, or one whose result has no fixed size
    Example: >>> Preprocess(toque.augment.preset("none", 224), channels=3)
    """

    def __init__(self, pipeline: augment.Compose, channels: int) -> None:
        super().__init__()
        resize, crop, normalize = _steps(pipeline)
        size = pipeline.size
        if size is None:
            _refuse("a pipeline whose result has one size", "one that depends on the image")
        self.height, self.width = size
        self.resized = _resized(resize)
        self.cubic = resize is not None and _resample(resize) == "bicubic"
        self.cropped = crop is not None
        scale, shift = normalize.scale_and_shift(channels)
        # The pipeline works in 0 .. 1.
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        self.register_buffer("scale", torch.from_numpy(scale / 255).float()[:, None, None])
        self.register_buffer("shift", torch.from_numpy(shift.copy()).float()[:, None, None])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        batch, height, width, channels = images.shape
        tall, wide = self._resized_to(height, width)
        rows = self._weights(height, tall, self.height)
        columns = self._weights(width, wide, self.width)
        pixels = images.reshape(batch, height, width * channels).to(rows.dtype)
        pixels = (rows @ pixels).reshape(batch, self.height, width, channels)
        pixels = pixels.permute(0, 3, 1, 2) @ columns.T
        return pixels * self.scale + self.shift

    def _resized_to(self, height: int, width: int) -> tuple[int, int]:
        if self.resized is None:
            return height, width
        if isinstance(self.resized, tuple):
            return self.resized
        # The shorter side gets the size. Written without a condition, which export would freeze.
        short = cast(int, torch.sym_min(height, width))
        return self.resized * height // short, self.resized * width // short

    def _weights(self, source: int, resized: int, kept: int) -> torch.Tensor:
        """What each source row contributes to each kept row: [kept, source]."""
        device = self.scale.device
        # Positions in a large photo need more than float32's 24 bits.
        step = torch.full((), source, dtype=torch.float64, device=device) / resized
        first = _middle(resized, kept) if self.cropped else 0
        place = torch.arange(kept, dtype=torch.float64, device=device) + 0.5 + first
        centre = (place * step)[:, None]
        at = torch.arange(source, dtype=torch.float64, device=device)[None, :] + 0.5
        away = (at - centre).abs() / step.clamp(min=1.0)
        weights = _cubic(away) if self.cubic else (1 - away).clamp(min=0)
        # Where the crop is larger than the image, the border is black: rows without weights.
        inside = (centre > 0) & (centre < source)
        total = weights.sum(1, keepdim=True)
        weights = torch.where(inside, weights, 0.0) / torch.where(inside, total, 1.0)
        return weights.to(torch.float32)


def _middle(size: int, part: int) -> int:
    """Where the middle part begins: augment.CenterCrop's rule, half to even, without a condition.

    The rule has two branches, for a part that fits and for one that does not; both are computed,
    and the one that does not apply is 0.
    """
    spare = torch.sym_max(size - part, 0)
    lacking = torch.sym_max(part - size, 0)
    half = spare // 2
    return cast(int, half + (spare % 2) * (half % 2) - lacking // 2)


def _cubic(away: torch.Tensor) -> torch.Tensor:
    # Keys 1981 with a = -0.5, as augment resamples.
    near = (1.5 * away - 2.5) * away * away + 1
    far = (((away - 5) * away + 8) * away - 4) * -0.5
    return torch.where(away < 1, near, torch.where(away < 2, far, 0.0))


def _steps(
    pipeline: augment.Compose,
) -> tuple[augment.Resize | None, augment.CenterCrop | None, augment.Normalize]:
    resize: augment.Resize | None = None
    crop: augment.CenterCrop | None = None
    normalize: augment.Normalize | None = None
    for step in pipeline.transforms:
        if isinstance(step, augment.Resize) and not (resize or crop or normalize):
            resize = step
        elif isinstance(step, augment.CenterCrop) and not (crop or normalize):
            crop = step
        elif isinstance(step, augment.Normalize) and normalize is None:
            normalize = step
        elif not (isinstance(step, ToDtype) and step.dtype == torch.float32):
            _refuse("Resize, CenterCrop, Normalize in this order", type(step).__name__)
    return resize, crop, normalize or augment.Normalize((0.0,), (1.0,))


def _resample(resize: augment.Resize) -> str:
    return canvases.interpolation("export", resize.interpolation)


def _resized(resize: augment.Resize | None) -> int | tuple[int, int] | None:
    if resize is None:
        return None
    if resize.max_size is not None:
        _refuse("a Resize without max_size", resize)
    if _resample(resize) not in _RESAMPLES:
        _refuse(f"a Resize with interpolation {' or '.join(_RESAMPLES)}", resize)
    size = [resize.size] if isinstance(resize.size, int) else list(resize.size)
    return size[0] if len(size) == 1 else (size[0], size[1])


def _refuse(rule: str, value: object) -> NoReturn:
    raise checks.invalid(
        "export", "the validation pipeline", rule, value,
        "Use toque.augment.preset('none', size).",
    )  # fmt: skip
