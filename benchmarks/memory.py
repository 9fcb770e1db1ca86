"""The predicted peak of a step beside the real one, and what each way to save memory costs in time.

python benchmarks/memory.py predicted   each case in a fresh process: bytes counted by the
                                        profiler in the step, and growth of resident memory
python benchmarks/memory.py time        CPU time of a step, in turns, over keeping everything
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import record
import torch
from torch import nn

from toque import layers, losses, models
from toque.data import Batch
from toque.layers import checkpointing
from toque.models.ema import EMA
from toque.train.optimisation import optimise
from toque.train.run import Run
from toque.train.steps.precision import Precision
from toque.train.steps.predicting import Example, Prediction
from toque.train.steps.step import Step

CPU = torch.device("cpu")
CASES: dict[str, tuple[str, int, int, dict]] = {  # model, pixels, batch, settings
    "resnet18": ("toque/resnet18", 224, 16, {}),
    "resnet18, adamw, average": (
        "toque/resnet18",
        224,
        8,
        {"optimizer": {"name": "adamw"}, "ema": {"half_life_epochs": 1}},
    ),
    "resnet18, checkpoint": ("toque/resnet18", 224, 32, {"keeping": "checkpoint"}),
    "efficientnet_b0": ("timm/efficientnet_b0", 224, 8, {}),
    "efficientnet_b0, recompute": ("timm/efficientnet_b0", 224, 8, {"keeping": "recompute"}),
    "vit_small": ("timm/vit_small_patch16_224", 224, 16, {"optimizer": {"name": "adamw"}}),
    "vit_small, recompute": ("timm/vit_small_patch16_224", 224, 16, {"keeping": "recompute"}),
    "vit_small, bfloat16": ("timm/vit_small_patch16_224", 224, 16, {"precision": "bfloat16"}),
    "vit_small, sam": ("timm/vit_small_patch16_224", 224, 8, {"optimizer": {"sam": 0.05}}),
    "convnext_tiny, parts of 4": ("timm/convnext_tiny", 224, 16, {"micro_batch": 4}),
    "convnext_tiny, checkpoint": ("timm/convnext_tiny", 224, 16, {"keeping": "checkpoint"}),
    "unet, masks": ("toque/unet", 128, 8, {}),
    "unet, masks, parts of 2": ("toque/unet", 128, 8, {"micro_batch": 2}),
}
CLASSES = 10


class Case:
    """One model with its step and its batch."""

    def __init__(self, name: str) -> None:
        model, self.px, self.images, settings = CASES[name]
        settings = dict(settings)
        self.keeping = settings.pop("keeping", "all")
        self.micro_batch = settings.pop("micro_batch", None)
        run = Run(batch_size=self.images, image_size=self.px, **settings)
        filled = optimise.resolve_optimizer(run.optimizer, self.images, self.px)
        self.run = run.changed(optimizer=filled.model_dump())
        self.precision = Precision(run.precision, CPU)
        self.loss = losses.create("cross_entropy")
        masks = "masks" in name
        self.targets = (self.images, self.px, self.px) if masks else (self.images,)
        torch.manual_seed(0)
        self.network = models.create(model, num_classes=CLASSES).train()
        self.network.to(memory_format=torch.channels_last)

    def prediction(self) -> Prediction:
        example = Example(
            torch.zeros(2, 3, self.px, self.px), torch.zeros(2, *self.targets[1:]).long()
        )
        return Prediction(
            self.network, self.run, self.precision.name, self.loss, example, self.images
        )

    def step(self) -> Step:
        if self.keeping == "recompute":
            layers.save_memory(self.network)
        if self.keeping == "checkpoint":
            blocks = self.prediction().blocks()
            checkpointing.checkpoint_blocks(self.network, blocks)
        average = bool(self.run.ema.half_life_epochs)
        return Step(
            self.network,
            self.loss,
            optimise.build(self.run, self.network, CPU),
            seed=0,
            precision=self.precision,
            micro_batch=self.micro_batch,
            ema=EMA(self.network, half_life_images=1000.0) if average else None,
            sam=self.run.optimizer.sam,
        )

    def batch(self) -> Batch:
        images = torch.randn(self.images, 3, self.px, self.px).to(memory_format=torch.channels_last)
        indices = np.arange(self.images)
        return Batch(images, torch.randint(CLASSES, self.targets), indices, np.zeros_like(indices))


def resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def alive() -> int:
    storages = {}
    for one in gc.get_objects():
        if type(one) in (torch.Tensor, nn.Parameter):
            tensors = [one] if one.grad is None else [one, one.grad]
            storages |= {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def real(name: str) -> dict[str, int]:
    """Bytes of the third step, counted and resident; in a process that did nothing else."""
    torch.set_num_threads(1)
    before = alive()
    case = Case(name)
    case_predicted = case.prediction().peak(case.micro_batch or case.images, case.keeping)
    del case
    warm = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    warm(torch.randn(1, 3, 64, 64)).sum().backward()
    del warm
    gc.collect()
    begin = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    case = Case(name)
    step, batch = case.step(), case.batch()
    for number in range(2):
        step(batch, number * case.images, 0.01)
    grown = resident("VmHWM") - begin
    for parameter in case.network.parameters():
        parameter.grad = None
    gc.collect()
    stays = alive() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step(batch, 2 * case.images, 0.01)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return {"predicted": case_predicted, "counted": stays + peak, "resident": grown}


def predicted(cases: list[str], _: int) -> str:
    said = []
    for name in cases or CASES:
        command = [sys.executable, __file__, "--one", name]
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        errors = {key: found["predicted"] / found[key] - 1 for key in ("counted", "resident")}
        shown = ", ".join(f"{key} {size / 2**20:,.0f} MiB" for key, size in found.items())
        print(f"  {name}: {shown}", flush=True)
        said.append(f"{name} {100 * errors['counted']:+.1f} % ({100 * errors['resident']:+.1f} %)")
    return "predicted over counted peak of a step (over growth of resident memory): " + ", ".join(
        said
    )


TIMED = {
    "toque/resnet18": (64, 32),
    "timm/efficientnet_b0": (96, 32),
    "timm/vit_small_patch16_224": (224, 16),
    "timm/convnext_tiny": (96, 32),
}


def timed(cases: list[str], rounds: int) -> str:
    said = []
    for name in cases or TIMED:
        px, images = TIMED[name]
        CASES[name] = (name, px, images, {})
        case = Case(name)
        batch, works = case.batch(), {}
        for kind, keeping, parts in (
            ("all", "all", None),
            ("save_memory", "recompute", None),
            ("checkpointing", "checkpoint", None),
            *((f"parts of {size}", "all", size) for size in (16, 8, 2) if size < images),
        ):
            other = Case(name)
            other.network, other.keeping = copy.deepcopy(case.network), keeping
            other.micro_batch = parts
            works[kind] = other.step()
        seconds: dict[str, list[float]] = {kind: [] for kind in works}
        for number in range(rounds + 1):
            for kind, step in works.items():
                began = time.process_time()
                step(batch, number * images, 0.01)
                if number:
                    seconds[kind].append(time.process_time() - began)
        ratios = {
            kind: statistics.median(a / b for a, b in zip(taken, seconds["all"], strict=True))
            for kind, taken in seconds.items()
            if kind != "all"
        }
        said.append(
            f"{name.split('/')[1]} ({images} x {px} px) "
            + " ".join(f"{kind} x{ratio:.2f}," for kind, ratio in ratios.items()).rstrip(",")
        )
        print("  " + said[-1], flush=True)
    return "CPU time of a step over keeping everything: " + "; ".join(said)


PARTS: dict[str, Callable[[list[str], int], str]] = {"predicted": predicted, "time": timed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", nargs="?", choices=PARTS, default="predicted")
    parser.add_argument("--only", nargs="*", default=[], help="cases or models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--record", action="store_true", help="append rows to RESULTS.md")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    if arguments.one:
        print(json.dumps(real(arguments.one)))
        return
    measured = PARTS[arguments.part](arguments.only, arguments.rounds)
    print(measured)
    if arguments.record:
        record.append("memory", measured)


if __name__ == "__main__":
    main()
