"""What it costs to read and decode an image file, beside Pillow and torchvision.

    python benchmarks/decode.py [FOLDER] [--rounds 7] [--record]

CPU microseconds per image of one thread, from a path to uint8 pixels in memory; the decoders take
turns within each round, and the ratios are medians over the rounds. The floor is the bare call of
libjpeg-turbo on bytes that are in memory already (JPEG only). Below it, the look at every file before
a run. FOLDER is searched to the bottom; without it the two shipped JPEG photos, each 20 times.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import record
import simplejpeg
import torch
import torchvision
from PIL import Image

from toque.data import decode, files_below
from toque.data.scan import scan

SHIPPED = Path(__file__).parent.parent / "tests" / "images"
warnings.filterwarnings("ignore", category=DeprecationWarning)  # torchvision.io, since 0.29
warnings.filterwarnings("ignore", message=".*deprecated.*")


def by_toque(path: Path) -> torch.Tensor:
    return decode(path, channels=3)


def by_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def by_torchvision(path: Path) -> torch.Tensor:
    return torchvision.io.decode_image(str(path), torchvision.io.ImageReadMode.RGB)


def each(decoder: Callable[[Path], object], paths: list[Path]) -> None:
    for (
        path
    ) in paths:  # nothing is kept: fresh memory would cost every decoder the same page faults
        decoder(path)


def cpu_us(work: Callable[[], object], num_images: int) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) / num_images * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record", action="store_true", help="append a row to RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.folder is None:
        paths = [SHIPPED / "china.jpg", SHIPPED / "rocket.jpg"] * 20
    else:
        paths = [arguments.folder / name for name in files_below(arguments.folder)]
    n = len(paths)
    contents = [path.read_bytes() for path in paths]
    pixels = statistics.mean(by_toque(path)[0].numel() for path in paths)

    root, names = Path("/"), [str(path.resolve())[1:] for path in paths]
    works: dict[str, Callable[[], object]] = {
        "toque": lambda: each(by_toque, paths),
        "Pillow": lambda: each(by_pillow, paths),
        "torchvision": lambda: each(by_torchvision, paths),
        "quick look": lambda: scan(root, names, threads=1),
        "thorough look": lambda: scan(root, names, threads=1, thorough=True),
    }
    if all(content.startswith(b"\xff\xd8\xff") for content in contents):
        works["floor"] = lambda: any(len(simplejpeg.decode_jpeg(c)) == 0 for c in contents)
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(arguments.rounds):
        for name, work in works.items():
            times[name].append(cpu_us(work, n))

    print(
        f"{n} images of {pixels / 1e6:.2f} megapixels, CPU us an image, {arguments.rounds} rounds"
    )
    for name, values in times.items():
        ratio = statistics.median(v / t for v, t in zip(values, times["toque"], strict=True))
        spread = f"{min(values):8.0f} .. {max(values):.0f}"
        print(f"{name:14} {statistics.median(values):8.0f}  {spread:20}  x{ratio:.2f} of toque")
    if arguments.record:
        told = ", ".join(
            f"{name} {statistics.median(values):.0f} ({min(values):.0f}..{max(values):.0f})"
            for name, values in times.items()
        )
        record.append(
            "Decoding",
            f"{n} images of {pixels / 1e6:.2f} megapixels, CPU us an image, one thread, median "
            f"(range) of {arguments.rounds}: {told}; Pillow {PIL.__version__}, torchvision "
            f"{torchvision.__version__}",
        )


if __name__ == "__main__":
    main()
