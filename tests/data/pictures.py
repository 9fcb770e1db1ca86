"""Pictures for the tests: the shipped photos, and small ones made on the spot."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = Path(__file__).parent.parent / "images"


def colours(height=24, width=32):
    """Four flat quarters of different colours: survives JPEG, and shows every turn and mirror."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = (250, 20, 20)
    pixels[: height // 2, width // 2 :] = (20, 240, 30)
    pixels[height // 2 :, : width // 2] = (30, 40, 230)
    pixels[height // 2 :, width // 2 :] = (240, 240, 40)
    return pixels


def saved(image, kind, **options):
    """The bytes of a Pillow image, or of an array, in a format."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(height=24, width=32, **options):
    return saved(colours(height, width), "JPEG", quality=95, **options)


def png(pixels=None):
    return saved(colours() if pixels is None else pixels, "PNG")


def png_by_hand(pixels, color_type, bit_depth=16, height=None, width=None):
    """A PNG that Pillow cannot write; height and width may lie."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(
        ">IIBBBBB",
        width or pixels.shape[1],
        height or pixels.shape[0],
        bit_depth,
        color_type,
        0,
        0,
        0,
    )
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def tree(root, files):
    """Write {name: bytes} below a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def folder(root, counts, content=None):
    """A folder of class folders with so many images each."""
    return tree(
        root,
        {
            f"{name}/{i}.jpg": content or jpeg()
            for name, count in counts.items()
            for i in range(count)
        },
    )
