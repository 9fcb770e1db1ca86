"""The pass on a GPU: makes the tables, copies them over in one piece, and launches triton_pass.

The floor is the traffic: a picture of 224 x 224 x 3 is read as 147 KiB of bytes from a source of
that size and written as 588 KiB of float32 (294 KiB of bfloat16). At 3.35 TB/s, an H100's, that is
4.5 million pictures a second (7.4 in bfloat16). The arithmetic, a few hundred instructions a pixel
with colours, binds before that; and before either, what the host does: drawing, resolving and these
tables.

TRITON_INTERPRET=1, set before Python starts, runs the same kernels on CPU tensors, slowly: for
tests.

Shape letters: B images, C channels.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from toque.augment.canvas import Canvas
from toque.augment.color import Operation
from toque.augment.kernels import linear, reference
from toque.augment.kernels.resolved import Resolved

_Array = npt.NDArray[Any]
_Integers = npt.NDArray[np.int64]

_KINDS = ("shift", "resize", "warp")
_RESAMPLES = ("nearest", "bilinear", "bicubic")
_MODES = ("constant", "edge", "reflect", "symmetric")
_DTYPES = {
    torch.uint8: "uint8",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
}
_TILE_H, _TILE_W, _WARPS = 32, 32, 4  # pixels of a program, and the warps that share them
# Whether a*b + c may be one rounding: said, because Triton's own default changes after 3.9.
_FUSED = True
_MOST_OFFSET = 2**31 - 1  # elements; offsets within one picture are 32-bit


@functools.cache
def _kernels() -> Any:
    """The module of the Triton kernels, or None, said once."""
    try:
        from toque.augment.kernels import triton_pass
    except ImportError:
        logging.getLogger("toque.augment").warning(
            "Triton is not installed: images on a GPU are augmented in plain torch, several times "
            "slower. pip install triton."
        )
        return None
    return triton_pass


def is_interpreted() -> bool:
    """Whether Triton runs its kernels on the CPU, as tests do."""
    return os.environ.get("TRITON_INTERPRET") == "1" and _kernels() is not None


def serves(images: torch.Tensor | Sequence[torch.Tensor], out: torch.Tensor) -> bool:
    """Whether these images can go through the kernel: on a GPU, Triton there, sizes in 32 bits."""
    if not (out.is_cuda or is_interpreted()) or _kernels() is None:
        return False
    return max(_extent(image) for image in (*_one_or_all(images), out)) <= _MOST_OFFSET


def _one_or_all(images: torch.Tensor | Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    return [images] if isinstance(images, torch.Tensor) else images


def _extent(image: torch.Tensor) -> int:
    """Elements from the first to the last of one picture."""
    sizes, strides = image.shape[-3:], image.stride()[-3:]
    return sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))


@dataclass(frozen=True, eq=False)
class _Sources:
    """Where the pictures lie: addresses, sizes (height, width), strides in elements."""

    address: _Integers
    size: _Integers
    stride: _Integers
    dtype: torch.dtype
    channels: int

    @classmethod
    def of(cls, images: torch.Tensor | Sequence[torch.Tensor]) -> _Sources:
        """The images of a batch or a list."""
        if isinstance(images, torch.Tensor):
            batch, channels, *size = images.shape
            steps = np.arange(batch, dtype=np.int64) * images.stride(0) * images.element_size()
            address = images.data_ptr() + steps
            sizes = np.tile(np.array(size, dtype=np.int64), (batch, 1))
            strides = np.tile(np.array(images.stride()[1:], dtype=np.int64), (batch, 1))
            return cls(address, sizes, strides, images.dtype, channels)
        address = np.array([image.data_ptr() for image in images], dtype=np.int64)
        sizes = np.array([image.shape[1:] for image in images], dtype=np.int64)
        strides = np.array([image.stride() for image in images], dtype=np.int64)
        return cls(address, sizes, strides, images[0].dtype, images[0].shape[0])

    def __getitem__(self, rows: _Integers) -> _Sources:
        """Some of them."""
        address, size, stride = self.address[rows], self.size[rows], self.stride[rows]
        return replace(self, address=address, size=size, stride=stride)


@dataclass(frozen=True, eq=False)
class _Target:
    """Where the results go: a tensor, and of each picture its offset and row stride in elements."""

    out: torch.Tensor
    offset: _Integers
    row: _Integers
    channel: int
    pixel: int


def run(
    images: torch.Tensor | Sequence[torch.Tensor],
    resolved: Resolved,
    out: torch.Tensor,
    which: npt.NDArray[np.int64] | None = None,
) -> None:
    """Images uint8 or float, one tensor [B, C, H, W] or B tensors [C, H, W] -> out [B, C, h, w].

    Args: which: rows of `images` (one tensor then) and of `out` that are meant; all unless given
    """
    images = _readable(images)
    sources = _Sources.of(images)
    rows = np.arange(len(out), dtype=np.int64)
    if which is not None:
        sources, rows = sources[which], which
    offset = rows * out.stride(0)
    row = np.full(len(rows), out.stride(2), dtype=np.int64)
    target = _Target(out, offset, row, out.stride(1), out.stride(3))
    where = torch.cuda.device(out.device) if out.is_cuda else contextlib.nullcontext()
    with where:
        if resolved.canvas.kind != "warp":
            _launch(sources, resolved, target)
            return
        # What shrinks much is reduced first, into floats of its own; the rest is read as it lies.
        factors = reference.reduction(resolved.canvas)
        shrinks = (factors > 1).any(1)
        plain, shrunk = np.flatnonzero(~shrinks), np.flatnonzero(shrinks)
        if len(plain):
            some = replace(target, offset=offset[plain], row=row[plain])
            _launch(sources[plain], resolved.take(plain), some)
        if len(shrunk):
            part = resolved.take(shrunk)
            part = replace(part, canvas=_inside(part.canvas, sources.size[shrunk]))
            smaller, rest = reference.reduced(part.canvas, factors[shrunk])
            # The temporary has to live until the launch that reads it is queued.
            reduced, held = _reduce(sources[shrunk], smaller, out.device)
            some = replace(target, offset=offset[shrunk], row=row[shrunk])
            mixing = _mixing(sources[shrunk], part, out.device)
            _launch(reduced, replace(part, canvas=rest), some, mixing)
            del held


def _readable(images: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    """Dtypes that the kernels do not read are converted first."""
    if isinstance(images, torch.Tensor):
        return images if images.dtype in _DTYPES else images.to(torch.float32)
    return [image if image.dtype in _DTYPES else image.to(torch.float32) for image in images]


def _inside(canvas: Canvas, size: np.ndarray) -> Canvas:
    """No more of a picture is reduced than there is: matrices of nonsense must not take memory."""
    bound = np.concatenate([size, size], axis=1)
    return replace(canvas, visible=np.clip(np.nan_to_num(canvas.visible), 0, bound))


def _reduce(
    sources: _Sources, canvas: Canvas, device: torch.device
) -> tuple[_Sources, torch.Tensor]:
    """The pictures resized to float32, one after the other with their channels last."""
    channels = sources.channels
    areas = canvas.height * canvas.width * channels
    offset = np.cumsum(areas) - areas
    flat = torch.empty(int(areas.sum()), dtype=torch.float32, device=device)
    num = len(canvas)
    nothing = Resolved(
        canvas, np.empty((num, 0), dtype=np.int32), np.empty((num, 0), dtype=np.float32),
        np.ones(channels, dtype=np.float32), np.zeros(channels, dtype=np.float32),
        np.empty((num, 0, 4), dtype=np.int64), np.empty((0, channels), dtype=np.float32),
    )  # fmt: skip
    row = canvas.width * channels
    _launch(sources, nothing, _Target(flat, offset, row, 1, channels))
    size = np.stack([canvas.height, canvas.width], axis=1)
    stride = np.stack([np.ones(num), row, np.full(num, channels)], axis=1).astype(np.int64)
    return _Sources(flat.data_ptr() + 4 * offset, size, stride, torch.float32, channels), flat


def _on_device(arrays: dict[str, _Array], device: torch.device) -> dict[str, torch.Tensor]:
    """All arrays in one copy, each beginning at a multiple of 16 bytes."""
    starts, size = {}, 0
    for name, array in arrays.items():
        starts[name] = size
        size += -(-array.nbytes // 16) * 16
    whole = torch.empty(max(size, 16), dtype=torch.uint8, pin_memory=device.type == "cuda")
    into = whole.numpy()
    for name, array in arrays.items():
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        into[starts[name] : starts[name] + array.nbytes] = flat
    moved = whole.to(device, non_blocking=True)
    return {
        name: moved[starts[name] : starts[name] + array.nbytes].view(
            torch.from_numpy(np.empty(0, array.dtype)).dtype
        )
        for name, array in arrays.items()
    }


def _tables(sources: _Sources, canvas: Canvas, target: _Target | None) -> dict[str, _Array]:
    """The columns that triton_pass names."""
    num = len(canvas)
    nothing = np.zeros(num, dtype=np.int64)
    offset, row = (nothing, nothing) if target is None else (target.offset, target.row)
    ints = [sources.address, offset, *sources.size.T, *sources.stride.T, row]
    doubles = [canvas.matrix.reshape(num, 9), canvas.visible, canvas.readable]
    return {
        "ints": np.stack([*ints, canvas.height, canvas.width], axis=1).astype(np.int64),
        "doubles": np.concatenate(doubles, axis=1).astype(np.float64),
    }


def _mixing(sources: _Sources, resolved: Resolved, device: torch.device) -> torch.Tensor:
    """The colour matrix of each picture, float32 [B, 12]; looks at the pictures as they lie."""
    batch = len(resolved.canvas)
    mixing = torch.empty(batch, 12, dtype=torch.float32, device=device)
    if not resolved.linear:
        return mixing
    assert linear.GRID**2 == 256
    arrays = _tables(sources, resolved.canvas, None)
    arrays |= {"codes": resolved.codes, "factors": resolved.factors}
    tables = _on_device(arrays, device)
    pass_ = _kernels()
    pass_.fit_colors[(batch,)](
        tables["ints"], tables["doubles"], tables["codes"], tables["factors"],
        resolved.codes.shape[1], mixing,
        RGB=sources.channels == 3, TYPE=_triton(sources.dtype), enable_fp_fusion=_FUSED,
    )  # fmt: skip
    return mixing


def _triton(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return getattr(tl, _DTYPES[dtype])


def _launch(
    sources: _Sources, resolved: Resolved, target: _Target, mixing: torch.Tensor | None = None
) -> None:
    """One pass: the tables of rows and columns, the mean before each contrast, then the pixels."""
    pass_, canvas, device = _kernels(), resolved.canvas, target.out.device
    batch, channels = len(canvas), sources.channels
    is_rgb, kind, resample = channels == 3, canvas.kind, canvas.resample
    if kind == "shift":
        resample = "nearest"
    if mixing is None:
        mixing = _mixing(sources, resolved, device)
    is_contrast = (resolved.codes == Operation.CONTRAST) & (not resolved.linear)
    num_sums = int(is_contrast.sum(1).max(initial=0))
    fill = canvas.padding.fill if canvas.padding else (0.0,)
    arrays = _tables(sources, canvas, target) | {
        "codes": resolved.codes.astype(np.int32),
        "factors": resolved.factors.astype(np.float32),
        "until": _until(is_contrast, num_sums),
        "padding": np.broadcast_to(np.array(fill) / 255, channels).astype(np.float32),
        "scale": resolved.scale.astype(np.float32),
        "shift": resolved.shift.astype(np.float32),
        "rectangles": np.clip(resolved.rectangles, -(2**30), 2**30).astype(np.int32),
        "fills": resolved.fills.astype(np.float32),
    }
    tables = _on_device(arrays, device)
    height, width = int(canvas.height.max()), int(canvas.width.max())
    longest = max(height, width)
    shape = (batch, 2, longest) if kind != "warp" else (1,)
    first, count = (torch.empty(shape, dtype=torch.int32, device=device) for _ in range(2))
    start, inverse = (torch.empty(shape, dtype=torch.float32, device=device) for _ in range(2))
    numbers = {"KIND": _KINDS.index(kind), "RESAMPLE": _RESAMPLES.index(resample)}
    if kind != "warp":
        block = 128
        mode = canvas.padding.mode if canvas.padding else "constant"
        pass_.make_taps[(batch, 2, -(-longest // block))](
            tables["ints"], tables["doubles"], first, count, start, inverse, longest,
            MODE=_MODES.index(mode), BLOCK=block, enable_fp_fusion=_FUSED, **numbers,
        )  # fmt: skip
    tiles_x, tiles_y = -(-width // _TILE_W), -(-height // _TILE_H)
    tiles = tiles_x * tiles_y
    sums = torch.empty(batch * num_sums * tiles, dtype=torch.float32, device=device)
    for sweep in [*range(num_sums), -1]:
        planes = 1 if is_rgb or sweep >= 0 else channels
        pass_.run_pass[(batch * tiles, planes)](
            tables["ints"], tables["doubles"], first, count, start, inverse, longest,
            tables["codes"], tables["factors"], tables["until"], resolved.codes.shape[1], mixing,
            sums, num_sums, tables["padding"], tables["scale"], tables["shift"],
            tables["rectangles"], tables["fills"], resolved.rectangles.shape[1],
            target.out, target.channel, target.pixel, channels, tiles_x, tiles,
            RGB=is_rgb, TYPE=_triton(sources.dtype), LINEAR=resolved.linear, SWEEP=sweep,
            MOST_TILES=1 << max(tiles - 1, 0).bit_length(), TILE_H=_TILE_H, TILE_W=_TILE_W,
            num_warps=_WARPS, enable_fp_fusion=_FUSED, **numbers,
        )  # fmt: skip


def _until(is_contrast: npt.NDArray[np.bool_], num_sums: int) -> npt.NDArray[np.int32]:
    """How many operations come before each contrast of an image, -1 for none: [B, sums]."""
    until = np.full((len(is_contrast), num_sums), -1, dtype=np.int32)
    rows, at = np.nonzero(is_contrast)
    rank = (np.cumsum(is_contrast, axis=1) - 1)[rows, at]
    until[rows, rank] = at
    return until
