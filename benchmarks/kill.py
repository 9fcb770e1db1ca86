"""kill -9 at any moment, the same call again, the same bits: run at length.

    python benchmarks/kill.py --kills 100 [--record]

One training (shuffling, augmentation, batch normalisation, dropout, EMA, two loader threads) is run
to its end twice as a control; then again and again, killed at random moments and started again until
it ends by itself. Every second kill waits until a checkpoint is being written. Each end must have the
sha256 of weights.safetensors and the rows of metrics.jsonl (but for times) of the control.
Exit code 0 when every run ended in the control's bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random as python_random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import toque
from toque import data
from toque.train import clock

TIMES = clock.MEASURED


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * 49, 10),
    )  # fmt: skip


def train(out: Path, splits: data.Splits, torch_threads: int) -> None:
    torch.set_num_threads(torch_threads)
    run = toque.Run(
        out=str(out),
        epochs=3,
        batch_size=32,
        threads=2,
        augment="light",
        ema={"half_life_epochs": 0.3},
        optimizer={"name": "adamw"},
        # As often as it can: most kills should meet a checkpoint or its writing.
        checkpoint={"every_s": 0.02},
        log={"tensorboard": False, "every_images": 320},
    )
    toque.fit(run, train=splits.train, val=splits.val, model=network, show="quiet")


def start(out: Path, splits: data.Splits, torch_threads: int) -> int:
    """The process id of a child that trains; forked, so that torch is imported once."""
    child = os.fork()
    if child:
        return child
    try:
        train(out, splits, torch_threads)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def ended(child: int) -> int | None:
    """The exit status of a child that ended by itself; None while it runs."""
    done, status = os.waitpid(child, os.WNOHANG)
    return status if done else None


def none_being_written(out: Path) -> bool:
    """Whether no checkpoint is being written at this moment."""
    folder = out / "checkpoints"
    return not folder.is_dir() or not any(folder.glob(".writing-*"))


def outcome(out: Path) -> tuple[str, str]:
    weights = hashlib.sha256((out / "weights.safetensors").read_bytes()).hexdigest()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    return weights, hashlib.sha256(json.dumps(kept).encode()).hexdigest()


def run_killed(out: Path, splits: data.Splits, draw: python_random.Random, duration_s: float,
               most_kills: int, torch_threads: int) -> tuple[int, int]:  # fmt: skip
    """Train to the end through kills; (kills, kills that met a checkpoint being written)."""
    kills = during_write = 0
    while True:
        child = start(out, splits, torch_threads)
        wait_s = draw.uniform(0.0, duration_s)
        deadline = time.monotonic() + (wait_s if kills < most_kills else 600)
        on_write = draw.random() < 0.5
        while time.monotonic() < deadline:
            if (status := ended(child)) is not None:
                if status:
                    raise SystemExit(f"a run ended with status {status}")
                return kills, during_write
            time.sleep(0.001)
        if on_write:
            until = time.monotonic() + 2.0
            while time.monotonic() < until and none_being_written(out):
                pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        during_write += any((out / "checkpoints").glob(".writing-*"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--torch-threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    bundled = data.open("fashion", seed=0)
    # Arrays of their own: parts of a source would be read image by image.
    train_images, val_images = (
        data.ArraySource(source.read_many(np.arange(count)), source.labels[:count], bundled.classes)
        for source, count in ((bundled.train, options.images), (bundled.val, 200))
    )
    splits = data.Splits(train_images, val_images, bundled.classes, (), 1)
    draw = python_random.Random(options.seed)
    kills = during_write = runs = equal = 0
    with tempfile.TemporaryDirectory() as folder:
        controls = []
        duration_s = float("inf")
        for number in range(2):
            out = Path(folder) / f"control{number}"
            began = time.monotonic()
            child = start(out, splits, options.torch_threads)
            _, status = os.waitpid(child, 0)
            if status:
                raise SystemExit("the control failed")
            # The shorter of the two: the first one warms the page cache.
            duration_s = min(duration_s, time.monotonic() - began)
            controls.append(outcome(out))
        if controls[0] != controls[1]:
            print("the control run twice did not give the same bits", file=sys.stderr)
            return 1
        while kills < options.kills:
            out = Path(folder) / f"run{runs}"
            most = min(6, options.kills - kills)
            met = run_killed(out, splits, draw, duration_s, most, options.torch_threads)
            kills, during_write, runs = kills + met[0], during_write + met[1], runs + 1
            equal += outcome(out) == controls[0]
            shutil.rmtree(out)
    result = {
        "kills": kills,
        "during_write": during_write,
        "runs": runs,
        "equal": equal,
        "seconds_uninterrupted": round(duration_s, 2),
        "torch_threads": options.torch_threads,
    }
    print(json.dumps(result) if options.json else result)
    if options.record:
        from record import append

        append(
            "kill -9 and the same command again",
            f"{equal} of {runs} runs ended in the control's bits after {kills} kills "
            f"({during_write} while a checkpoint was being written); torch threads "
            f"{options.torch_threads}, a run takes {duration_s:.1f} s uninterrupted",
        )
    return 0 if equal == runs else 1


if __name__ == "__main__":
    sys.exit(main())
