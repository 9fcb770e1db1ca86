"""Training batches a second from a data set: toque from files and from a packed cache, torchvision.

    python benchmarks/pipeline.py DATA [--size 224] [--batch 64] [--epochs 2] [--rounds 3] [--record]

DATA is a folder of class folders (or train/ and val/ of them). Everyone does pipeline (ii):
RandomResizedCrop + flip + ColorJitter(.4, .4, .4, .1) + normalise + RandomErasing(.25), float32, on all
cores, in turns; images a second of wall clock, nothing trained. toque: threads, one per core. Peer:
torchvision's ImageFolder with v2 transforms on tensors (decode_image) and on Pillow images, and
DataLoader with 0, 1, 2 and twice the cores workers (persistent, prefetching), the best of which counts;
its first epoch, in which the workers start, is left out. The cache is packed raw at the size of the
files, and at a short side of --size / 0.875.

Before DATA can be read it may be a zip: python -m zipfile -e flowers160.zip FOLDER.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import record
import torch
import torchvision

from toque import augment, data
from toque.data import Source, train_batches

TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1),
    "OMP_NUM_THREADS": "1",
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
JITTER = (0.4, 0.4, 0.4, 0.1)
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
warnings.filterwarnings("ignore", category=DeprecationWarning)
warnings.filterwarnings("ignore", message=".*deprecated.*")


def ours(source: Source, arguments: argparse.Namespace) -> float:
    """Images a second, after one batch to start the threads."""
    pipeline = augment.Compose(
        [
            augment.RandomResizedCrop(arguments.size),
            augment.RandomHorizontalFlip(),
            augment.ColorJitter(*JITTER),
            augment.Normalize(MEAN, STD),
            augment.RandomErasing(0.25),
        ]
    )
    batches = train_batches(
        source, pipeline, seed=0, batch_size=arguments.batch, start_images=0,
        stop_images=arguments.epochs * len(source), threads=CORES,
    )  # fmt: skip
    return speed(batches, arguments.batch, skipped=1)


def speed(batches: Iterator[object], batch: int, skipped: int) -> float:
    for _ in range(skipped):
        next(batches)
    start, count = time.perf_counter(), 0
    for _ in batches:
        count += 1
    return count * batch / (time.perf_counter() - start)


def read_tensor(path: str) -> torch.Tensor:
    return torchvision.io.decode_image(path, torchvision.io.ImageReadMode.RGB)


class Peer:
    """torchvision and DataLoader with a number of workers; they stay from one round to the next."""

    def __init__(self, root: Path, arguments: argparse.Namespace, workers: int, pillow: bool):
        from torchvision.transforms import v2

        transform = v2.Compose(
            [
                v2.RandomResizedCrop(arguments.size, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(*JITTER),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
                v2.RandomErasing(0.25),
            ]
        )
        loading = {} if pillow else {"loader": read_tensor}
        self.dataset = torchvision.datasets.ImageFolder(str(root), transform, **loading)
        self.batch = arguments.batch
        self.loader = torch.utils.data.DataLoader(
            self.dataset, arguments.batch, shuffle=True, drop_last=True, num_workers=workers,
            persistent_workers=workers > 0, prefetch_factor=2 if workers else None,
        )  # fmt: skip

    def __call__(self) -> float:
        return speed(iter(self.loader), self.batch, skipped=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2, help="of toque's, in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="append a row to RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    splits = data.open(arguments.data, seed=0)
    root = arguments.data / "train" if not splits.drawn else arguments.data
    with tempfile.TemporaryDirectory() as folder:
        short = round(arguments.size / 0.875)
        sources = {"toque, files": splits.train}
        for name, size in (("toque, cache", None), (f"toque, cache of {short}", short)):
            packed = data.pack(splits, Path(folder) / name, size=size, show="quiet")
            print(f"{name}: {packed.num_bytes / 1e6:.0f} MB, packed in {packed.seconds:.0f} s")
            sources[name] = data.open(packed.path, seed=0).train
        works: dict[str, Callable[[], float]] = {
            name: partial(ours, source, arguments) for name, source in sources.items()
        }
        for workers in sorted({0, 1, 2, CORES, 2 * CORES}):
            works[f"torchvision, {workers} workers"] = Peer(root, arguments, workers, False)
        works[f"torchvision, Pillow, {CORES} workers"] = Peer(root, arguments, CORES, True)
        speeds: dict[str, list[float]] = {name: [] for name in works}
        for work in works.values():
            work()
        for _ in range(arguments.rounds):
            for name, work in works.items():
                speeds[name].append(work())
    peers = [name for name in works if name.startswith("torchvision")]
    best = max(peers, key=lambda name: statistics.median(speeds[name]))
    told = []
    for name, values in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(values, speeds[best], strict=True))
        told.append(
            f"{name} {statistics.median(values):.0f} ({min(values):.0f}..{max(values):.0f}, x{ratio:.2f})"
        )
    print(
        f"images/s, {len(splits.train)} images to {arguments.size}, {CORES} cores; best peer: {best}"
    )
    print("  " + "\n  ".join(told))
    if arguments.record:
        record.append(
            "Training batches from a data set",
            f"{arguments.data.name}, {len(splits.train)} images to {arguments.size}, pipeline (ii), "
            f"batch {arguments.batch}, images/s, median (range, ratio to the best peer, {best}) of "
            f"{arguments.rounds}: {', '.join(told)}; torchvision {torchvision.__version__}",
        )


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in TUNED.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **TUNED})
    main()
