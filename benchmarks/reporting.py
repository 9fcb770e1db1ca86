"""What measuring and reporting cost: the clock in a step, the scores of an evaluation, the page.

    python benchmarks/reporting.py

CPU seconds; about half a minute, with --large about two minutes (50,000 images of 1,000 classes).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from toque.train import report
from toque.train.logs.clock import Clock
from toque.train.metrics import score


def clock_us(steps: int = 200_000) -> float:
    """Microseconds that the clock adds to a step, the loop's own cost taken off."""
    clock = Clock(torch.device("cpu"))
    began = time.process_time()
    for _ in clock.watch(range(steps)):
        clock.step_begins()
        clock.step_ends()
    watched = time.process_time() - began
    began = time.process_time()
    for _ in range(steps):
        pass
    return (watched - (time.process_time() - began)) / steps * 1e6


def scores_s(images: int, classes: int) -> float:
    generator = np.random.RandomState(0)
    targets = generator.randint(0, classes, images)
    logits = generator.randn(images, classes).astype(np.float32)
    logits[np.arange(images), targets] += 3
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    began = time.process_time()
    score(np.arange(images), targets, probabilities, seed=0)
    return time.process_time() - began


def page_s() -> tuple[float, int]:
    rows = [
        {"split": "train", "images_seen": 64 * n, "epoch": n / 100, "loss": 2 / n, "accuracy": 0.5,
         "learning_rate": 0.1, "images_per_s": 900.0, "time_s": float(n), "memory_bytes": 2**30}
        for n in range(1, 5001)
    ]  # fmt: skip
    pixels = np.random.RandomState(0).randint(0, 256, (224, 224, 3)).astype(np.uint8)
    pictures = [report.Picture(pixels, f"{n}.jpg", "a", "b", 0.9) for n in range(24)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        began = time.process_time()
        report.write(path, report.ReportData("t", metrics=rows, mistakes=pictures))
        return time.process_time() - began, path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    large = parser.parse_args().large
    print(f"clock: {min(clock_us() for _ in range(3)):.2f} us a step")
    for images, classes in ((2000, 10), (10_000, 10), *([(50_000, 1000)] if large else [])):
        print(f"scores of {images} images, {classes} classes: {scores_s(images, classes):.2f} s")
    seconds, size = page_s()
    print(f"report of 5,000 rows and 24 photographs: {seconds:.2f} s, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
