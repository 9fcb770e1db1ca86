"""The state of a run as it was at one moment, in host memory, apart from the tensors that train on.

A state dict holds the tensors themselves, and the optimiser changes them in place: whoever writes
one while the training goes on would write half of one step and half of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Snapshot:
    """The tensors of a state by number, contiguous on the CPU, and its shape with these numbers.

    skeleton: plain values of JSON; {"tensor": "3"} stands for the tensor of that number
    """

    skeleton: Any
    tensors: dict[str, torch.Tensor]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


class Camera:
    """Takes snapshots, each into the memory of the one before it.

    The first costs the page faults of fresh memory, the next ones a copy (1 GB: 0.5 s and 0.15 s on
    two cores). From a GPU the copies go through pinned memory and are awaited.
    """

    def __init__(self) -> None:
        self._memory: dict[str, torch.Tensor] = {}

    def take(self, state: Mapping[str, Any]) -> Snapshot:
        """Copy a state; the snapshot taken before is overwritten.

        Args:   state: nested dicts (keys str or int), lists, tensors, and plain values of JSON
        Raises: TypeError: something in the state that is neither a tensor nor plain
        """
        live: dict[str, torch.Tensor] = {}
        skeleton = take_tensors(state, live)
        return Snapshot(skeleton, self.copy(live))

    @torch.no_grad()
    def copy(self, live: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Contiguous copies on the CPU; those made before are overwritten."""
        self._memory = {name: self._like(name, tensor) for name, tensor in live.items()}
        for name, tensor in live.items():
            self._memory[name].copy_(tensor, non_blocking=tensor.is_cuda)
        for device in {tensor.device for tensor in live.values() if tensor.is_cuda}:
            torch.cuda.synchronize(device)
        return dict(self._memory)

    def _like(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        kept = self._memory.get(name)
        if kept is not None and kept.shape == tensor.shape and kept.dtype == tensor.dtype:
            return kept
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


def take_tensors(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The skeleton of a state; its tensors go into `tensors` as they are."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach()
        return {"tensor": name}
    if isinstance(value, Mapping):
        if other := [key for key in value if not isinstance(key, str | int)]:
            kind = type(other[0]).__name__
            raise TypeError(f"a checkpoint's dicts have keys of text or whole numbers; got {kind}")
        # Pairs, because JSON would turn the integer keys of an optimiser's state into strings.
        return {"dict": [[key, take_tensors(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [take_tensors(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"a checkpoint holds tensors and plain values; got {type(value).__name__}")


def put_tensors(skeleton: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The state of a skeleton, with tensors in place of their numbers."""
    return filled(with_slots(skeleton), tensors)


Place = tuple[str | int, ...]
"""Where something stands in a state: ("optimizer", "default", "state", 3, "exp_avg")."""


@dataclass(frozen=True)
class Slot:
    """Stands in a state for the tensor of that number, which is not read yet."""

    number: str


def with_slots(skeleton: Any) -> Any:
    """The state of a skeleton, with a Slot for each tensor."""
    ((kind, content),) = skeleton.items()
    if kind == "tensor":
        return Slot(content)
    if kind == "dict":
        return {key: with_slots(item) for key, item in content}
    if kind == "list":
        return [with_slots(item) for item in content]
    return content


def slots(state: Any, at: Place = ()) -> Iterator[tuple[str, Place]]:
    """The number and the place of every Slot in a state."""
    if isinstance(state, Slot):
        yield state.number, at
    elif isinstance(state, Mapping):
        for key, item in state.items():
            yield from slots(item, (*at, key))
    elif isinstance(state, list):
        for number, item in enumerate(state):
            yield from slots(item, (*at, number))


def filled(state: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """A state with tensors in its Slots."""
    if isinstance(state, Slot):
        return tensors[state.number]
    if isinstance(state, Mapping):
        return {key: filled(item, tensors) for key, item in state.items()}
    if isinstance(state, list):
        return [filled(item, tensors) for item in state]
    return state
