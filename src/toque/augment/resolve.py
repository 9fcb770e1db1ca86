"""What a pipeline is given, checked; and what a pass means for it, worked out.

Shape letters: B images, C channels, H W source height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from toque import checks
from toque.augment import kernels
from toque.augment.canvas import Canvas, Counts
from toque.augment.kernels.resolved import Resolved
from toque.augment.parameters import Parameters
from toque.augment.plan import Pass
from toque.augment.transform import Draw, Floats, Integers

Images = torch.Tensor | Sequence[torch.Tensor]
"""A batch [B, C, H, W], or one [C, H, W] for each image; uint8 in 0 .. 255 or float in 0 .. 1."""

_Number = TypeVar("_Number", np.int32, np.int64, np.float32)


def check_images(images: Images) -> tuple[Counts, int, torch.device]:
    """Sizes [B, 2], channels and device, checked by shape and dtype alone."""
    listed = [images] if isinstance(images, torch.Tensor) else list(images)
    rank = 4 if isinstance(images, torch.Tensor) else 3
    for image in listed:
        if not isinstance(image, torch.Tensor):
            raise checks.invalid_type(
                "Compose", "images", "tensors", type(image).__name__,
                "Use torch.from_numpy(np.array(image)).permute(2, 0, 1) for a picture or an array "
                "[H, W, C].",
            )  # fmt: skip
    if not listed:
        return np.empty((0, 2), dtype=np.int64), 3, torch.device("cpu")
    first = listed[0]
    # Each kind of image is looked at once, in the order they come: most lists are of few.
    kinds = dict.fromkeys((image.shape, image.dtype, image.device) for image in listed)
    for shape, dtype, device in kinds:
        if len(shape) != rank:
            rule = "[B, C, H, W], or a list of [C, H, W]"
            raise checks.invalid(
                "Compose", "images", rule, list(shape),
                "Add the missing dimension with [None]." if len(shape) < rank else "Flatten it.",
            )  # fmt: skip
        channels, height, width = shape[-3:]
        if width in (3, 4) and channels > 16:
            raise checks.invalid(
                "Compose", "images", "[B, C, H, W], or a list of [C, H, W]",
                f"{list(shape)}, which has its channels last",
                f"Use images.permute({'0, 3, 1, 2' if rank == 4 else '2, 0, 1'}).",
            )  # fmt: skip
        if dtype != torch.uint8 and not dtype.is_floating_point:
            raise checks.invalid_type(
                "Compose", "images", "uint8 in 0 .. 255 or float in 0 .. 1", dtype,
                "Convert them with images.to(torch.uint8) or images / 255.",
            )  # fmt: skip
        if 0 in (channels, height, width):
            raise checks.invalid(
                "Compose", "images", "of at least one pixel", list(shape), "Leave it out."
            )
        if (channels, dtype, device) != (first.shape[-3], first.dtype, first.device):
            raise checks.invalid(
                "Compose", "images", "alike in channels, dtype and device",
                f"{channels} {dtype} {device} and {first.shape[-3]} {first.dtype} {first.device}",
                "Convert them to one kind first.",
            )  # fmt: skip
    if len(kinds) == 1:
        sizes = np.full((len(images), 2), first.shape[-2:], dtype=np.int64)
    else:
        sizes = np.array([image.shape[1:] for image in listed], dtype=np.int64)
    return sizes, first.shape[-3], first.device


def check_parameters(parameters: Parameters) -> None:
    """Raises ValueError for parameters that are no numbers; they lie on the CPU, so it is cheap."""
    for draw in parameters.draws:
        for name, values in draw.items():
            if values.is_floating_point() and not math.isfinite(values.numpy().sum()):
                raise checks.invalid(
                    "Compose.apply", f"parameters {name}", "finite", "NaN or infinity",
                    "Draw them again with pipeline.draw(key).",
                )  # fmt: skip


def is_own(transform: object) -> bool:
    """Whether a transform is the caller's, so that what it gives has to be looked at."""
    return not type(transform).__module__.startswith("toque.")


def check_own_draw(transform: object, draw: Draw, indices: Integers) -> None:
    """Raises ValueError where a transform of the caller's drew no number for an image."""
    for name, values in draw.items():
        if values.is_floating_point() and not bool(values.isfinite().all()):
            bad = ~values.isfinite().reshape(len(values), -1).all(1)
            raise checks.invalid(
                "Compose", f"what {type(transform).__name__} draws as {name}", "finite",
                f"NaN or infinity for image {int(indices[int(bad.nonzero()[0])])}",
                "Look at its draw().",
            )  # fmt: skip


def check_own_result(transform: object, result: torch.Tensor, given: torch.Tensor) -> None:
    """Raises ValueError where a filter of the caller's gives another shape, or makes NaN of pixels
    that were numbers. It looks at every pixel, and waits for a GPU."""
    name = type(transform).__name__
    if not isinstance(result, torch.Tensor) or result.shape != given.shape:
        got = list(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
        raise checks.invalid(
            "Compose", f"what {name} gives", f"of shape {list(given.shape)}", got,
            "Look at its filter().",
        )  # fmt: skip
    if bool(result.isfinite().all()):
        return
    bad = ~result.isfinite().flatten(1).all(1) & given.isfinite().flatten(1).all(1)
    if bool(bad.any()):
        raise checks.invalid(
            "Compose", f"what {name} gives", "finite",
            f"NaN or infinity in image {int(bad.nonzero()[0])} of {len(given)}",
            "Look at its filter().",
        )  # fmt: skip


def canvas_of(images: Images) -> Canvas:
    """The canvas of untouched images."""
    return Canvas.of(check_images(images)[0])


def as_floats(images: Images, kernel: str) -> torch.Tensor:
    """What a filter gets: float32 in 0 .. 1, contiguous."""
    if isinstance(images, torch.Tensor):
        if images.dtype == torch.float32 and images.is_contiguous():
            return images
        floats = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        nothing = Parameters(len(images), ())
        resolved = resolve(Pass(), nothing, canvas_of(images), images.shape[1])
        kernels.run(images, resolved, floats, kernel)
        return floats
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise checks.invalid(
            "Compose", "images", "of one size where a filter runs",
            " and ".join(str(list(size)) for size in sorted(sizes)[:3]),
            "Put a crop or Resize((height, width)) before the filter.",
        )  # fmt: skip
    return as_floats(torch.stack(list(images)), kernel)


def place(one: Pass, parameters: Parameters, start: Canvas) -> Canvas:
    """The canvas after the geometry of a pass."""
    canvas = start.bordered(one.outside())
    for number, geometric in one.geometric:
        canvas = geometric.place(canvas, parameters.draws[number])
    return canvas


def resolve(one: Pass, parameters: Parameters, start: Canvas, channels: int) -> Resolved:
    """A pass with every number it needs for these images."""
    canvas = place(one, parameters, start)
    num = len(canvas)
    codes: list[Integers] = []
    factors: list[Floats] = []
    for number, pointwise in one.pointwise:
        pointwise.check_channels(channels)
        code, factor = pointwise.operations(parameters.draws[number])
        codes.append(code)
        factors.append(factor)
    scale: Floats = np.ones(channels)
    shift: Floats = np.zeros(channels)
    for normalize in one.normalize:
        scale, shift = normalize.scale_and_shift(channels)
    rectangles: list[Integers] = []
    fills: list[Floats] = []
    noisy: list[tuple[int, torch.Tensor]] = []
    for number, erasing, num_before in one.erasing:
        boxes = erasing.rectangles(parameters.draws[number], canvas.height, canvas.width)
        rectangles.append(boxes[:, None])
        fill = erasing.fill
        if fill is None:
            noisy.append((len(fills), parameters.draws[number]["noise"]))
        elif len(fill) not in (1, channels):
            raise checks.invalid(
                type(erasing).__name__, "value", f"1 or {channels} numbers", len(fill),
                "Give one number, or one per channel.",
            )  # fmt: skip
        value = np.full(channels, fill or (0.0,), dtype=np.float64)
        # Erased before Normalize: the fill is normalised with the rest.
        fills.append(value if num_before == len(one.normalize) else value * scale + shift)
    return Resolved(
        canvas,
        _side_by_side(codes, (num, 0), np.int32),
        _side_by_side(factors, (num, 0), np.float32),
        scale.astype(np.float32),
        shift.astype(np.float32),
        _side_by_side(rectangles, (num, 0, 4), np.int64),
        np.array(fills, dtype=np.float32).reshape(len(fills), channels),
        tuple(noisy),
        one.is_linear and bool(one.pointwise),
    )


def _side_by_side(
    columns: Sequence[npt.NDArray[np.number]], nothing: tuple[int, ...], dtype: type[_Number]
) -> npt.NDArray[_Number]:
    """Arrays [B, n, ...] joined along n; an empty one of that shape where there are none."""
    if len(columns) == 1:
        return columns[0].astype(dtype, copy=False)
    if not columns:
        return np.empty(nothing, dtype=dtype)
    return np.concatenate(columns, axis=1, dtype=dtype, casting="unsafe")
