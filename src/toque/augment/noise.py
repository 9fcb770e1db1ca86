"""Keyed noise: numbers for every pixel, a function of an image's seed and the pixel's place alone.

Counter-based like the draws, but made where the images are: whole pictures of numbers are too many
to send to a GPU. Plain integer arithmetic, so the same on every device.

Shape letters: B images.
"""

from __future__ import annotations

import math

import torch

_LOW_32 = 0xFFFFFFFF


def seeds(numbers: torch.Tensor) -> torch.Tensor:
    """Two numbers in [0, 1) per image -> one seed of 48 bits: [B, 2] -> int64 [B]."""
    words = (numbers.double() * 2.0**24).long()
    return words[:, 0] * 2**24 + words[:, 1]


def _mixed(words: torch.Tensor) -> torch.Tensor:
    # The finaliser of MurmurHash3 on 32 bits, in int64 so that no product overflows its sign.
    words = words ^ (words >> 16)
    words = (words * 0x85EBCA6B) & _LOW_32
    words = words ^ (words >> 13)
    words = (words * 0xC2B2AE35) & _LOW_32
    return words ^ (words >> 16)


def normal(seed: torch.Tensor, num: int, device: torch.device) -> torch.Tensor:
    """Standard normal numbers, num for each image: seed int64 [B] -> float32 [B, num]."""
    seed = seed.to(device)[:, None]
    place = torch.arange(num, device=device)[None]
    low, high = seed & 0xFFFFFF, seed >> 24
    words = _mixed(_mixed((place + low * 0x9E3779) & _LOW_32) ^ _mixed(high + 0x51ED27))
    # (w + 0.5) / 2**24 lies strictly inside (0, 1): the result is finite.
    uniform = ((words >> 8).double() + 0.5) * 2.0**-24
    return (torch.erfinv(2 * uniform - 1) * math.sqrt(2)).float()
