"""The colour chain in plain torch: what each operation means.

Shape letters: B images, C channels, h w height and width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from toque.augment.color import GRAY, Operation


def moved(array: npt.NDArray[Any], images: torch.Tensor) -> torch.Tensor:
    """An array on the device of images."""
    return torch.from_numpy(array).to(images.device, non_blocking=True)


def gray(pixels: torch.Tensor) -> torch.Tensor:
    """The gray of RGB pixels, or the one channel: [B, C, h, w] -> [B, 1, h, w]."""
    if pixels.shape[1] != 3:
        return pixels[:, :1]
    red, green, blue = pixels.unbind(1)
    return (red * GRAY[0] + green * GRAY[1] + blue * GRAY[2]).unsqueeze(1)


def recolor(
    pixels: torch.Tensor, codes: npt.NDArray[np.int32], factors: npt.NDArray[np.float32]
) -> torch.Tensor:
    """The colour chain: each image its own operations in its own order; may change its input."""
    for step in range(codes.shape[1]):
        for code in np.unique(codes[:, step]):
            if code == Operation.NONE:
                continue
            which = np.flatnonzero(codes[:, step] == code)
            factor = moved(factors[which, step], pixels)[:, None, None, None]
            if len(which) == len(codes):
                pixels = operate(pixels, Operation(code), factor)
            else:
                chosen = moved(which, pixels)
                changed = operate(pixels.index_select(0, chosen), Operation(code), factor)
                pixels.index_copy_(0, chosen, changed)
    return pixels


def operate(pixels: torch.Tensor, operation: Operation, factor: torch.Tensor) -> torch.Tensor:
    """One operation on all images; factor [B, 1, 1, 1]."""
    if operation == Operation.BRIGHTNESS:
        return (pixels * factor).clamp_(0, 1)
    if operation == Operation.CONTRAST:
        mean = gray(pixels).double().mean((1, 2, 3), keepdim=True).float()
        return (pixels * factor + mean * (1 - factor)).clamp_(0, 1)
    if operation == Operation.SATURATION:
        if pixels.shape[1] != 3:
            return pixels
        return (pixels * factor + gray(pixels) * (1 - factor)).clamp_(0, 1)
    if operation == Operation.HUE:
        return _turn_hue(pixels, factor) if pixels.shape[1] == 3 else pixels
    if operation == Operation.GRAYSCALE:
        return gray(pixels).expand_as(pixels).contiguous()
    if operation == Operation.INVERT:
        return 1 - pixels
    if operation == Operation.POSTERIZE:
        # The small step up keeps a uint8 value from falling below its own level by rounding.
        return ((pixels * factor + 1e-5).floor().minimum(factor - 1) / factor).clamp_(min=0)
    return torch.where(pixels >= factor, 1 - pixels, pixels)  # SOLARIZE


def _turn_hue(pixels: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """The hue of HSV turned; value and saturation stay. Turns [B, 1, 1, 1], 1 is once around.

    In units of a sixth turn, channel n is value - chroma * clip(min(k, 4 - k), 0, 1) with
    k = (n + hue) mod 6 and n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = pixels.unbind(1)
    value, chroma = pixels.amax(1), pixels.amax(1) - pixels.amin(1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turns[:, :, :, 0]
    channels = []
    for n in (5, 3, 1):
        k = torch.remainder(hue + n, 6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, 1)
