"""One image on its way into a cache: read, made smaller, encoded, with what tells of a change.

Shape letters: C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from toque import checks
from toque.data.packed.format import Settings
from toque.data.source import Source

if TYPE_CHECKING:
    from PIL import Image

_GENEROUS = 2.0  # a decoder may leave this many times the wanted pixels: no difference is seen


@dataclass(frozen=True)
class SourceFile:
    """What the file of an image or mask was when it was packed; zeros where there is no file."""

    num_bytes: int = 0
    time_ns: int = 0
    digest: int = 0

    @classmethod
    def of(cls, path: Path | None) -> SourceFile:
        """Read the file."""
        if path is None:
            return cls()
        status = path.stat()
        digest = hashlib.blake2b(path.read_bytes(), digest_size=8).digest()
        return cls(status.st_size, status.st_mtime_ns, int.from_bytes(digest, "little"))


@dataclass(frozen=True)
class Record:
    """An image as it is stored, and its mask where it has one."""

    content: bytes
    height: int
    width: int
    crc: int
    file: SourceFile
    mask: bytes = b""
    mask_crc: int = 0
    mask_file: SourceFile = SourceFile()


def record(source: Source, index: int, settings: Settings) -> Record:
    """Read one image of a source and make it what the settings say; from any thread."""
    file = SourceFile.of(source.path(index))
    if source.has_files:
        encoded = source.encoded(index)
        scale = min(encoded.size) / (_GENEROUS * settings.size) if settings.size else 1.0
        image = encoded.decode(scale)
    else:
        image = source.read(index)
    name = source.name(index)
    if image.dtype != torch.uint8:
        raise checks.invalid_type(
            "pack", "every image", "uint8", f"{image.dtype} at {name}",
            "Give images of 0 .. 255; floats are not packed.",
        )  # fmt: skip
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    if pixels.shape[2] != settings.channels:
        raise checks.invalid(
            "pack", "every image", f"of {settings.channels} channels",
            f"{pixels.shape[2]} at {name}", "Convert the images to one kind.",
        )  # fmt: skip
    pixels = smaller(pixels, settings.size)
    content = pixels.tobytes() if settings.encoding == "raw" else _as_jpeg(pixels, settings)
    height, width = pixels.shape[:2]
    crc = zlib.crc32(content)
    if source.task != "segmentation":
        return Record(content, height, width, crc, file)
    mask_file = SourceFile.of(source.mask_path(index))
    mask = _mask(source, index, height, width)
    return Record(content, height, width, crc, file, mask, zlib.crc32(mask), mask_file)


def _mask(source: Source, index: int, height: int, width: int) -> bytes:
    """The mask of an image at the size that the image has now, by the nearest pixel."""
    mask = source.mask(index).numpy()
    rows = ((np.arange(height) + 0.5) * (mask.shape[0] / height)).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * (mask.shape[1] / width)).astype(np.int64)
    reduced: np.ndarray = mask[rows][:, columns]
    return reduced.tobytes()


def smaller(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """[H, W, C] with a short side of `size`, anti-aliased; what is small enough stays."""
    height, width = pixels.shape[:2]
    if size is None or min(height, width) <= size:
        return pixels
    from PIL import Image

    target = resized(height, width, size)
    image: Image.Image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    reduced = np.asarray(image.resize((target[1], target[0]), Image.Resampling.LANCZOS))
    return reduced.reshape(*target, pixels.shape[2])


def resized(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width with a short side of `size` and the ratio kept."""
    scale = size / min(height, width)
    return max(size, round(height * scale)), max(size, round(width * scale))


def _as_jpeg(pixels: np.ndarray, settings: Settings) -> bytes:
    import simplejpeg

    gray = settings.channels == 1
    encoded: bytes = simplejpeg.encode_jpeg(
        pixels,
        settings.quality,
        "GRAY" if gray else "RGB",
        "Gray" if gray else "420",
    )
    return encoded
