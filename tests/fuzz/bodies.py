"""Hostile image files against the entry of the server: atheris (coverage-guided) on `limits.decode`.

    pip install atheris
    python -m tests.fuzz.bodies --seconds 600

Any exception but Refused with a 4xx, a picture above the limits, more than 2 GB of memory or more than
10 s for one file ends it with the file that did it. Pillow's and libjpeg's C code is reached but not
instrumented: what is new there shows by the Python around it.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

import atheris

from toque.deploy.serving.limits import Limits, Refused, decode

with atheris.instrument_imports(include=["PIL"]):
    import PIL.BmpImagePlugin
    import PIL.GifImagePlugin
    import PIL.JpegImagePlugin
    import PIL.PngImagePlugin
    import PIL.WebPImagePlugin  # noqa: F401
    from PIL import Image

LIMITS = Limits(max_pixels=250_000)
counts = {"answered": 0, "refused": 0}


def seeds(folder: Path) -> None:
    """Small pictures of each format, in the variants that have code of their own."""
    gray, colour = Image.linear_gradient("L").resize((40, 24)), Image.new("RGB", (40, 24), "teal")
    palette, clear = colour.convert("P"), colour.convert("RGBA")
    variants = [
        (colour, "JPEG", {}), (colour, "JPEG", {"progressive": True}), (gray, "JPEG", {}),
        (colour.convert("CMYK"), "JPEG", {}), (colour, "JPEG", {"subsampling": 0, "restart_marker_rows": 1}),
        (colour, "JPEG", {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}),
        (colour, "PNG", {}), (gray, "PNG", {}), (palette, "PNG", {}), (clear, "PNG", {}),
        (gray.convert("1"), "PNG", {}), (gray.convert("I;16"), "PNG", {}),
        (colour, "PNG", {"save_all": True, "append_images": [clear.convert("RGB")]}),
        (palette, "GIF", {}), (palette, "GIF", {"save_all": True, "append_images": [gray.convert("P")]}),
        (colour, "WEBP", {}), (clear, "WEBP", {"lossless": True}),
        (colour, "WEBP", {"save_all": True, "append_images": [clear.convert("RGB")]}),
        (colour, "BMP", {}), (gray, "BMP", {}), (palette, "BMP", {}), (clear, "BMP", {}),
    ]  # fmt: skip
    for number, (picture, kind, options) in enumerate(variants):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        (folder / f"{number:02}.{kind.lower()}").write_bytes(file.getvalue())


def one(body: bytes) -> None:
    """Decode, as the server would, in colour and in gray."""
    for channels in (3, 1):
        try:
            pixels = decode(body, channels, LIMITS)
        except Refused as refusal:
            assert 400 <= refusal.status < 500 and 0 < len(str(refusal)) < 400
            counts["refused"] += 1
        else:
            assert pixels.shape[2] == channels
            assert pixels.shape[0] * pixels.shape[1] <= LIMITS.max_pixels
            counts["answered"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds(Path(folder))
        atheris.Setup(
            [
                sys.argv[0], folder, f"-max_total_time={options.seconds}", "-max_len=8192",
                f"-seed={options.seed}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1",
                f"-artifact_prefix={tempfile.gettempdir()}/",
            ],
            one,
        )  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main()
