"""What the loader costs beside the work it hands over.

    python benchmarks/loader.py [--rounds 9] [--record]

Batches of 8 bundled Fashion-MNIST images, gathered, converted to float and nothing else. CPU
microseconds per batch: of all threads, and of the training thread alone; the floor is the same gather
and conversion in blocks, without batches, threads or hand-over. Loader and floor take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time

import record
import torch

from toque import data
from toque.data.order import stream
from toque.random import Key

BATCH_IMAGES, BLOCK_IMAGES, NUM_IMAGES = 8, 2672, 320_640


class ToFloat:
    """The least a pipeline can do."""

    size = (28, 28)

    def draw(self, key: Key) -> torch.Tensor:
        return key.uniform("unused")

    def apply(self, images, parameters, out=None):
        return images.float() if out is None else out.copy_(images)


def floor(source: data.Source) -> None:
    out, pipeline = torch.empty(BLOCK_IMAGES, 1, 28, 28), ToFloat()
    for start in range(0, NUM_IMAGES, BLOCK_IMAGES):
        indices, epochs = stream(0, len(source), start, start + BLOCK_IMAGES)
        drawn = pipeline.draw(Key(0, epochs, indices))
        pipeline.apply(source.read_many(indices), drawn, out=out)


def loader(source: data.Source, threads: int) -> None:
    for _ in data.train_batches(
        source, ToFloat(), seed=0, batch_size=BATCH_IMAGES, start_images=0, stop_images=NUM_IMAGES,
        threads=threads,
    ):  # fmt: skip
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="append a row to RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source = data.open("fashion", seed=0).train
    works = {"floor": lambda: floor(source)}
    works |= {f"{n} threads": lambda n=n: loader(source, n) for n in (0, 1, 2)}
    everywhere: dict[str, list[float]] = {name: [] for name in works}
    here: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(arguments.rounds):
        for name, work in works.items():
            process, thread = time.process_time(), time.thread_time()
            work()
            scale = 1e6 * BATCH_IMAGES / NUM_IMAGES
            everywhere[name].append((time.process_time() - process) * scale)
            here[name].append((time.thread_time() - thread) * scale)
    rows = []
    for name in works:
        above = statistics.median(
            value - base for value, base in zip(everywhere[name], everywhere["floor"], strict=True)
        )
        rows.append(
            f"{name}: all {statistics.median(everywhere[name]):.1f} "
            f"({min(everywhere[name]):.1f}..{max(everywhere[name]):.1f}), above the floor {above:.1f}, "
            f"training thread {statistics.median(here[name]):.1f}"
        )
    print(f"CPU us a batch of {BATCH_IMAGES} images of 28 x 28, {arguments.rounds} rounds")
    print("\n".join(rows))
    if arguments.record:
        told = "; ".join(rows)
        record.append(
            "Loader hand-over",
            f"CPU us a batch of {BATCH_IMAGES} gray images of 28 x 28, median (range) of "
            f"{arguments.rounds}: {told}",
        )


if __name__ == "__main__":
    main()
