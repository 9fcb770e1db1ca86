"""What a step of fit costs over the loop one would write by hand.

    python benchmarks/training.py [--rounds 7] [--record]

Two models: a tiny one (a linear layer, batches of 8), where every microsecond of the loop shows, and
a small residual network (batches of 64) on 28 x 28 images. Same model, data, order, augmentation,
optimiser and loss in both loops; fit logs, keeps its progress and checkpoints at the end of the epoch.

CPU time of the whole process is read for two lengths of run, and their difference divided by the
steps between: what a run costs once (start, validation, files) drops out. fit and the loop by hand
take turns in one process; medians over the rounds, and the spread of the paired difference.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import toque
from toque import augment, data, models, random
from toque.random import Key


def tiny() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def small() -> nn.Module:
    return models.create("resnet10_small", num_classes=10, in_channels=1)


def images(count: int, size: int) -> data.ArraySource:
    key = Key(0, 0, np.arange(count))
    pixels = key.integers("pixels", 0, 256, size * size).reshape(count, size, size)
    return data.ArraySource(
        pixels.to(torch.uint8),
        key.integers("label", 0, 10)[:, 0],
        classes=[str(n) for n in range(10)],
    )


def by_hand(
    source: data.ArraySource, build, preset: str, size: int, batch_size: int, cpu_s
) -> float:
    """The loop a careful engineer would write: gather, augment, forward, backward, step.

    Small images are augmented by 512 at a time, as fit does it, so that only the loop differs.
    """
    random.seed_torch(0, "init")
    model = build().to(memory_format=torch.channels_last).train()
    pipeline = augment.preset(preset, size, channels=1, channels_last=True)
    optimizer = torch.optim.SGD(
        models.parameters.groups(model, weight_decay=5e-4), lr=0.01, momentum=0.9, nesterov=True
    )
    labels = torch.from_numpy(source.labels)
    steps = len(source) // batch_size
    order = random.permutation(0, 0, len(source), 0, len(source))
    block = 512 if size < 28 else batch_size
    began = cpu_s()
    for step in range(steps):
        start = step * batch_size
        if start % block == 0:
            indices = order[start : start + block]
            ready = pipeline(source.read_many(indices), key=Key(0, 0, indices)).split(batch_size)
            targets = labels[torch.from_numpy(indices)].split(batch_size)
        x, y = ready[start % block // batch_size], targets[start % block // batch_size]
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y, label_smoothing=0.1).backward()
        optimizer.step()
    return cpu_s() - began


def by_fit(
    source: data.ArraySource,
    val: data.ArraySource,
    build,
    preset: str,
    size: int,
    batch_size: int,
    cpu_s,
    folder: Path,
) -> float:
    run = toque.Run(
        out=str(folder / "run"), epochs=1, batch_size=batch_size, augment=preset, image_size=size, threads=1,
        optimizer={"name": "sgd", "learning_rate": 0.01}, log={"tensorboard": False},
    )  # fmt: skip
    began = cpu_s()
    toque.fit(run, train=source, val=val, model=build, show="quiet")
    return cpu_s() - began


def measure(
    name: str, build, preset: str, size: int, batch_size: int, few: int, many: int, rounds: int
) -> dict[str, float]:
    val = images(64, size)
    sources = {steps: images(steps * batch_size, size) for steps in (few, many)}
    cpu_s = time.process_time
    costs: dict[str, list[float]] = {"by hand": [], "fit": []}
    for number in range(rounds + 1):
        for kind in costs:
            taken = []
            for steps in (few, many):
                with tempfile.TemporaryDirectory() as folder:
                    if kind == "by hand":
                        taken.append(
                            by_hand(sources[steps], build, preset, size, batch_size, cpu_s)
                        )
                    else:
                        taken.append(
                            by_fit(
                                sources[steps],
                                val,
                                build,
                                preset,
                                size,
                                batch_size,
                                cpu_s,
                                Path(folder),
                            )
                        )
            if number:  # the first round warms up
                costs[kind].append((taken[1] - taken[0]) / (many - few) * 1e6)
    over = [fit - hand for fit, hand in zip(costs["fit"], costs["by hand"], strict=True)]
    result = {
        "by_hand_us": statistics.median(costs["by hand"]),
        "fit_us": statistics.median(costs["fit"]),
        "over_us": statistics.median(over),
        "over_min_us": min(over),
        "over_max_us": max(over),
    }
    result["speed"] = result["by_hand_us"] / result["fit_us"]
    print(
        f"{name:<6} by hand {result['by_hand_us']:8.1f} us a step   fit {result['fit_us']:8.1f}   over {result['over_us']:+6.1f} ({result['over_min_us']:+.1f} .. {result['over_max_us']:+.1f})   images/s of fit over by hand x{result['speed']:.3f}"
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [
        ("tiny", tiny, "none", 8, 8, 500, 4500),
        ("small", small, "light", 28, 64, 10, 60),
    ]
    for name, build, preset, size, batch_size, few, many in cases:
        result = measure(name, build, preset, size, batch_size, few, many, options.rounds)
        if options.record:
            from record import append

            append(
                "A step of fit over the loop by hand",
                f"{name} model: by hand {result['by_hand_us']:.1f} us of CPU a step, fit {result['fit_us']:.1f}, over by {result['over_us']:.1f} us (paired, {result['over_min_us']:.1f} to {result['over_max_us']:.1f}), images per CPU second x{result['speed']:.3f}; one torch thread, n = {options.rounds}",
            )


if __name__ == "__main__":
    main()
