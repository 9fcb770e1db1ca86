"""Seconds to an accuracy: fit beside Lightning and a loop as timm's train.py has it.

    python benchmarks/accuracy.py fashion DATA/fashion-mnist --goal 0.94 [--epochs 20] [--record]
    python benchmarks/accuracy.py cifar DATA/cifar10_train_jpeg.npz --goal 0.90 [--epochs 20]

On a GPU where there is one (bfloat16 for all), else on the CPU.

fashion: the four idx.gz files, 60,000 + 10,000 images. cifar: an npz with `header` (that all JPEGs
share), `scans` (the rest, one after the other), `offsets` and `labels`; the last 10 % validate. Same
network, batch, optimiser, peak rate, warm-up with a linear fall, and augmentation (a shift and a flip,
as the preset "light" does below 64 pixels); the loop and Lightning augment
with torchvision for each image, in a DataLoader with as many workers as there are cores. One after
the other, each to its end. Printed: the seconds after which a validation first reached the goal, the
best, and the CPU seconds of all processes. Lightning is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import itertools
import json
import logging
import os
import resource
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

import toque
from toque import data, models, random

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fashion(folder: Path) -> tuple[data.ArraySource, data.ArraySource]:
    def part(name: str) -> data.ArraySource:
        with gzip.open(folder / f"{name}-images-idx3-ubyte.gz") as file:
            pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
        with gzip.open(folder / f"{name}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)
        return source(pixels, labels)

    return part("train"), part("t10k")


def cifar(file: Path) -> tuple[data.ArraySource, data.ArraySource]:
    from PIL import Image

    held = np.load(file)
    header, scans = held["header"].tobytes(), held["scans"].tobytes()
    offsets, labels = held["offsets"], held["labels"]
    pixels = np.stack([
        np.asarray(Image.open(io.BytesIO(header + scans[a:b]))).transpose(2, 0, 1)
        for a, b in itertools.pairwise(offsets)
    ])  # fmt: skip
    cut = len(labels) * 9 // 10
    return source(pixels[:cut], labels[:cut]), source(pixels[cut:], labels[cut:])


def source(pixels: np.ndarray, labels: np.ndarray) -> data.ArraySource:
    return data.ArraySource(
        torch.from_numpy(pixels.copy()), torch.from_numpy(labels.astype(np.int64)),
        [str(number) for number in range(int(labels.max()) + 1)],
    )  # fmt: skip


def by_toque(train, val, options) -> list[tuple[float, float]]:
    with tempfile.TemporaryDirectory() as folder:
        run = toque.Run(
            out=folder + "/run", epochs=options.epochs, batch_size=128, augment="light",
            model="resnet10_small", optimizer={"learning_rate": options.rate},
            log={"tensorboard": False},
        )  # fmt: skip
        toque.fit(run, train=train, val=val, show="lines")
        lines = (Path(folder) / "run/metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
    return [(row["time_s"], row["accuracy"]) for row in rows if row["split"] == "val"]


class Images(torch.utils.data.Dataset):
    """A source as both peers read it: one image at a time, augmented by torchvision."""

    def __init__(self, source, transform):
        self.source, self.transform = source, transform

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        image, label = self.source.item(index)
        return self.transform(image), label


def peer_parts(train, val, options):
    """Model, optimiser, rate by step and the two loaders that the peers share."""
    from torchvision.transforms import v2

    size, channels = train.read(0).shape[1], train.read(0).shape[0]
    normalise = [
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5] * channels, [0.5] * channels),
    ]
    augmented = v2.Compose(
        [v2.RandomCrop(size, padding=size // 16), v2.RandomHorizontalFlip(), *normalise]
    )
    random.seed_torch(0, "init")
    model = models.create("resnet10_small", num_classes=10, in_channels=channels)
    model = model.to(DEVICE, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        models.parameters.groups(model, weight_decay=5e-4), lr=options.rate, momentum=0.9,
        nesterov=True,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(
        Images(train, augmented), 128, shuffle=True, drop_last=True,
        num_workers=os.cpu_count() or 1, persistent_workers=True, pin_memory=DEVICE.type == "cuda",
    )  # fmt: skip
    validation = torch.utils.data.DataLoader(Images(val, v2.Compose(normalise)), 256)
    total = options.epochs * len(loader)

    def share(step: int) -> float:
        return min((step + 1) / (0.2 * total), (total - step) / (0.8 * total), 1.0)

    return model, optimizer, share, loader, validation


def placed(x: torch.Tensor) -> torch.Tensor:
    return x.to(DEVICE, non_blocking=True).contiguous(memory_format=torch.channels_last)


def half() -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda")


def by_loop(train, val, options) -> list[tuple[float, float]]:
    began = time.monotonic()
    model, optimizer, share, loader, validation = peer_parts(train, val, options)
    step, found = 0, []
    for _ in range(options.epochs):
        model.train()
        for x, y in loader:
            for group in optimizer.param_groups:
                group["lr"] = options.rate * share(step)
            optimizer.zero_grad(set_to_none=True)
            y = y.to(DEVICE, non_blocking=True)
            with half():
                loss = nn.functional.cross_entropy(model(placed(x)), y, label_smoothing=0.1)
            loss.backward()
            optimizer.step()
            step += 1
        model.eval()
        with torch.no_grad(), half():
            right = sum(
                int((model(placed(x)).argmax(1) == y.to(DEVICE)).sum()) for x, y in validation
            )
        found.append((time.monotonic() - began, right / len(val)))
        print(f"  {found[-1][0]:.0f} s  accuracy {100 * found[-1][1]:.2f} %", flush=True)
    return found


def by_lightning(train, val, options) -> list[tuple[float, float]]:
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    began = time.monotonic()
    network, optimizer, share, loader, validation = peer_parts(train, val, options)
    found = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network, self.right = network, 0

        def training_step(self, batch, index):
            outputs = self.network(placed(batch[0]))
            loss = nn.functional.cross_entropy(outputs, batch[1], label_smoothing=0.1)
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, index):
            self.right += int((self.network(placed(batch[0])).argmax(1) == batch[1]).sum())

        def on_validation_epoch_end(self):
            found.append((time.monotonic() - began, self.right / len(val)))
            print(f"  {found[-1][0]:.0f} s  accuracy {100 * found[-1][1]:.2f} %", flush=True)
            self.right = 0

        def configure_optimizers(self):
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    with tempfile.TemporaryDirectory() as folder:
        lightning.Trainer(
            max_epochs=options.epochs, accelerator=DEVICE.type, devices=1, default_root_dir=folder,
            precision="bf16-mixed" if DEVICE.type == "cuda" else "32-true",
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        ).fit(Module(), loader, validation)  # fmt: skip
    return found


def cpu_seconds() -> float:
    """Of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["fashion", "cifar"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--goal", type=float, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--only", nargs="*", help="of the contenders")
    parser.add_argument("--images", type=int, help="only so many, to try it")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    train, val = {"fashion": fashion, "cifar": cifar}[options.kind](options.data)
    if options.images:
        few = np.arange(options.images)
        train, val = (source(one.read_many(few).numpy(), one.labels[few]) for one in (train, val))
    contenders = {"toque": by_toque, "timm-style loop": by_loop}
    if importlib.util.find_spec("lightning"):
        contenders["Lightning"] = by_lightning
    said = []
    for name, run in contenders.items():
        if options.only and name not in options.only:
            continue
        print(name, flush=True)
        before = cpu_seconds()
        found = run(train, val, options)
        reached = [seconds for seconds, accuracy in found if accuracy >= options.goal]
        first = f"after {reached[0]:.0f} s" if reached else "never"
        best = max(accuracy for _, accuracy in found)
        said.append(
            f"{name}: {100 * options.goal:g} % {first}; best {100 * best:.2f} %, last "
            f"{100 * found[-1][1]:.2f} %, in {found[-1][0]:.0f} s "
            f"({cpu_seconds() - before:.0f} s of CPU)"
        )
        print(said[-1], flush=True)
    if options.record:
        from record import append

        where = f"{torch.cuda.get_device_name()}, " if DEVICE.type == "cuda" else ""
        append(
            "Seconds to an accuracy",
            f"{where}{options.kind}, {len(train)} images, {options.epochs} epochs, one seed each, one "
            f"after the other: {'; '.join(said)}",
        )


if __name__ == "__main__":
    main()
