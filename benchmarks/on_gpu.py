"""Training on one GPU: images a second of fit, over those of the bare step that has its data there.

    python benchmarks/on_gpu.py [--record]      ResNet-18 and ResNet-50, 224 px, bfloat16, batch 256

bare          forward, backward, optimiser on one batch that lies on the device, as fast as it goes
toque         fit: bytes go over ahead of their step, and are augmented there
toque, host   the same, augmented by threads of the host (`augment_on = "host"`)
DataLoader    a loop by hand over the usual pipeline: torchvision v2 image by image in a worker for
              each core, page-locked, copied without waiting

Photos of 256 px in memory, the preset "imagenet"; epochs after the first, validation left out. One
after the other, each to its end, in `--rounds` turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import toque
from toque import data, models
from toque.random import Key

PX, STORED_PX, BATCH, CLASSES = 224, 256, 256, 10


def photos(count: int, start: int = 0) -> data.ArraySource:
    key = Key(5, 0, np.arange(start, start + count))
    labels = key.integers("label", 0, CLASSES)[:, 0]
    coarse = key.uniform("pixels", 3 * 256).reshape(count, 3, 16, 16)
    pixels = torch.empty(count, 3, STORED_PX, STORED_PX, dtype=torch.uint8)
    for first in range(0, count, 256):
        part = coarse[first : first + 256] * 255
        pixels[first : first + 256] = nn.functional.interpolate(part, (STORED_PX, STORED_PX))
    return data.ArraySource(pixels, labels, [str(number) for number in range(CLASSES)])


def network(name: str) -> nn.Module:
    model = models.create(name, num_classes=CLASSES).cuda()
    return model.to(memory_format=torch.channels_last).train()


def stepper(name: str):
    """One step of a loop by hand."""
    model = network(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True)

    def step(images: torch.Tensor, targets: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = cross_entropy(model(images), targets, label_smoothing=0.1)
        loss.backward()
        optimizer.step()

    return step


def bare(name: str, *_) -> float:
    step = stepper(name)
    images = torch.randn(BATCH, 3, PX, PX, device="cuda").to(memory_format=torch.channels_last)
    targets = torch.randint(CLASSES, (BATCH,), device="cuda")
    for _ in range(5):
        step(images, targets)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(30):
        step(images, targets)
    torch.cuda.synchronize()
    return 30 * BATCH / (time.perf_counter() - began)


def by_fit(name: str, train: data.ArraySource, val: data.ArraySource, augment_on: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run = toque.Run(
            out=folder + "/run", model=name, image_size=PX, batch_size=BATCH, epochs=4,
            augment="imagenet", augment_on=augment_on, device="cuda",
            log={"tensorboard": False, "every_images": len(train)},
        )  # fmt: skip
        toque.fit(run, train=train, val=val, show="quiet")
        lines = (Path(folder) / "run/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    first, *_, last = (row for row in rows if row["split"] == "train")
    validating = sum(
        row["validation_s"] for row in rows if row["split"] == "train" and row is not first
    )
    seconds = last["time_s"] - first["time_s"] - validating
    stages = {
        key: round(sum(row[key] for row in rows if row["split"] == "train" and row is not first), 2)
        for key in ("data_s", "host_s", "device_s", "checkpoint_s", "validation_s")
    }
    print(f"  {name}, augment_on {augment_on}, {seconds:.2f} s: {stages}", flush=True)
    return (last["images_seen"] - first["images_seen"]) / seconds


class Images(torch.utils.data.Dataset):
    def __init__(self, source: data.ArraySource, transform) -> None:
        self._source, self._transform = source, transform

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int):
        image, label = self._source.item(index)
        return self._transform(image), label


def by_loader(name: str, train: data.ArraySource, *_) -> float:
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(PX, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )
    loader = torch.utils.data.DataLoader(
        Images(train, transform), BATCH, shuffle=True, drop_last=True,
        num_workers=os.cpu_count() or 1, pin_memory=True,
    )  # fmt: skip
    step = stepper(name)
    began, counted = 0.0, 0
    for number, (images, targets) in enumerate(loader):
        if number == len(loader) // 3:  # the workers have begun
            torch.cuda.synchronize()
            began, counted = time.perf_counter(), 0
        images = images.cuda(non_blocking=True).to(memory_format=torch.channels_last)
        step(images, targets.cuda(non_blocking=True))
        counted += len(images)
    torch.cuda.synchronize()
    return counted / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--models", nargs="+", default=["toque/resnet18", "toque/resnet50"])
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("on_gpu.py needs a CUDA device; there is none.")
    train, val = photos(options.images), photos(64, 10**6)
    contenders = {
        "bare": bare,
        "toque": lambda name, *sources: by_fit(name, *sources, "auto"),
        "toque, host": lambda name, *sources: by_fit(name, *sources, "host"),
        "DataLoader": by_loader,
    }
    for name in options.models:
        found: dict[str, list[float]] = {kind: [] for kind in contenders}
        for _ in range(options.rounds):
            for kind, measure in contenders.items():
                found[kind].append(measure(name, train, val))
        middle = {kind: statistics.median(rates) for kind, rates in found.items()}
        said = ", ".join(
            f"{kind} {middle[kind]:,.0f} ({min(rates):,.0f} .. {max(rates):,.0f}; "
            f"x{middle[kind] / middle['bare']:.2f})"
            for kind, rates in found.items()
        )
        text = (
            f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores, {name}, {STORED_PX} px stored, "
            f"{PX} px, batch {BATCH}, bfloat16, images a second (over bare), n = {options.rounds}: {said}"
        )
        print(text, flush=True)
        if options.record:
            from record import append

            append("training on a GPU", text)


if __name__ == "__main__":
    main()
