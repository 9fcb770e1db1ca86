"""How long each module takes in a training step, forward and backward.

The profiler gives every forward operation and the backward node that it made one number; which
module an operation belongs to, hooks say in the forward pass. Hooks on the backward pass would
forbid operations in place, which many networks use.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from toque.layers.running import modules_running
from toque.layers.tensors import tensors_in

_MARK = "toque module: "
_NODE = "autograd::engine::evaluate_function"


@dataclass(frozen=True)
class StepTime:
    """Microseconds by the path of a module, those of its children among them; "" is the model."""

    forward_us: dict[str, float]
    backward_us: dict[str, float]


def profile_step(model: nn.Module, images: torch.Tensor) -> StepTime:
    """Run one training step without an optimiser, after one to warm up, under the profiler.

    The model is run in the mode it is in; gradients and running statistics change.
    """

    def enter(path: str, *_: Any) -> Any:
        return record_function(_MARK + path).__enter__()  # type: ignore[no-untyped-call]

    def leave(path: str, record: Any, output: Any) -> None:
        record.__exit__(None, None, None)

    with modules_running(model.named_modules(), enter, leave):
        _forward_and_backward(model, images)
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
            _forward_and_backward(model, images)
    return _by_module(profiled.events() or [])


def _forward_and_backward(model: nn.Module, images: torch.Tensor) -> None:
    outputs = [output for output in tensors_in(model(images)) if output.requires_grad]
    total = torch.stack([output.float().mean() for output in outputs]).sum()
    total.backward()  # type: ignore[no-untyped-call]


def _by_module(events: Any) -> StepTime:
    forward_us: dict[str, float] = {"": 0.0}
    backward_us: dict[str, float] = {"": 0.0}
    ordered = sorted(events, key=lambda event: event.time_range.start)
    modules = [
        (event.time_range.start, event.time_range.end, event.name.removeprefix(_MARK))
        for event in ordered
        if event.name.startswith(_MARK)
    ]
    for start, end, path in modules:
        forward_us[path] = forward_us.get(path, 0.0) + end - start
    starts = [start for start, _, _ in modules]
    owner: dict[int, str] = {}  # of the backward node with this number
    for event in ordered:
        if event.name.startswith(_NODE):
            took = event.time_range.end - event.time_range.start
            backward_us[""] += took
            path = owner.get(event.sequence_nr, "")
            while path:
                backward_us[path] = backward_us.get(path, 0.0) + took
                path = path.rpartition(".")[0]
        elif event.sequence_nr >= 0 and event.sequence_nr not in owner:
            owner[event.sequence_nr] = _innermost(modules, starts, event.time_range.start)
    return StepTime(forward_us, backward_us)


def _innermost(modules: list[tuple[float, float, str]], starts: list[float], at: float) -> str:
    """The module that was entered last and not yet left at this time."""
    position = bisect.bisect_right(starts, at) - 1
    while position >= 0:
        _, end, path = modules[position]
        if end >= at:
            return path
        position -= 1
    return ""
