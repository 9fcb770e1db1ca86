"""What a step of fit costs over the loop one would write by hand.

    python benchmarks/training.py [--rounds 7] [--record]
    python benchmarks/training.py --peers       beside Lightning and Accelerate, where installed
    python benchmarks/training.py --start       seconds from the command to the end of the first step
    python benchmarks/training.py --growth      tensors, objects and memory over 1,000 steps

The peers are for this benchmark alone: pip install --target PEERS lightning accelerate, and PEERS on
the PYTHONPATH.

Two models: a tiny one (a linear layer, batches of 8), where every microsecond of the loop shows, and
a small residual network (batches of 64) on 28 x 28 images. Same model, data, order, augmentation,
optimiser and loss in both loops; fit logs, keeps its progress and checkpoints at the end of the epoch.

CPU time of the whole process is read for two lengths of run, and their difference divided by the
steps between: what a run costs once (start, validation, files) drops out. fit and the loop by hand
take turns in one process; medians over the rounds, and the spread of the paired difference.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import statistics
import subprocess
import sys
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
    source: data.ArraySource, build, preset: str, size: int, batch_size: int, cpu_s, fused=None
) -> float:
    """The loop a careful engineer would write: gather, augment, forward, backward, step.

    Small images are augmented by 512 at a time, so that only the loop differs. torch's own default
    on a CPU is an optimiser that is not fused; fit takes the fused one where there is one.
    """
    random.seed_torch(0, "init")
    model = build().to(memory_format=torch.channels_last).train()
    pipeline = augment.preset(preset, size, channels=1, channels_last=True)
    optimizer = torch.optim.SGD(
        models.parameters.groups(model, weight_decay=5e-4),
        lr=0.01, momentum=0.9, nesterov=True, fused=fused,
    )  # fmt: skip
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


def by_accelerate(source, build, preset, size: int, batch_size: int, cpu_s) -> float:
    """The loop by hand, with Accelerate's prepare, backward and step."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    random.seed_torch(0, "init")
    model = build().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        models.parameters.groups(model, weight_decay=5e-4), lr=0.01, momentum=0.9, nesterov=True
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    began = cpu_s()
    for x, y in batches_by_hand(source, preset, size, batch_size):
        with accelerator.accumulate(model):
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)
            accelerator.backward(loss)
            optimizer.step()
    return cpu_s() - began


def by_lightning(source, build, preset, size: int, batch_size: int, cpu_s, folder: Path) -> float:
    """A LightningModule with its loss logged, no progress bar, no checkpoint."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            random.seed_torch(0, "init")
            self.model = build().to(memory_format=torch.channels_last).train()

        def training_step(self, batch, index):
            x, y = batch
            loss = nn.functional.cross_entropy(self.model(x), y, label_smoothing=0.1)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(
                models.parameters.groups(self.model, weight_decay=5e-4),
                lr=0.01, momentum=0.9, nesterov=True,
            )  # fmt: skip

    class Batches(torch.utils.data.IterableDataset):
        def __iter__(self):
            return batches_by_hand(source, preset, size, batch_size)

    loader = torch.utils.data.DataLoader(Batches(), batch_size=None)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=folder,
        logger=lightning.pytorch.loggers.CSVLogger(folder),
    )  # fmt: skip
    began = cpu_s()
    trainer.fit(Module(), loader)
    return cpu_s() - began


def batches_by_hand(source, preset: str, size: int, batch_size: int):
    """The batches of `by_hand`, prepared the same way."""
    pipeline = augment.preset(preset, size, channels=1, channels_last=True)
    labels = torch.from_numpy(source.labels)
    order = random.permutation(0, 0, len(source), 0, len(source))
    block = 512 if size < 28 else batch_size
    for start in range(0, len(source) // batch_size * batch_size, block):
        indices = order[start : start + block]
        ready = pipeline(source.read_many(indices), key=Key(0, 0, indices)).split(batch_size)
        yield from zip(ready, labels[torch.from_numpy(indices)].split(batch_size), strict=True)


def peers(rounds: int) -> None:
    """CPU time of a step on the tiny model, everything in turn in one process."""
    kinds = {
        "by hand": lambda source, folder: by_hand(source, tiny, "none", 8, 8, time.process_time),
        "with fused": lambda source, folder: by_hand(
            source, tiny, "none", 8, 8, time.process_time, fused=True
        ),
        "toque": lambda source, folder: by_fit(
            source, images(64, 8), tiny, "none", 8, 8, time.process_time, folder
        ),
        "accelerate": lambda source, folder: by_accelerate(
            source, tiny, "none", 8, 8, time.process_time
        ),
        "lightning": lambda source, folder: by_lightning(
            source, tiny, "none", 8, 8, time.process_time, folder
        ),
    }
    for name in ("accelerate", "lightning"):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed")
            del kinds[name]
    few, many = 500, 2500
    sources = {steps: images(steps * 8, 8) for steps in (few, many)}
    costs: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind, run in kinds.items():
            taken = []
            for steps in (few, many):
                with tempfile.TemporaryDirectory() as folder:
                    taken.append(run(sources[steps], Path(folder)))
            if number:
                costs[kind].append((taken[1] - taken[0]) / (many - few) * 1e6)
    for kind, values in costs.items():
        over = [a - b for a, b in zip(values, costs["by hand"], strict=True)]
        print(
            f"{kind:<11} {statistics.median(values):7.1f} us of CPU a step, over by hand "
            f"{statistics.median(over):+7.1f} ({min(over):+.1f} .. {max(over):+.1f})"
        )


STARTS = {
    "torch by hand": """
import torch
from torch import nn
model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
nn.functional.cross_entropy(model(torch.rand(64, 1, 28, 28)), torch.randint(10, [64])).backward()
optimizer.step()
""",
    "toque": """
import tempfile
import toque
with tempfile.TemporaryDirectory() as folder:
    run = toque.Run(out=folder + "/run", log={"tensorboard": False})
    def loss(outputs, targets):
        if loss.steps: raise KeyboardInterrupt
        loss.steps += 1
        return (outputs * 0).sum()
    loss.steps = 0
    try: toque.fit(run, loss=loss, show="quiet")
    except KeyboardInterrupt: pass
""",
    "lightning": """
import torch, lightning
from torch import nn
class M(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
data = torch.utils.data.TensorDataset(torch.rand(64, 1, 28, 28), torch.randint(10, [64]))
trainer = lightning.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
trainer.fit(M(), torch.utils.data.DataLoader(data, 64))
""",
    "accelerate": """
import torch
from accelerate import Accelerator
from torch import nn
accelerator = Accelerator(cpu=True)
model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
loss = nn.functional.cross_entropy(model(torch.rand(64, 1, 28, 28)), torch.randint(10, [64]))
accelerator.backward(loss)
optimizer.step()
""",
}


def start(rounds: int) -> None:
    """Seconds of a fresh process from its start to the end of one step, imports included."""
    for name, program in STARTS.items():
        if name in ("lightning", "accelerate") and importlib.util.find_spec(name) is None:
            print(f"{name} is not installed")
            continue
        taken = []
        for _ in range(rounds):
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", program], capture_output=True
            )
            taken.append(time.perf_counter() - began)
        good = "" if done.returncode == 0 else f"   FAILED {done.stderr.decode().splitlines()[-1]}"
        print(
            f"{name:<14} {statistics.median(taken):6.2f} s ({min(taken):.2f} .. {max(taken):.2f}){good}"
        )


def growth(steps: int) -> None:
    """Tensors, objects and resident memory after 60 % of the steps and at the end."""
    seen: list[tuple[int, int, float]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.count = small(), 0

        def forward(self, x):
            self.count += self.training
            if self.training and self.count in (steps * 3 // 5, steps):
                gc.collect()
                everything = gc.get_objects()
                tensors = sum(type(one) in (torch.Tensor, nn.Parameter) for one in everything)
                resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
                seen.append((tensors, len(everything), resident))
            return self.inside(x)

    with tempfile.TemporaryDirectory() as folder:
        run = toque.Run(
            out=folder + "/run", epochs=4, batch_size=8, augment="light", image_size=28,
            optimizer={"learning_rate": 0.01}, log={"tensorboard": False}, ema={"half_life_epochs": 1},
        )  # fmt: skip
        toque.fit(run, train=images(2 * steps, 28), val=images(64, 28), model=Watched, show="quiet")
    for (tensors, objects, resident), when in zip(seen, ("early", "late"), strict=True):
        print(f"{when:<6} {tensors} tensors, {objects} objects, {resident:.1f} MiB resident")


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
    parser.add_argument("--peers", action="store_true", help="Lightning and Accelerate too")
    parser.add_argument("--start", action="store_true", help="seconds to the first step")
    parser.add_argument("--growth", type=int, nargs="?", const=1000, help="over so many steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peers:
        peers(options.rounds)
        return
    if options.start:
        start(options.rounds)
        return
    if options.growth:
        growth(options.growth)
        return
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
