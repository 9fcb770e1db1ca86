"""Where a step's time goes: the real training for some steps, with and without loading, traced.

Nothing is written but the trace. Times are of this machine at this moment: close what else runs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from toque import checks
from toque.data import Batch
from toque.models.step_time import profile_step
from toque.train.logs.clock import Clock
from toque.train.metrics.stages import STAGES, Stage, shares
from toque.train.prepare import Own
from toque.train.run import Run
from toque.train.run_folder.environment import num_cores
from toque.train.studies.trial import Trial, trial

_TRACED_STEPS = 3
_OPERATORS, _MODULES = 12, 12
_LOADED_IMAGES, _LOADING_S = 2**20, 1.0
_WAITING = 0.1  # the share of waiting at which loading is called the bottleneck


@dataclass(frozen=True)
class Cost:
    """An operator or a module: its share of the step's time, and milliseconds a step."""

    name: str
    share: float
    ms: float
    calls: int = 1


@dataclass(frozen=True)
class Profile:
    """What some steps of a run cost.

    steps, batch_size: that were timed
    stages:            share of the time by stage, loading included
    images_per_s:      training with loading
    computing_per_s:   training on one batch over and over: what the device could do
    loading_per_s:     loading alone: what the threads could do
    operators:         the dearest, by the time in themselves
    modules:           the dearest without children, forward and backward
    traced_ms:         one step under the profiler, which slows it down
    cores, threads, in_memory: of the loader
    """

    steps: int
    batch_size: int
    stages: dict[Stage, float]
    images_per_s: float
    computing_per_s: float
    loading_per_s: float
    operators: tuple[Cost, ...]
    modules: tuple[Cost, ...]
    traced_ms: float
    cores: int
    threads: int
    in_memory: bool

    def sentence(self) -> str:
        """The bottleneck, and what to do about it."""
        if self.stages["data"] >= _WAITING:
            more = f" or raise threads to {self.cores}" if self.threads < self.cores else ""
            packing = "" if self.in_memory else " Pack the images with `toque pack`"
            advice = f"{packing}{more}." if packing else f" Choose a lighter augment{more}."
            return (
                f"Loading is the bottleneck: {100 * self.stages['data']:.0f} % of the time was "
                f"waiting for images; loading alone gives {self.loading_per_s:.0f} images/s, "
                f"computing alone {self.computing_per_s:.0f}.{advice}"
            )
        if self.stages["host"] > self.stages["device"]:
            return (
                "Python is the bottleneck: the device waited for it "
                f"{100 * self.stages['host']:.0f} % of the time. Raise batch_size, or set "
                "compile = true."
            )
        dearest = self.operators[0] if self.operators else None
        named = f", {100 * dearest.share:.0f} % of it in {dearest.name}" if dearest else ""
        return (
            f"Computing is the bottleneck ({100 * self.stages['device']:.0f} % of the time{named})"
            f": loading could give {self.loading_per_s:.0f} images/s, the model takes "
            f"{self.computing_per_s:.0f}. A smaller model or image_size makes it faster."
        )


def profile_run(
    run: Run,
    *,
    steps: int = 20,
    warm_steps: int = 3,
    trace: Path | None = None,
    own: Own | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Profile:
    """Time the steps of a run as `fit` would take them, from fresh weights.

    Args:    steps: that are timed; warm_steps: run before and not counted
             trace: where the Chrome trace goes (open it in ui.perfetto.dev or chrome://tracing)
    Raises:  ValueError: no steps; what `fit` raises
             FileNotFoundError: the trace's folder does not exist
    Example: >>> print(profile_run(toque.Run(data="photos/")).sentence())
    """
    if steps < 1 or warm_steps < 1:
        raise checks.invalid("profile", "--steps", ">= 1", steps, "Time at least one step.")
    if trace is not None:
        checks.require_folder_of("profile", "--trace", trace)
    with trial(run, own) as tried:
        size = tried.run.batch_size
        say(f"{warm_steps} steps to warm up, {steps} with loading")
        stages, with_loading_s, batch = _with_loading(tried, warm_steps, steps)
        say(f"{steps} without loading, {_TRACED_STEPS} traced")
        computing_s = _computing(tried, batch, steps)
        loading_per_s = _loading(tried, steps)
        operators, traced_ms = _traced(tried, batch, trace)
        modules = _modules(tried, batch)
        return Profile(
            steps=steps,
            batch_size=size,
            stages=stages,
            images_per_s=steps * size / with_loading_s,
            computing_per_s=steps * size / computing_s,
            loading_per_s=loading_per_s,
            operators=operators,
            modules=modules,
            traced_ms=traced_ms,
            cores=num_cores(),
            threads=tried.run.threads or 1,
            in_memory=tried.splits.train.in_memory,
        )


def _with_loading(
    tried: Trial, warm_steps: int, steps: int
) -> tuple[dict[Stage, float], float, Batch]:
    size = tried.run.batch_size
    clock, began, seen = Clock(tried.device), 0.0, 0
    batches = tried.batches(0, (warm_steps + steps) * size)
    with contextlib.closing(batches):
        for number, batch in enumerate(clock.watch(batches)):
            if number == warm_steps:
                _wait(tried.device)
                clock.take("profile")
                began = time.perf_counter()
            clock.step_begins()
            tried.step(batch, seen, tried.rate(seen))
            clock.step_ends()
            seen += size
        _wait(tried.device)
        clock.settled()
    took = time.perf_counter() - began
    part = shares([clock.take("profile")])
    return {stage: part.get(stage, 0.0) for stage in STAGES}, took, batch


def _computing(tried: Trial, batch: Batch, steps: int) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        tried.step(batch, 0, tried.rate(0))
    _wait(tried.device)
    return time.perf_counter() - began


def _loading(tried: Trial, steps: int) -> float:
    """Images a second of the loader alone, its start included.

    Batches are prepared ahead by the block, so some steps may be there at once: it goes on for a
    second at least.
    """
    size, images = tried.run.batch_size, 0
    began = time.perf_counter()
    with contextlib.closing(tried.batches(0, _LOADED_IMAGES)) as batches:
        for number, _ in enumerate(batches, 1):
            _wait(tried.device)  # else copies and passes of many batches would queue up there
            images += size
            if number >= steps and time.perf_counter() - began >= _LOADING_S:
                break
    return images / (time.perf_counter() - began)


def _traced(tried: Trial, batch: Batch, trace: Path | None) -> tuple[tuple[Cost, ...], float]:
    activities = [ProfilerActivity.CPU]
    on_gpu = tried.device.type == "cuda"
    if on_gpu:
        activities.append(ProfilerActivity.CUDA)
    began = time.perf_counter()
    with profile(activities=activities, acc_events=True) as profiled:
        for _ in range(_TRACED_STEPS):
            tried.step(batch, 0, tried.rate(0))
        _wait(tried.device)
    ms = 1000 * (time.perf_counter() - began) / _TRACED_STEPS
    if trace is not None:
        profiled.export_chrome_trace(str(trace))
    return dearest(profiled.key_averages(), on_gpu), ms


def dearest(averages: Any, on_gpu: bool) -> tuple[Cost, ...]:
    """The operators with the most time in themselves, not in what they call."""
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    took = [
        (event.key, float(getattr(event, name)), int(event.count))
        for event in averages
        # A GPU's kernels are listed beside the operators that queued them, which have their time.
        if event.device_type == DeviceType.CPU
    ]
    total = sum(us for _, us, _ in took) or 1.0
    took.sort(key=lambda one: -one[1])
    return tuple(
        Cost(key, us / total, us / 1000 / _TRACED_STEPS, round(count / _TRACED_STEPS))
        for key, us, count in took[:_OPERATORS]
        if us > 0
    )


def _modules(tried: Trial, batch: Batch) -> tuple[Cost, ...]:
    """The modules without children that take most, forward and backward; on the host's clock."""
    found = profile_step(tried.network, batch.images.to(tried.device))
    parents = {path for path, module in tried.network.named_modules() if any(module.children())}
    took = {
        path: us + found.backward_us.get(path, 0.0)
        for path, us in found.forward_us.items()
        if path not in parents
    }
    total = found.forward_us[""] + found.backward_us.get("", 0.0) or 1.0
    ranked = sorted(took.items(), key=lambda item: -item[1])[:_MODULES]
    return tuple(Cost(path, us / total, us / 1000) for path, us in ranked)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
