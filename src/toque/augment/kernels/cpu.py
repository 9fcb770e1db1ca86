"""The pass in C: loads the library built at installation and hands it the arrays.

Shape letters: B images, C channels.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from toque.augment.canvas import Canvas
from toque.augment.kernels import reference
from toque.augment.kernels.resolved import Resolved

LIBRARY = Path(__file__).with_name("_cpu.so")
SOURCES = Path(__file__).with_name("c")

_LEVELS = ("portable", "avx2", "avx512")
_KINDS = ("shift", "resize", "warp")
_RESAMPLES = ("nearest", "bilinear", "bicubic")
_MODES = ("constant", "edge", "reflect", "symmetric")
_TYPES = (torch.float32, torch.uint8, torch.bfloat16, torch.float16)
_PLACE = 6  # numbers that say where a picture lies: address, height, width and three strides

_NUMBERS = (
    "channels", "source_type", "kind", "resample", "padding_mode", "num_operations",
    "linear", "num_rectangles", "batch", "height", "width", "out_type", "streams", "source_step",
    "image_step", "out_step",
)  # fmt: skip
_ARRAYS = (
    "source", "rows", "matrix", "visible", "readable", "reduction", "padding", "codes", "factors",
    "scale", "shift", "rectangles", "fills", "out",
)  # fmt: skip


class _Pass(ctypes.Structure):
    """The struct Pass of c/pass.h, field for field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _NUMBERS),
        ("out_stride", ctypes.c_int64 * 3),
        *((name, ctypes.c_void_p) for name in _ARRAYS),
    )


class _Parts(ctypes.Structure):
    """The struct Parts of c/parts.h, field for field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("area", "ratio", "position", "wanted", "height",
                                               "width", "box")),
        *((name, ctypes.c_int64) for name in ("num_images", "tries", "least", "tall")),
    )  # fmt: skip


@functools.cache
def _library() -> ctypes.CDLL | None:
    if not LIBRARY.exists():
        logging.getLogger("toque.augment").warning(
            "The C kernel of augment is not built: images are augmented in plain torch, about ten "
            "times slower. Install toque where there is a C compiler (pip install .)."
        )
        return None
    library = ctypes.CDLL(str(LIBRARY))
    if not _is_of_this_tree(library):
        logging.getLogger("toque.augment").warning(
            "The C kernel of augment was built from other sources and is left out: images are "
            "augmented in plain torch, about ten times slower. Install toque again (pip install .)."
        )
        return None
    library.toque_pass_size.restype = ctypes.c_int64
    library.toque_run.argtypes = [
        ctypes.POINTER(_Pass), ctypes.c_int64, ctypes.c_int64, ctypes.c_int
    ]  # fmt: skip
    library.toque_sweep.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 2 + [ctypes.c_int]
    library.toque_sweep.restype = None
    library.toque_parts.argtypes = [ctypes.POINTER(_Parts)]
    library.toque_parts.restype = None
    library.toque_parts_size.restype = ctypes.c_int64
    assert library.toque_pass_size() == ctypes.sizeof(_Pass), "c/pass.h and _Pass disagree"
    assert library.toque_parts_size() == ctypes.sizeof(_Parts), "c/parts.h and _Parts disagree"
    return library


def _is_of_this_tree(library: ctypes.CDLL) -> bool:
    """Whether the library was built from the sources beside it.

    A library left over from before an update would be called by another contract: it has been seen
    to write wrong pixels without a sound, and to crash.
    """
    try:
        built_from = library.toque_source_sha256
    except AttributeError:
        return False
    built_from.restype = ctypes.c_char_p
    return bool(built_from() == digest().encode())


def digest() -> str:
    """The SHA-256 of all C sources, as setup.py takes it."""
    files = sorted(SOURCES.glob("*.[ch]"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@functools.cache
def levels() -> tuple[str, ...]:
    """The instruction sets that the library and this machine have, the best last."""
    library = _library()
    return () if library is None else _LEVELS[: library.toque_best_level() + 1]


def sweep(
    indices: npt.NDArray[np.int64],
    epochs: npt.NDArray[np.int64],
    keys: npt.NDArray[np.uint64],
    number: npt.NDArray[np.uint64],
) -> npt.NDArray[np.float32]:
    """toque.random.sweep_blocks, in the same bits."""
    library = _library()
    assert library is not None
    batch, blocks = len(indices), len(number)
    assert len(epochs) == batch and keys.shape == (blocks, 2)
    arrays = _of(indices, np.int64), _of(epochs, np.int64), _of(keys, np.uint64)
    into = np.empty((blocks, 4, batch), dtype=np.float32)  # the numbers of a column together
    addresses = [_address(array) for array in (*arrays, _of(number, np.uint64), into)]
    library.toque_sweep(*addresses, batch, blocks, len(levels()) - 1)
    return into.transpose(2, 0, 1)


def parts(
    area: npt.NDArray[np.floating],
    ratio: npt.NDArray[np.floating],
    position: npt.NDArray[np.floating],
    wanted: npt.NDArray[np.bool_] | None,
    height: npt.NDArray[np.integer],
    width: npt.NDArray[np.integer],
    least: int,
    tall: bool,
) -> npt.NDArray[np.int64]:
    """toque.augment.parts.defined, in the same bits."""
    library = _library()
    assert library is not None
    num_images, tries = area.shape
    assert ratio.shape == area.shape and position.shape == (num_images, 2)
    assert height.shape == width.shape == (num_images,)
    box = np.empty((4, num_images), dtype=np.int64)
    arrays = {
        "area": _of(area.T, np.float64),
        "ratio": _of(ratio.T, np.float64),
        "position": _of(position.T, np.float64),
        "height": _of(height, np.int64),
        "width": _of(width, np.int64),
        "box": box,
    }
    if wanted is not None:
        assert wanted.shape == (num_images,)
        arrays["wanted"] = _of(wanted, np.bool_)
    addresses = {name: _address(array) for name, array in arrays.items()}
    one = _Parts(num_images=num_images, tries=tries, least=least, tall=tall, **addresses)
    library.toque_parts(ctypes.byref(one))
    return box.T


def run(
    images: torch.Tensor | Sequence[torch.Tensor],
    resolved: Resolved,
    out: torch.Tensor,
    level: str,
    which: npt.NDArray[np.int64] | None = None,
) -> None:
    """Images uint8 or float, one tensor [B, C, H, W] or B tensors [C, H, W] -> out [B, C, h, w].

    Args: which: rows of `images` (one tensor then) and of `out` that are meant; all unless given
    """
    library = _library()
    assert library is not None
    images = _readable(images)
    canvas = resolved.canvas
    _, channels, height, width = out.shape
    fill = canvas.padding.fill if canvas.padding else (0.0,)
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "source": _sources(images),
        "matrix": _of(canvas.matrix.reshape(-1, 9).T, np.float64),
        "visible": _of(canvas.visible.T, np.float64),
        "readable": _of(canvas.readable.T, np.float64),
        "padding": np.full(channels, [value / 255 for value in fill], dtype=np.float32),
        "codes": _of(resolved.codes, np.int32),
        "factors": _of(resolved.factors, np.float32),
        "scale": _of(resolved.scale, np.float32),
        "shift": _of(resolved.shift, np.float32),
        "rectangles": _of(resolved.rectangles, np.int64),
        "fills": _of(resolved.fills, np.float32),
    }
    if which is not None:
        arrays["rows"] = _of(which, np.int64)
    if canvas.kind == "warp":
        arrays["reduction"] = _of(reference.reduction(canvas).T, np.float64)
    batch = len(out) if which is None else len(which)
    source_step, image_step = _PLACE, 0
    if isinstance(images, torch.Tensor):
        source_step, image_step = 0, images.stride(0) * images.element_size()
    _check_shapes(arrays, len(images), batch, channels, canvas)
    one = _Pass(
        channels=channels,
        source_type=_TYPES.index(images[0].dtype),
        kind=_KINDS.index(canvas.kind),
        resample=_RESAMPLES.index(canvas.resample),
        padding_mode=_MODES.index(canvas.padding.mode if canvas.padding else "constant"),
        num_operations=resolved.codes.shape[1],
        linear=resolved.linear,
        num_rectangles=resolved.rectangles.shape[1],
        batch=batch,
        height=height,
        width=width,
        out_type=_TYPES.index(out.dtype),
        streams=_streams(out),
        source_step=source_step,
        image_step=image_step,
        out_step=out.stride(0) * out.element_size(),
        out_stride=(ctypes.c_int64 * 3)(*out.stride()[1:]),
        out=out.data_ptr(),
        **{name: _address(array) for name, array in arrays.items()},
    )
    if not library.toque_run(ctypes.byref(one), 0, batch, _LEVELS.index(level)):
        raise MemoryError(f"augment: no memory for a picture of {height} x {width} x {channels}")


def _streams(out: torch.Tensor) -> bool:
    """Whether rows are stored past the caches: aligned rows of a result larger than they are."""
    step = out.stride()
    aligned = step[3] == 1 and step[2] % 16 == 0 and step[1] % 16 == 0 and step[0] % 16 == 0
    return out.dtype == torch.float32 and aligned and out.numel() > 2**22


def _of(array: npt.NDArray[np.generic], dtype: type[np.generic]) -> npt.NDArray[np.generic]:
    return np.ascontiguousarray(array, dtype=dtype)


def _address(array: npt.NDArray[np.generic]) -> int:
    if array.size and array.flags.writeable:
        # The same, in a third of the time; it asks for memory that may be written to.
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    return array.ctypes.data


def _readable(images: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
    """uint8 and float32 are read where they lie, other floats are converted first."""
    if isinstance(images, torch.Tensor):
        return images if images.dtype == torch.uint8 else images.to(torch.float32)
    return [image if image.dtype == torch.uint8 else image.to(torch.float32) for image in images]


def _sources(images: torch.Tensor | list[torch.Tensor]) -> npt.NDArray[np.int64]:
    """Address, size and strides in bytes (channel, row, pixel) of each image of a list, [B, 6]; of
    a tensor those of its first image, [1, 6]."""
    listed = [images[0]] if isinstance(images, torch.Tensor) else images
    places = [(image.data_ptr(), *image.shape[1:], *image.stride()) for image in listed]
    table = np.array(places, dtype=np.int64)
    table[:, 3:] *= listed[0].element_size()
    return table


def _check_shapes(
    arrays: dict[str, npt.NDArray[np.generic]],
    num_images: int,
    batch: int,
    channels: int,
    canvas: Canvas,
) -> None:
    """What C relies on; our own mistakes, not the user's."""
    assert len(canvas) == batch
    if "rows" in arrays:
        assert arrays["rows"].min() >= 0 and arrays["rows"].max() < num_images
    else:
        assert num_images == batch
    assert arrays["matrix"].shape == (9, batch)
    assert "reduction" not in arrays or arrays["reduction"].shape == (2, batch)
    assert arrays["visible"].shape == arrays["readable"].shape == (4, batch)
    assert arrays["codes"].shape == arrays["factors"].shape == (batch, arrays["codes"].shape[1])
    assert arrays["rectangles"].shape == (batch, len(arrays["fills"]), 4)
    assert arrays["scale"].shape == arrays["shift"].shape == (channels,)
    assert arrays["fills"].shape[1:] == arrays["padding"].shape == (channels,)
