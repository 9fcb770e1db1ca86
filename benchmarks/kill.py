"""kill -9 at any moment, the same call again, the same bits: a matrix of runs, killed at length.

    python benchmarks/kill.py --kills 1000 --work /tmp/kills [--minutes 30] [--record]

For each row of the matrix one training is run to its end twice as a control; then again and again,
killed at random moments and started again until it ends by itself. Every second kill waits until a
checkpoint is being written. Each end must have the sha256 of weights.safetensors and the rows of
metrics.jsonl (but for times) of the control. Rows take turns, so that a bound in minutes cuts all
of them short alike. With --work the counts are kept: the same command goes on where it was stopped.
Exit code 0 when every run ended in its control's bits.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random as python_random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import toque
from toque import data
from toque.train.metrics.stages import MEASURED

MOST_KILLS_A_RUN = 6


@dataclass(frozen=True)
class Case:
    """One row of the matrix: what differs from the usual run, and its share of the kills."""

    settings: dict[str, Any] = field(default_factory=dict)
    torch_threads: int = 1
    own_dataset: bool = False
    compiled: bool = False
    share: float = 1.0


BACKGROUND_OFF = {"checkpoint": {"every_s": 0.02, "background": False}}
CASES = {
    "all at once": Case(
        {
            "ema": {"half_life_epochs": 0.3}, "memory": {"micro_batch": 12},
            "precision": "float16", "clip": {"norm": 1.0}, "optimizer": {"name": "adamw"},
            "resize": {"from_px": 16, "step_px": 4},
        }
    ),
    "images that grow": Case({"resize": {"from_px": 16, "step_px": 4}}),
    "usual": Case(),
    "saved in the training thread": Case(BACKGROUND_OFF),
    "EMA, AdamW": Case({"ema": {"half_life_epochs": 0.3}, "optimizer": {"name": "adamw"}}),
    "accumulation": Case({"memory": {"micro_batch": 12}}),
    "float16, loss scale": Case({"precision": "float16"}),
    "bfloat16": Case({"precision": "bfloat16"}),
    "MixUp, CutMix": Case({"mix": {"mixup": 0.4, "cutmix": 1.0}}),
    "1 loader thread": Case({"threads": 1}),
    "4 loader threads": Case({"threads": 4}),
    "2 torch threads": Case(torch_threads=2),
    "own Dataset, no workers": Case(own_dataset=True),
    "own Dataset, 2 workers": Case({"workers": 2}, own_dataset=True),
    "workers, saved in the training thread": Case(
        {"workers": 2, **BACKGROUND_OFF}, own_dataset=True
    ),
    "compiled": Case({"augment": "none"}, compiled=True, share=0.1),
}  # fmt: skip


@dataclass
class Tally:
    """What was counted in one row so far."""

    kills: int = 0
    during_write: int = 0
    runs: int = 0
    equal: int = 0
    failed: int = 0


class Noisy(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """A user's Dataset that draws from the global generators."""

    def __init__(self, source: data.ArraySource) -> None:
        self._source = source
        self.classes, self.targets = source.classes, source.labels.tolist()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = torch.randint(0, 8, (1, 28, 28)) + np.random.randint(0, 8)
        image = (self._source.read(index) // 2 + noise).to(torch.uint8)
        return image, self.targets[index]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * 49, 10),
    )  # fmt: skip


def compiled_network() -> nn.Module:
    model = network()
    model.compile(dynamic=False)
    return model


def train(out: Path, splits: data.Splits, case: Case) -> None:
    torch.set_num_threads(case.torch_threads)
    settings = {
        "epochs": 3,
        "batch_size": 32,
        "threads": 2,
        "augment": "light",
        # As often as it can: most kills should meet a checkpoint or its writing.
        "checkpoint": {"every_s": 0.02},
        "log": {"tensorboard": False, "every_images": 320},
        **case.settings,
    }
    images = Noisy(splits.train) if case.own_dataset else splits.train
    model = compiled_network if case.compiled else network
    run = toque.Run(out=str(out), **settings)
    toque.fit(run, train=images, val=splits.val, model=model, show="quiet")


def start(out: Path, splits: data.Splits, case: Case) -> int:
    """The process id of a child that trains; forked, so that torch is imported once."""
    child = os.fork()
    if child:
        return child
    try:
        train(out, splits, case)
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
    kept = [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]
    return weights, hashlib.sha256(json.dumps(kept).encode()).hexdigest()


def control(folder: Path, splits: data.Splits, case: Case) -> tuple[tuple[str, str], float]:
    """The outcome of the run undisturbed, the same twice, and the seconds of the quicker one."""
    outcomes, seconds = [], float("inf")
    for number in range(2):
        out = folder / f"control{number}"
        began = time.monotonic()
        _, status = os.waitpid(start(out, splits, case), 0)
        if status:
            raise SystemExit(f"the control ended with status {status}")
        # The quicker of the two: the first one warms caches.
        seconds = min(seconds, time.monotonic() - began)
        outcomes.append(outcome(out))
        shutil.rmtree(out)
    if outcomes[0] != outcomes[1]:
        raise SystemExit("the control run twice did not give the same bits")
    return outcomes[0], seconds


def run_killed(
    out: Path, splits: data.Splits, case: Case, draw: python_random.Random, seconds: float,
    most_kills: int,
) -> tuple[int, int, bool]:  # fmt: skip
    """Train to the end through kills; kills, those that met a checkpoint being written, ended."""
    kills = during_write = 0
    while True:
        child = start(out, splits, case)
        wait_s = draw.uniform(0.0, 0.7 * seconds)
        deadline = time.monotonic() + (wait_s if kills < most_kills else 600)
        on_write = draw.random() < 0.5
        while time.monotonic() < deadline:
            if (status := ended(child)) is not None:
                return kills, during_write, status == 0
            time.sleep(0.001)
        if on_write:
            until = time.monotonic() + 2.0
            while time.monotonic() < until and none_being_written(out):
                pass
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):  # it ended by itself in this very moment
            return kills, during_write, status == 0
        kills += 1
        during_write += any((out / "checkpoints").glob(".writing-*"))


def images_of(count: int) -> data.Splits:
    """So many of the bundled images; arrays of their own, read by one gather."""
    bundled = data.open("fashion", seed=0)
    train_images, val_images = (
        data.ArraySource(source.read_many(np.arange(some)), source.labels[:some], bundled.classes)
        for source, some in ((bundled.train, count), (bundled.val, 200))
    )
    return data.Splits(train_images, val_images, bundled.classes, (), 1)


def table(tallies: dict[str, Tally], seconds: dict[str, float]) -> str:
    lines = [f"{'row':40}{'kills':>7}{'in a write':>12}{'runs':>6}{'equal':>7}{'a run, s':>10}"]
    for name, tally in tallies.items():
        lines.append(
            f"{name:40}{tally.kills:7}{tally.during_write:12}{tally.runs:6}{tally.equal:7}"
            f"{seconds.get(name, float('nan')):10.1f}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=150, help="over all rows")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="at most")
    parser.add_argument("--rows", nargs="*", choices=list(CASES), help="only these")
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--work", type=Path, help="keep the counts here and continue with them")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    cases = {name: CASES[name] for name in options.rows or CASES}
    shares = sum(case.share for case in cases.values())
    wanted = {name: -int(-options.kills * case.share // shares) for name, case in cases.items()}
    # A pool of OpenMP threads does not survive a fork: none is made before the runs make theirs.
    torch.set_num_threads(1)
    splits = images_of(options.images)
    draw = python_random.Random(f"{options.seed} {time.time_ns() if options.work else 0}")
    until = time.monotonic() + 60 * options.minutes
    with contextlib.ExitStack() as stack:
        folder = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        counts = folder / "kills.json"
        kept = json.loads(counts.read_text()) if counts.exists() else {}
        tallies = {name: Tally(**kept.get(name, {})) for name in cases}
        controls: dict[str, tuple[str, str]] = {}
        seconds: dict[str, float] = {}
        while time.monotonic() < until:
            left = [name for name in cases if tallies[name].kills < wanted[name]]
            if not left:
                break
            for name in left:
                if time.monotonic() > until:
                    break
                case, tally = cases[name], tallies[name]
                out = folder / "run"
                shutil.rmtree(out, ignore_errors=True)
                if name not in controls:
                    shutil.rmtree(folder / "control0", ignore_errors=True)
                    shutil.rmtree(folder / "control1", ignore_errors=True)
                    controls[name], seconds[name] = control(folder, splits, case)
                most = min(MOST_KILLS_A_RUN, wanted[name] - tally.kills)
                kills, during_write, whole = run_killed(
                    out, splits, case, draw, seconds[name], most
                )
                tally.kills += kills
                tally.during_write += during_write
                tally.runs += 1
                tally.failed += not whole
                tally.equal += whole and outcome(out) == controls[name]
                if whole and outcome(out) == controls[name]:
                    shutil.rmtree(out)
                else:  # kept to be looked at
                    shutil.move(out, folder / f"unequal-{name.replace(' ', '-')}-{tally.runs}")
                counts.write_text(json.dumps({key: asdict(one) for key, one in tallies.items()}))
                total = sum(one.kills for one in tallies.values())
                if not options.json:
                    print(f"{total:5} kills   {name}: {tally.equal} of {tally.runs}", flush=True)
    print(table(tallies, seconds))
    total = Tally(
        *(
            sum(column)
            for column in zip(*(asdict(t).values() for t in tallies.values()), strict=True)
        )
    )
    result = {**asdict(total), "rows": {name: asdict(tally) for name, tally in tallies.items()}}
    print(json.dumps(result) if options.json else asdict(total))
    if options.record:
        from record import append

        append(
            "kill -9 and the same command again",
            f"{total.equal} of {total.runs} runs ended in the control's bits after {total.kills} "
            f"kills ({total.during_write} while a checkpoint was being written)\n\n```\n"
            f"{table(tallies, seconds)}\n```",
        )
    return 0 if total.equal == total.runs > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
