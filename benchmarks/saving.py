"""What a checkpoint costs the training: the copy, and the steps while a thread writes it.

    python benchmarks/saving.py [--rounds 8] [--record]

ResNet-18 with momentum and an average (about 140 MB of state), on the CPU or the GPU. In every round
some steps are timed without a save and some while one is under way, in turns; medians and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from toque import models
from toque.train.settings.course import CheckpointSettings
from toque.train.state.saving import Saver


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = models.create("resnet18", num_classes=100).to(device)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(16, 3, 96, 96, device=device)
    targets = torch.randint(0, 100, (16,), device=device)

    def step() -> float:
        began = time.perf_counter()
        optimizer.zero_grad()
        cross_entropy(model(images), targets).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def state() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": average}

    for _ in range(3):
        step()
    said: list[str] = []
    copies, writes, alone, during, inline = [], [], [], [], []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        background = CheckpointSettings(every_s=1e-6)
        halting = CheckpointSettings(every_s=1e-6, background=False)
        with (
            Saver(Path(folder) / "a", background, said.append) as saver,
            Saver(Path(folder) / "b", halting, said.append) as slow,
        ):
            for number in range(1, options.rounds + 1):
                alone += [step() for _ in range(4)]
                began = time.perf_counter()
                saver.save(state(), number, None)
                saved = time.perf_counter()
                copies.append(saved - began)
                while not saver.due():
                    during.append(step())
                writes.append(time.perf_counter() - saved)
                began = time.perf_counter()
                slow.save(state(), number, None)
                inline.append(time.perf_counter() - began)
    assert not said, said
    first, *copies = copies
    middle = statistics.median
    ratio = middle(during) / middle(alone)
    text = (
        f"a step {1e3 * middle(alone):.0f} ms, while a save is under way {1e3 * middle(during):.0f} ms "
        f"(x{ratio:.2f}, n={len(during)}); the copy in the step {1e3 * middle(copies):.0f} ms "
        f"(the first {1e3 * first:.0f}), the writing beside it {middle(writes):.2f} s; in the training "
        f"thread {middle(inline):.2f} s"
    )
    print(text)
    if options.record:
        from record import append

        append("Saving beside the training", text)


if __name__ == "__main__":
    main()
