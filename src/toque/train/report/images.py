"""Arrays -> pictures inside the page.

Shape letters: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch

from toque import checks

LONG_SIDE_PX = 224
_PIXEL_ART_PX = 96  # below this, pixels are drawn as squares instead of a blur


def denormalise(
    images: torch.Tensor, mean: Sequence[float] | float, std: Sequence[float] | float
) -> np.ndarray:
    """Undo a normalisation: what the model saw, as pictures.

    One or two channels give gray pictures of the first one, three or more give the first three as
    red, green, blue. Values outside 0 .. 1 are clamped, and those that are not finite turn black.

    Shape:   [B, C, H, W] -> [B, H, W] (gray) or [B, H, W, 3]
    Dtype:   float, any device and memory format -> uint8 array
    Units:   mean and std of pixels in 0 .. 1, one number or one per channel, as given to the
             augmentation
    Raises:  ValueError: another shape, as many means or stds as neither 1 nor C
             TypeError: images that are not float
    Example: >>> denormalise(batch, mean=0.286, std=0.353)
    """
    if images.ndim != 4:
        raise checks.invalid(
            "denormalise", "images", "of shape [B, C, H, W]", list(images.shape), "Give a batch."
        )
    if not images.is_floating_point():
        raise checks.invalid_type(
            "denormalise", "images", "float", images.dtype, "Use uint8 images as they are."
        )
    channels = images.shape[1]
    factors = []
    for argument, values in (("mean", mean), ("std", std)):
        factor = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
        if factor.shape[0] not in (1, channels):
            raise checks.invalid(
                "denormalise", argument, f"one number or {channels}, one per channel",
                f"{factor.shape[0]} numbers", "Give those of the augmentation.",
            )  # fmt: skip
        factors.append(factor)
    pixels = images.detach().to("cpu", torch.float32) * factors[1] + factors[0]
    pixels = torch.nan_to_num(pixels * 255.0, nan=0.0, posinf=0.0, neginf=0.0)
    levels = pixels.round().clamp(0, 255).to(torch.uint8).numpy()
    if channels < 3:
        return np.ascontiguousarray(levels[:, 0])
    return np.ascontiguousarray(levels[:, :3].transpose(0, 2, 3, 1))


def data_uri(image: np.ndarray) -> str:
    """A picture as a `data:` address: PNG if tiny, else WebP, at most 224 px on its long side.

    Shape: uint8 [H, W] or [H, W, 3]
    """
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((LONG_SIDE_PX, LONG_SIDE_PX), Image.Resampling.LANCZOS)
    if is_tiny(image):
        return _address(picture, "PNG", optimize=True)
    return _address(picture, "WEBP", quality=80, method=4)


def is_tiny(image: np.ndarray) -> bool:
    """Whether to show its pixels as squares."""
    return bool(max(image.shape[:2]) < _PIXEL_ART_PX)


def heat_uri(shares: np.ndarray) -> str:
    """A map of numbers 0 .. 1 as a PNG of one blue, ever less transparent: it suits any background.

    Shape: float [H, W]
    """
    from PIL import Image

    # The root makes a share of 1 % visible (a tenth of the ink) beside one of 100 %.
    alpha = np.rint(np.sqrt(np.clip(shares, 0, 1)) * 255).astype(np.uint8)
    blue = np.broadcast_to(np.array([62, 124, 214], dtype=np.uint8), (*alpha.shape, 3))
    return _address(Image.fromarray(np.dstack([blue, alpha])), "PNG", optimize=True)


def _address(picture: object, form: str, **options: object) -> str:
    from PIL import Image

    assert isinstance(picture, Image.Image)
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
