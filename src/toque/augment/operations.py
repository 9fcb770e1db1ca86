"""The operations of the policies, each with a strength, done to whichever images drew them.

All images whose operation is geometric share one warp, all whose operation is a colour one pass,
each filter one batch: the cost does not grow with the length of the list.

Shape letters: B images, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from toque.augment import canvas as canvases
from toque.augment import filters, kernels
from toque.augment.canvas import Canvas
from toque.augment.color import Operation
from toque.augment.kernels.resolved import Resolved
from toque.augment.transform import Draw, Floats, Integers
from toque.augment.warp import affine

OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color",
    "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert",
)  # fmt: skip
_SIGNED = (
    "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness",
)  # fmt: skip
_GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
_CODES = {
    "Brightness": Operation.BRIGHTNESS,
    "Color": Operation.SATURATION,
    "Contrast": Operation.CONTRAST,
    "Posterize": Operation.POSTERIZE,
    "Solarize": Operation.SOLARIZE,
    "Invert": Operation.INVERT,
}
_WIDTH_PARTS = 150 / 331  # how far AutoAugment's and RandAugment's strongest translation goes

Scale = Mapping[str, npt.NDArray[np.float64] | None]
"""For each operation its strength at each step of the scale; None where it has none."""


def posterize(steps: int, lost: float) -> npt.NDArray[np.float64]:
    """Bits kept, from 8 down to 8 - lost."""
    return np.rint(8 - np.arange(steps) / ((steps - 1) / lost))


def usual_scale(steps: int) -> dict[str, npt.NDArray[np.float64] | None]:
    """Of AutoAugment and RandAugment; translations are parts of the image."""
    up = np.linspace(0.0, 1.0, steps)
    return {
        "Identity": None,
        "ShearX": 0.3 * up,
        "ShearY": 0.3 * up,
        "TranslateX": _WIDTH_PARTS * up,
        "TranslateY": _WIDTH_PARTS * up,
        "Rotate": 30.0 * up,
        "Brightness": 0.9 * up,
        "Color": 0.9 * up,
        "Contrast": 0.9 * up,
        "Sharpness": 0.9 * up,
        "Posterize": posterize(steps, 4),
        "Solarize": 1 - up,
        "AutoContrast": None,
        "Equalize": None,
    }


def perform(
    images: torch.Tensor,
    operation: Integers,
    strength: Floats,
    interpolation: object,
    fill: float | tuple[float, ...],
    translate_px: bool = False,
) -> torch.Tensor:
    """One operation on each image.

    Shape: images float [B, C, H, W] in 0 .. 1, operation (number in OPERATIONS) and strength [B]
    Args:  translate_px: translations are pixels, else parts of the image
    """
    names = np.array(OPERATIONS)[operation]
    out = torch.empty_like(images)
    _move(images, out, names, strength, interpolation, fill, translate_px)
    _color(images, out, names, strength)
    for name in ("Sharpness", "AutoContrast", "Equalize"):
        which = np.flatnonzero(names == name)
        if not len(which):
            continue
        factor = torch.from_numpy(1 + strength[which])
        if images.is_cuda:
            chosen = torch.from_numpy(which).to(images.device)
            out.index_copy_(0, chosen, _filtered(name, images[chosen], factor))
            continue
        for number, row in enumerate(which.tolist()):  # one after the other stay in the cache
            some = slice(number, number + 1)
            out[row : row + 1] = _filtered(name, images[row : row + 1], factor[some])
    return out


def _filtered(name: str, images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    if name == "Sharpness":
        return filters.sharpen(images, factor)
    return (filters.autocontrast if name == "AutoContrast" else filters.equalize)(images)


def _plain(canvas: Canvas, channels: int, codes: Integers, factors: Floats) -> Resolved:
    return Resolved(
        canvas,
        codes.astype(np.int32),
        factors.astype(np.float32),
        np.ones(channels, dtype=np.float32),
        np.zeros(channels, dtype=np.float32),
        np.empty((len(canvas), 0, 4), dtype=np.int64),
        np.empty((0, channels), dtype=np.float32),
    )


def _move(
    images: torch.Tensor,
    out: torch.Tensor,
    names: npt.NDArray[np.str_],
    strength: Floats,
    interpolation: object,
    fill: float | tuple[float, ...],
    translate_px: bool,
) -> None:
    which = np.flatnonzero(np.isin(names, _GEOMETRIC))
    if not len(which):
        return
    channels, height, width = images.shape[1:]
    sizes = np.tile(np.array([[height, width]], dtype=np.int64), (len(which), 1))
    canvas = Canvas.of(sizes)
    name, amount = names[which], strength[which]

    def where(wanted: str, values: Floats) -> Floats:
        return np.where(name == wanted, values, 0.0)

    by = (1, 1) if translate_px else (width, height)
    # Shears turn about the upper left corner, as in the papers; the rest about the middle.
    angle = np.rad2deg(np.arctan(amount))
    shear = np.stack([where("ShearX", angle), where("ShearY", angle)], axis=1)
    zero, one = np.zeros(len(which)), np.ones(len(which))
    sheared = affine(canvas, zero, zero, zero, one, shear, (0.0, 0.0))
    turned = affine(
        canvas,
        -where("Rotate", amount),
        np.trunc(where("TranslateX", amount * by[0])),
        np.trunc(where("TranslateY", amount * by[1])),
        one,
        np.zeros((len(which), 2)),
    )
    resample = canvases.interpolation("policy", interpolation)
    padding = canvases.padding("policy", "constant", fill)
    canvas = canvas.bordered(padding)
    canvas = canvas.warp(turned @ sheared, resample, canvas.height, canvas.width)
    nothing = np.empty((len(which), 0))
    resolved = _plain(canvas, channels, nothing.astype(np.int32), nothing)
    kernels.run(images, resolved, out, which=which)


def _color(
    images: torch.Tensor, out: torch.Tensor, names: npt.NDArray[np.str_], strength: Floats
) -> None:
    """The colour operations; and Identity, which is one without a code."""
    which = np.flatnonzero(np.isin(names, [*_CODES, "Identity"]))
    if not len(which):
        return
    channels, height, width = images.shape[1:]
    sizes = np.tile(np.array([[height, width]], dtype=np.int64), (len(which), 1))
    codes = np.array([_CODES.get(name, Operation.NONE) for name in names[which]])
    amount = strength[which]
    factors = np.select(
        [codes == Operation.POSTERIZE, codes == Operation.SOLARIZE],
        [2.0 ** np.trunc(amount), amount],
        1 + amount,
    )
    resolved = _plain(Canvas.of(sizes), channels, codes[:, None], factors[:, None])
    kernels.run(images, resolved, out, which=which)


def perform_all(
    images: torch.Tensor,
    draw: Draw,
    interpolation: object,
    fill: float | tuple[float, ...],
    translate_px: bool = False,
) -> torch.Tensor:
    """The operations of a draw one after the other: "operation" and "strength", [B, steps] each."""
    operations, strengths = draw["operation"].numpy(), draw["strength"].numpy()
    for step in range(operations.shape[1]):
        images = perform(
            images, operations[:, step], strengths[:, step], interpolation, fill, translate_px
        )
    return images


def strengths(scale: Scale, operations: Integers, steps: Integers, signs: Floats) -> Floats:
    """The strength of each operation at its step of the scale; signed ones turned by a coin."""
    num_steps = max(len(values) for values in scale.values() if values is not None)
    table = np.zeros((len(OPERATIONS), num_steps))
    for name, values in scale.items():
        if values is not None:
            table[OPERATIONS.index(name)] = values
    signed = np.isin(operations, [OPERATIONS.index(name) for name in _SIGNED])
    strength = table[operations, steps]
    return np.where(signed & (signs < 0.5), -strength, strength)


def describe(draw: Draw, image: int) -> str:
    """The operations of one image in words."""
    pairs = zip(draw["operation"][image].tolist(), draw["strength"][image].tolist(), strict=True)
    return ", ".join(f"{OPERATIONS[number]} {strength:.2f}" for number, strength in pairs if number)
