"""Our models against timm's and torchvision's, fused against not, memory predicted against measured.

    python benchmarks/models.py [agreement] [step] [compiled] [fused] [memory] [--rounds 7] [--record]

agreement: largest difference of the answers with the same weights, float32, relative
step:      forward + backward of our residual networks over torchvision's, eager; taking turns
compiled:  the same under torch.compile (a minute or two to compile)
fused:     inference of the multi-branch family, unfused over fused (above 1: fusing pays)
memory:    predicted peak of a training step over the peak that PyTorch's own allocation records give

One thread, CPU time of this thread, median and spread (lowest to highest) of the rounds' ratios.
The floor of `step` is 1.00 against itself, printed as `self`.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import record
import torch
from torch import nn

from toque import models, random

PAIRS = [("toque/resnet18", "torchvision/resnet18"), ("toque/resnet50", "torchvision/resnet50")]
MEMORY = [
    "toque/resnet18", "toque/resnet50", "toque/repvgg_a0", "toque/googlenet", "toque/unet",
    "toque/vit_tiny", "toque/fpn_resnet18", "torchvision/mobilenet_v3_small", "torchvision/vgg11_bn",
    "timm/convnext_atto", "timm/efficientnet_b0", "torchvision/densenet121",
]  # fmt: skip


def carried(own: nn.Module, theirs: nn.Module) -> None:
    names = zip(own.state_dict(), theirs.state_dict().values(), strict=True)
    own.load_state_dict(dict(names))


def unsettled(model: nn.Module) -> nn.Module:
    """Statistics and scales as after training: all different."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.0)
    return model


def turns(works: dict[str, Callable[[], None]], rounds: int, base: str) -> dict[str, list[float]]:
    """Ratios of each work's CPU time over that of `base` in the same round."""
    for work in works.values():
        work()
    ratios: dict[str, list[float]] = {name: [] for name in works if name != base}
    for number in range(rounds):
        spent = {}
        names = list(works) if number % 2 else list(works)[::-1]
        for name in names:
            start = time.thread_time()
            works[name]()
            spent[name] = time.thread_time() - start
        for name in ratios:
            ratios[name].append(spent[name] / spent[base])
    return ratios


def shown(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}, n={len(ratios)})"


def agreement(_: int) -> str:
    parts = []
    pairs = [*PAIRS, ("toque/resnet50", "timm/resnet50"), ("toque/repvgg_a0", "timm/repvgg_a0"),
             ("toque/googlenet", "torchvision/googlenet")]  # fmt: skip
    images = torch.randn(2, 3, 224, 224)
    for own_name, their_name in pairs:
        theirs = unsettled(models.create(their_name, num_classes=1000)).eval()
        own = models.create(own_name, num_classes=1000).eval()
        carried(own, theirs)
        with torch.no_grad():
            a, b = own(images), theirs(images)
        parts.append(
            f"{own_name} = {their_name} within {float((a - b).abs().max() / b.abs().max()):.1e}"
        )
    return "largest relative difference of answers, float32, 224 px: " + ", ".join(parts)


def step_of(model: nn.Module, images: torch.Tensor) -> Callable[[], None]:
    def work() -> None:
        model(images).square().mean().backward()
        model.zero_grad(set_to_none=True)

    return work


def step(rounds: int, compiled: bool = False) -> str:
    parts = []
    images = torch.randn(4, 3, 128, 128)
    for own_name, their_name in PAIRS[:1] if compiled else PAIRS:
        own, theirs = (models.create(n, num_classes=1000).train() for n in (own_name, their_name))
        carried(own, theirs)
        twin = models.create(their_name, num_classes=1000).train()
        if compiled:
            own, theirs, twin = (torch.compile(m, dynamic=False) for m in (own, theirs, twin))
        works = {
            "own": step_of(own, images),
            "theirs": step_of(theirs, images),
            "self": step_of(twin, images),
        }
        ratios = turns(works, rounds, "theirs")
        parts.append(
            f"{own_name} over {their_name} x{shown(ratios['own'])}, theirs over theirs x{shown(ratios['self'])}"
        )
    kind = "compiled" if compiled else "eager"
    return f"forward + backward, {kind}, batch 4, 128 px, one thread: " + "; ".join(parts)


def fused(rounds: int) -> str:
    parts = []
    for name in ("toque/repvgg_a0", "toque/repvgg_b0", "toque/mobileone_s0"):
        model = unsettled(models.create(name, num_classes=1000)).eval()
        images = torch.randn(4, 3, 224, 224)
        deployed, difference = models.fuse(model, images)
        with torch.no_grad():
            works = {
                "unfused": lambda m=model, x=images: m(x),
                "fused": lambda m=deployed, x=images: m(x),
            }
            ratios = turns(works, rounds, "fused")
        parts.append(f"{name} x{shown(ratios['unfused'])}, difference {difference:.1e}")
    return "inference, unfused over fused, batch 4, 224 px, one thread: " + "; ".join(parts)


def real_peak(model: nn.Module, images: torch.Tensor) -> int:
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)

    def work() -> None:
        models.memory.squares(model(images)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    work()
    gc.collect()
    state = [t for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
    stays = [*model.parameters(), *model.buffers(), *state, images]
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak + sum(t.untyped_storage().nbytes() for t in stays)


def memory(_: int) -> str:
    errors = {}
    for name in MEMORY:
        model = models.create(name, num_classes=1000).train()
        shape = [8, 3, 224, 224]
        predicted = models.memory.predict(model, shape, optimizer="adamw").peak_bytes
        measured = real_peak(model, torch.randn(shape))
        errors[name] = predicted / measured - 1
        print(f"  {name}: predicted {predicted / 1e6:,.0f} MB, measured {measured / 1e6:,.0f} MB")
    listed = ", ".join(f"{name} {100 * error:+.1f} %" for name, error in errors.items())
    worst = max(abs(error) for error in errors.values())
    return f"training step with AdamW, batch 8, 224 px, predicted over measured peak: {listed}; worst {100 * worst:.1f} %"


PARTS: dict[str, Callable[[int], str]] = {
    "agreement": agreement,
    "step": step,
    "compiled": lambda rounds: step(rounds, compiled=True),
    "fused": fused,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], help="which; all if none is named"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record", action="store_true", help="append rows to RESULTS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random.seed_torch(0, "benchmark")
    for name in arguments.parts or list(PARTS):
        measured = PARTS[name](arguments.rounds)
        print(f"{name}: {measured}", flush=True)
        if arguments.record:
            record.append("models", measured)


if __name__ == "__main__":
    main()
