"""Wall time of a training step on the CPU: fit beside the bare step, and what the allocator does to both.

    python benchmarks/wall.py [--rounds 3] [--record]        3 minutes on a quiet machine

bare   forward, backward and optimiser of a loop by hand, on one batch that is there already
fit    toque.fit on images in memory, the preset "imagenet" or, below 64 pixels, "light"; its second epoch
kept   after them: freed memory is kept (`toque train` does that; for a program of one's own it is
       MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_THRESHOLD_=2147483647 before the command)

Each in a process of its own, in turns; medians. CPU time does not show what threads that sleep cost, so
this one wants the machine for itself.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from toque.cli.allocator import keep_freed_memory

CASES = [  # model, channels, pixels, batch
    ("toque/resnet10_small", 1, 28, 128),
    ("toque/resnet18", 3, 224, 16),
]
STEPS = {28: 100, 224: 8}


def bare(model: str, channels: int, px: int, batch: int) -> float:
    from toque import models

    network = models.create(model, num_classes=10, in_channels=channels).train()
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    images = torch.randn(batch, channels, px, px).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(10, (batch,))
    began = 0.0
    for number in range(2 * STEPS[px]):
        if number == STEPS[px]:
            began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(network(images), targets, label_smoothing=0.1).backward()
        optimizer.step()
    return (time.perf_counter() - began) / STEPS[px]


def by_fit(model: str, channels: int, px: int, batch: int) -> float:
    import toque
    from toque import data

    count = STEPS[px] * batch
    pixels = torch.randint(0, 256, (count, channels, px, px), dtype=torch.uint8)
    source = data.ArraySource(pixels, torch.arange(count) % 10, list("abcdefghij"))
    few = data.ArraySource(pixels[:20], torch.arange(20) % 10, list("abcdefghij"))
    with tempfile.TemporaryDirectory() as folder:
        run = toque.Run(
            out=folder + "/run", model=model, epochs=2, batch_size=batch, image_size=px, device="cpu",
            augment="light" if px < 64 else "imagenet",
            log={"tensorboard": False, "every_images": count},
        )  # fmt: skip
        toque.fit(run, train=source, val=few, show="quiet")
        lines = (Path(folder) / "run/metrics.jsonl").read_text().splitlines()
    last = [row for row in map(json.loads, lines) if row["split"] == "train"][-1]
    return batch / last["images_per_s"]


KINDS = {"bare": bare, "fit": by_fit, "bare, kept": bare, "fit, kept": by_fit}


def one(kind: str, case: int) -> None:
    if "kept" in kind and not keep_freed_memory():
        raise SystemExit("freed memory cannot be kept here: no glibc, or MALLOC_ is set")
    seconds = KINDS[kind](*CASES[case])
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([1e3 * seconds, used.ru_maxrss / 1024]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    if options.one:
        one(options.one[0], int(options.one[1]))
        return
    for case, (model, channels, px, batch) in enumerate(CASES):
        found: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
        for _ in range(options.rounds):
            for kind, values in found.items():
                command = [sys.executable, __file__, "--one", kind, str(case)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                values.append(json.loads(done.stdout.splitlines()[-1]))
        base = statistics.median(ms for ms, _ in found["bare"])
        said = []
        for kind, values in found.items():
            times, peaks = zip(*values, strict=True)
            ms = statistics.median(times)
            said.append(
                f"{kind} {ms:.1f} ({min(times):.1f} .. {max(times):.1f}; x{ms / base:.2f}; "
                f"peak {statistics.median(peaks):.0f} MiB)"
            )
        text = (
            f"{model}, {channels} x {px} x {px}, batch {batch}, {torch.get_num_threads()} threads, "
            f"wall ms a step, n = {options.rounds}: {', '.join(said)}"
        )
        print(text, flush=True)
        if options.record:
            from record import append

            append("Wall time of a step on the CPU", text)


if __name__ == "__main__":
    main()
