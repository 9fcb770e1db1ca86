"""One image looked at closely: what its file is, what its pixels are, and whether it is whole.

Shape letters: C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toque import checks
from toque.data import decoding
from toque.data.checking import near

_PIXELS_FOR_MEAN = 2**16

DEEP_AND_DARK = f"16 bits a pixel, of which values below {decoding.DARK << 8:,} alone are used"
"""What is said of a file that is nearly black once its upper 8 bits are taken."""


@dataclass(frozen=True, eq=False, slots=True)
class Seen:
    """What a close look at one image told.

    size:           height and width, the way a person sees it; None where it cannot be read
    reason:         why it cannot be read
    bytes_hash:     of the file; None where there is none
    pixels_hash:    of the decoded pixels and their size
    hash, thumb:    see near.signature
    mean, square:   of each channel in 0 .. 1, and of its square
    oddities:       what may surprise other tools: turned, animated, 16-bit, CMYK, transparent
    gray:           whether it has one channel
    """

    size: tuple[int, int] | None = None
    reason: str | None = None
    bytes_hash: bytes | None = None
    pixels_hash: bytes = b""
    hash: np.ndarray | None = None
    thumb: np.ndarray | None = None
    mean: np.ndarray | None = None
    square: np.ndarray | None = None
    oddities: tuple[str, ...] = ()
    gray: bool = False


def examine_file(path: Path, max_pixels: int = decoding.MAX_PIXELS) -> Seen:
    """Look at one file; never raises for what is wrong with it."""
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            return Seen(reason="gone" if not path.exists() else "not a file")
        content = path.read_bytes()
    except OSError as error:
        return Seen(reason=f"cannot be read: {error.strerror or error}")
    digest = hashlib.blake2b(content, digest_size=16).digest()
    try:
        pixels = decoding.decode(content, max_pixels=max_pixels, name=str(path))
        oddities = _oddities(content, max_pixels, str(path))
    except decoding.UnreadableImage as error:
        return Seen(reason=error.reason, bytes_hash=digest)
    return _seen(pixels.permute(1, 2, 0).numpy(), digest, oddities)


def examine_pixels(read: Callable[[], object], name: str) -> Seen:
    """Look at one image of a source that has no files."""
    try:
        image = read()
    except checks.UserMistake as error:
        return Seen(reason=str(error))
    pixels = getattr(image, "permute", None)
    assert pixels is not None, name
    array = np.ascontiguousarray(pixels(1, 2, 0).numpy())
    if array.dtype != np.uint8:
        array = (np.clip(array, 0, 1) * 255).round().astype(np.uint8)
    return _seen(array, None, ())


def _seen(pixels: np.ndarray, digest: bytes | None, oddities: tuple[str, ...]) -> Seen:
    pixels = np.ascontiguousarray(pixels)
    height, width, channels = pixels.shape
    whole = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    whole.update(pixels.data)
    step = max(1, int(np.sqrt(height * width / _PIXELS_FOR_MEAN)))
    some = pixels[step // 2 :: step, step // 2 :: step].reshape(-1, channels) / np.float32(255)
    bits, thumb = near.signature(pixels)
    return Seen(
        (height, width), None, digest, whole.digest(), bits, thumb,
        some.mean(0), (some * some).mean(0), oddities, channels == 1,
    )  # fmt: skip


def _oddities(content: bytes, max_pixels: int, name: str) -> tuple[str, ...]:
    found = []
    with decoding.opened(content, max_pixels, name) as image:
        if image.getexif().get(0x0112, 1) not in (0, 1):
            found.append("turned by EXIF orientation")
        if image.format != "MPO" and getattr(image, "is_animated", False):
            found.append("animated")
        if image.mode.startswith("I"):
            dark = int(np.asarray(image).max()) < decoding.DARK << 8
            found.append(DEEP_AND_DARK if dark else "16 bits a pixel")
        if image.mode in ("CMYK", "YCCK"):
            found.append("CMYK")
        if image.has_transparency_data:
            found.append("with transparency")
    return tuple(found)
