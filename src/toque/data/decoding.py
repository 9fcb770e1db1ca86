"""Files to uint8 images: JPEG by simplejpeg (libjpeg-turbo), everything else by Pillow.

What a file is, its first bytes say, never its name. Shape letters: C channels, H height, W width.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from toque import checks
from toque.data import jpeg

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000
TOO_LARGE = "a mistake or a bomb"  # how the reason of a refusal by size ends

# Warnings of libjpeg that mean lost data. The others (an unknown JFIF revision, odd parameters of a
# scan) leave the pixels as they are, but simplejpeg stops at them in either mode: Pillow does not.
_DATA_LOST = ("Premature end", "Corrupt JPEG data")
_START_BYTES = 64
_HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
DARK = 32
"""Images in which no value of 255 is this large are nearly black: most likely files of 16 bits that
use the lower ones alone, of which the upper 8 were kept."""

_GRAY_MODES = ("1", "L", "LA", "La")


class UnreadableImage(checks.InvalidValue):
    """A file that holds no image that can be used; `reason` says why in a few words."""

    reason: str = ""


def unreadable(name: str, reason: str) -> UnreadableImage:
    """The exception for a file that cannot be used."""
    error = UnreadableImage(
        checks.sentence(
            "data", "every file", "a whole image", f"{name} ({reason})",
            "Mend or remove the file; a training leaves such files out with --set on_bad=skip.",
        )
    )  # fmt: skip
    error.reason = reason
    return error


def decode(
    file: bytes | Path | str,
    *,
    channels: int | None = None,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> torch.Tensor:
    """Decode one image, the way a person sees it.

    EXIF orientation is applied. Transparency is laid on white: cut-out pictures are drawn for white
    pages, and what stands below transparent pixels is whatever the editor left there. 16-bit values
    keep their upper 8 bits (65,535 becomes 255; nothing is clipped). CMYK becomes RGB as in Pillow,
    without colour profiles. An animated file gives its first frame. A JPEG of which any data is
    missing is an error: libjpeg alone would fill the rest with gray.

    Shape:  -> [C, H, W], a view of [H, W, C] memory
    Dtype:  -> uint8
    Args:   file: the bytes of a file, or its path
            channels: 1 (luma), 3, or None for the file's own
            max_pixels: larger images are refused from their header, before memory is taken; what
            is not a JPEG has Pillow's limit besides, twice PIL.Image.MAX_IMAGE_PIXELS
            name: what to call the file in an error; its path if there is one
    Raises: ValueError (UnreadableImage): no image, a damaged or truncated one, or too large
            FileNotFoundError: no such file
    Example: >>> decode("photos/cat.jpg", channels=3).shape
             torch.Size([3, 375, 500])
    """
    data, name = contents(file, name)
    header = jpeg_header(data, max_pixels, name)
    pixels = None if header is None else decode_jpeg(data, header, channels, name)
    return as_tensor(
        decode_by_pillow(data, channels, max_pixels, name) if pixels is None else pixels
    )


def contents(file: bytes | Path | str, name: str | None) -> tuple[bytes, str]:
    """The bytes of a file, at least one, and what to call it in an error."""
    if isinstance(file, bytes):
        data, name = file, name or "these bytes"
    else:
        name = name or str(file)
        data = _read(Path(file), name)
    if not data:
        raise unreadable(name, "empty, 0 bytes")
    return data, name


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise checks.MissingFile(
            checks.sentence(
                "data", "every file", "there", f"nothing at {name}",
                "Put the file back, or start again without it.",
            )
        ) from None  # fmt: skip
    except OSError as error:
        raise unreadable(name, f"cannot be read: {error.strerror or error}") from None


def jpeg_header(data: bytes, max_pixels: int, name: str) -> jpeg.JpegHeader | None:
    """The header of a JPEG, or None for what is left to Pillow: other files, CMYK, odd headers."""
    header = jpeg.read_header(data) if data.startswith(jpeg.START) else None
    if header is None or header.components not in (1, 3):
        return None
    check_size(header.height, header.width, max_pixels, name)
    return header


def decode_jpeg(
    data: bytes,
    header: jpeg.JpegHeader,
    channels: int | None,
    name: str,
    *,
    factor: int = 1,
    memory: np.ndarray | None = None,
) -> np.ndarray | None:
    """[H, W, C], or None where simplejpeg stops at what Pillow passes over.

    Args: factor: 1, 2, 4 or 8: so many times smaller, rounded up; libjpeg then does less work
          memory: uint8 to decode into, large enough
    """
    import simplejpeg

    gray = channels == 1 or (channels is None and header.components == 1)
    height, width = (-(-header.height // factor), -(-header.width // factor))
    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            "GRAY" if gray else "RGB",
            # With a least size simplejpeg takes the smallest scale that keeps it; without, none.
            min_height=height if factor > 1 else 0,
            min_width=width if factor > 1 else 0,
            buffer=memory,
            strict=True,
        )
    except ValueError as error:
        reason = str(error)
        if reason.startswith(_DATA_LOST):
            raise unreadable(name, f"damaged or cut off: {reason}") from None
        return None
    return upright(pixels, header.orientation)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn [H, W, C] pixels the way EXIF orientation 1 .. 8 says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels if orientation == 1 else np.ascontiguousarray(pixels)


def as_stored(
    box: tuple[int, int, int, int], height: int, width: int, orientation: int
) -> tuple[int, int, int, int]:
    """Where a box (top, left, bottom, right) of an upright image lies in the pixels of its file:
    what `upright` does, undone. `height` and `width` are the upright image's."""
    top, left, bottom, right = box
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    if orientation in (5, 6, 7, 8):
        return left, top, right, bottom
    return top, left, bottom, right


@contextmanager
def opened(file: bytes | Path, max_pixels: int, name: str) -> Iterator[Image.Image]:
    """The file as an image of Pillow's, header read; whatever goes wrong names the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            check_size(image.height, image.width, max_pixels, name)
            yield image
    except (checks.UserMistake, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        first = str(error).partition(",")[0]
        raise unreadable(name, f"{first}: {TOO_LARGE}") from None
    except UnidentifiedImageError:
        raise unreadable(name, f"not an image of a known kind{_guess(file)}") from None
    except Exception as error:  # Pillow's plugins meet damage with almost any exception
        raise unreadable(name, f"cannot be decoded: {error or type(error).__name__}") from None


def _guess(file: bytes | Path) -> str:
    """What a file that is no image may be, as a remark: a download that failed, a phone's photo."""
    try:
        if isinstance(file, Path):
            with file.open("rb") as opened_file:
                start = opened_file.read(_START_BYTES)
        else:
            start = file[:_START_BYTES]
    except OSError:
        return ""
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
        return ", but HEIC: save it as JPEG or PNG"
    if start.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return ", but JPEG XL: save it as JPEG or PNG"
    if start.lstrip().startswith(b"<"):
        return ", but HTML, SVG or other text"
    return ""


def decode_by_pillow(data: bytes, channels: int | None, max_pixels: int, name: str) -> np.ndarray:
    """[H, W, C] of a file of any kind that Pillow knows."""
    from PIL import ImageOps

    with opened(data, max_pixels, name) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return pixels_of(image, channels, name)


def pixels_of(image: Image.Image, channels: int | None, name: str) -> np.ndarray:
    """[H, W, C] uint8 of an image of Pillow's of any mode."""
    from PIL import Image

    gray = is_gray(image)
    if has_no_range(image):
        raise unreadable(name, f"pixels of kind {image.mode!r} have no known range, save as 8 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
        image = paper.convert("L" if gray else "RGB")
    kept = channels or (1 if gray else 3)
    mode = "L" if kept == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    return np.array(image).reshape(image.height, image.width, kept)


def has_no_range(image: Image.Image) -> bool:
    """Whether nothing says which of its values is white: floats, and most of 32 bits."""
    return image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM"))


def is_gray(image: Image.Image) -> bool:
    """Whether the kind of image, not its content, has one channel of brightness."""
    return image.mode in _GRAY_MODES or image.mode.startswith("I")


def check_size(height: int, width: int, max_pixels: int, name: str) -> None:
    """Refuse an image larger than max_pixels."""
    if height * width > max_pixels:
        raise unreadable(
            name, f"{width} x {height} pixels, above max_pixels = {max_pixels}: {TOO_LARGE}"
        )


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """[H, W, C] as a view [C, H, W]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)
