"""What it costs to read and decode an image file, beside Pillow and torchvision.

    python benchmarks/decode.py [FOLDER] [--rounds 7] [--record]
    python benchmarks/decode.py --train [--rounds 7] [--record]    from JPEG files to training batches

CPU microseconds per image of one thread, from a path to uint8 pixels in memory; the decoders take
turns within each round, and the ratios are medians over the rounds. The floor is the bare call of
libjpeg-turbo on bytes that are in memory already (JPEG only). Below it, the look at every file before
a run. FOLDER is searched to the bottom; without it the two shipped JPEG photos, each 20 times.

--train: RandomResizedCrop(224) + flip + normalise from JPEG photos of 500 x 375 and of 3000 x 2000
(mosaics of the shipped photos, quality 90), batches of 32 and 8 float32, CPU ms an image in one thread, and
the wall clock of toque with two threads against one. The allocator keeps large blocks for everyone.
The floor is the Huffman decoder alone on the rows that the same crops need: below it no decoder built
on libjpeg-turbo can come. Without the library of data/c the rows say so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import record
import simplejpeg
import torch
import torchvision
from PIL import Image

from toque import augment
from toque.data import FolderSource, decode, files_below, region, train_batches
from toque.data.scan import scan
from toque.random import Key

TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1),
    "OMP_NUM_THREADS": "1",
}
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


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def mosaic(height: int, width: int, seed: int) -> Image.Image:
    """A photo of that size with the grain of the shipped ones: they are tiled, never enlarged."""
    rng = np.random.default_rng(seed)
    tiles = [np.asarray(Image.open(SHIPPED / name)) for name in ("china.jpg", "rocket.jpg")]
    rows = []
    for _ in range(-(-height // 427)):
        row = [
            tiles[rng.integers(2)][:427, :: rng.choice([-1, 1])] for _ in range(-(-width // 640))
        ]
        rows.append(np.concatenate(row, axis=1)[:, :width])
    return Image.fromarray(np.concatenate(rows)[:height])


def by_our_loader(source: FolderSource, batch_size: int, threads: int, scaled: bool = True) -> None:
    pipeline = augment.Compose(
        [
            augment.RandomResizedCrop(224),
            augment.RandomHorizontalFlip(),
            augment.Normalize(MEAN, STD),
        ]
    )
    for _ in train_batches(
        source, pipeline, seed=0, batch_size=batch_size, start_images=0, stop_images=len(source),
        threads=threads, scaled_decoding=scaled,
    ):  # fmt: skip
        pass


def by_a_loop(paths: list[Path], batch_size: int, read: Callable[[Path], object]) -> None:
    from torchvision.transforms import v2

    pipeline = v2.Compose(
        [
            v2.RandomResizedCrop(224, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    for first in range(0, len(paths), batch_size):
        torch.stack([pipeline(read(path)) for path in paths[first : first + batch_size]])


def open_rgb(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def train(rounds: int, to_record: bool) -> None:
    for height, width, n, size in ((375, 500, 192, 32), (2000, 3000, 64, 8)):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            names = [f"{number}.jpg" for number in range(n)]
            for number, name in enumerate(names):
                mosaic(height, width, number).save(root / name, quality=90)
            paths = [root / name for name in names]
            source = FolderSource(root, names, [0] * n, ["a"])
            works: dict[str, Callable[[], object]] = {
                "toque": partial(by_our_loader, source, size, 1),
                "toque, full decoding": partial(by_our_loader, source, size, 1, scaled=False),
                "Pillow": partial(by_a_loop, paths, size, open_rgb),
                "torchvision": partial(by_a_loop, paths, size, by_torchvision),
            }
            if region.available():
                works["Huffman decoder alone"] = huffman_alone(paths, height, width)
            else:
                print(
                    "toque was built without the headers of libjpeg-turbo: whole files are decoded"
                )
            times: dict[str, list[float]] = {name: [] for name in works}
            speedups = []
            for work in works.values():
                work()
            for _ in range(rounds):
                for name, work in works.items():
                    times[name].append(cpu_us(work, n) / 1e3)
                wall = [wall_s(partial(by_our_loader, source, size, threads)) for threads in (1, 2)]
                speedups.append(wall[0] / wall[1])
        told = []
        for name, values in times.items():
            ratio = statistics.median(v / t for v, t in zip(values, times["toque"], strict=True))
            told.append(
                f"{name} {statistics.median(values):.2f} ({min(values):.2f}..{max(values):.2f}, "
                f"x{ratio:.2f})"
            )
        two = f"two threads x{statistics.median(speedups):.2f} of one (wall clock)"
        print(f"JPEG {width} x {height} -> 224, CPU ms an image, {rounds} rounds")
        print("  " + "\n  ".join([*told, two]))
        if to_record:
            record.append(
                "JPEG files to training batches",
                f"{width} x {height} to 224, RandomResizedCrop + flip + normalise, CPU ms an image, "
                f"one thread, median (range, ratio) of {rounds}: {', '.join(told)}; {two}; Pillow "
                f"{PIL.__version__}, torchvision {torchvision.__version__}",
            )


def huffman_alone(paths: list[Path], height: int, width: int) -> Callable[[], None]:
    """Every row down to the end of the crop passes the Huffman decoder; one block becomes pixels."""
    crop = augment.Compose([augment.RandomResizedCrop(224)])
    indices = np.arange(len(paths))
    boxes = crop.decoding_box(crop.draw(Key(0, 0, indices)), [(height, width)] * len(paths))
    contents = [path.read_bytes() for path in paths]
    pixels = np.empty((-(-height // 8), -(-width // 8), 3), np.uint8)

    def work() -> None:
        for content, box in zip(contents, boxes, strict=True):
            bottom = max(1, min(len(pixels), int(box[2]) // 8))
            assert region.decode_region(content, 8, (bottom - 1, 0, bottom, 1), pixels)

    return work


def wall_s(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--train", action="store_true", help="from files to training batches")
    parser.add_argument("--record", action="store_true", help="append a row to RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.train:
        train(arguments.rounds, arguments.record)
        return
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
    if any(os.environ.get(name) != value for name, value in TUNED.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **TUNED})
    main()
