"""A part of a JPEG by libjpeg-turbo, where toque was built beside its headers (see c/region.c).

simplejpeg decodes whole files only. The pixels of both are the same, bit for bit: whether the
library is there changes the time of a run and nothing else.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from pathlib import Path

import numpy as np

LIBRARY = Path(__file__).with_name("_region.so")
SOURCES = Path(__file__).with_name("c")

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels."""


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY))
        built_from = library.toque_source_sha256
    except (OSError, AttributeError):  # not built, or libjpeg is not on this machine
        return None
    built_from.restype = ctypes.c_char_p
    files = sorted(SOURCES.glob("*.[ch]"))
    here = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    if built_from() != here.encode():  # left over from other sources: it may be called otherwise
        return None
    library.toque_decode_region.argtypes = [
        ctypes.c_char_p, ctypes.c_uint64, ctypes.c_int, ctypes.c_int, *[ctypes.c_int64] * 6,
        ctypes.c_void_p,
    ]  # fmt: skip
    return library


def available() -> bool:
    """Whether parts can be decoded here."""
    return _library() is not None


def decode_region(data: bytes, factor: int, box: Box, pixels: np.ndarray) -> bool:
    """Decode at least the pixels in a box into their places in an image; others stay as they are.

    Shape:   pixels [H, W, C], contiguous: the whole image at 1/factor of its size, rounded up
    Dtype:   uint8
    Args:    box: in reduced pixels, inside the image, not empty
    Returns: False where the library is missing or stops at the file: decode all of it then, which
             says what is wrong
    """
    library = _library()
    if library is None:
        return False
    height, width, channels = pixels.shape
    top, left, bottom, right = box
    assert 0 <= top < bottom <= height and 0 <= left < right <= width
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    status = library.toque_decode_region(
        data, len(data), channels, factor, height, width, *box, pixels.ctypes.data
    )
    return bool(status == 0)
