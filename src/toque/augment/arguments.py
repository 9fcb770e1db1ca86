"""Checks that several transforms make of their arguments and of their images."""

from __future__ import annotations

from toque import checks
from toque.augment import canvas


def check_probability(where: str, p: float) -> None:
    """Raises ValueError unless p lies in [0, 1]."""
    if not 0 <= p <= 1:
        raise checks.invalid(
            where, "p", "a probability in [0, 1]", p, "Give 0.5 for half the images."
        )


def check_warp_interpolation(where: str, given: object) -> None:
    """Raises ValueError for an interpolation that a warp does not have."""
    if canvas.interpolation(where, given) == "bicubic":
        raise checks.invalid(
            where, "interpolation", "nearest or bilinear", given,
            "Use bilinear; it is anti-aliased.",
        )  # fmt: skip


def check_gray_or_rgb(where: str, channels: int) -> None:
    """Raises ValueError for images of neither 1 nor 3 channels."""
    if channels not in (1, 3):
        raise checks.invalid(
            where, "images", "gray or RGB (1 or 3 channels)", f"{channels} channels",
            "Leave this transform out for such images.",
        )  # fmt: skip
