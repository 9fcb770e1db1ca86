"""The loss of a run: by its name and the arguments that the settings give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from toque import checks, losses
from toque.train.run import Run
from toque.train.tasks.task import Loss, Task

_WHERE = "run.toml [loss]"
_OURS = {
    "reduction": "A run minimises the mean.",
    "ignore_index": "Pixels of a mask marked 255 are left out, and nothing else.",
}
"""Arguments that are not for the settings, and why."""


def by_settings(run: Run, task: Task, device: torch.device) -> tuple[Loss, Loss]:
    """The loss to minimise, and the one to validate with: the same, but without smoothing.

    Lists of numbers become tensors on the device; class_weights may also be a table by class.

    Raises: ValueError: no such loss, an argument that it does not have (the nearest is suggested),
            a value that it refuses, a class that there is not
    """
    name = run.loss.name or task.loss_name
    given = run.loss.model_extra or {}
    _check_names(name, given)
    smoothing = run.loss.label_smoothing or 0.0
    if given:
        _try(name, task, _tensors(given, task, torch.device("cpu")), smoothing)
    arguments = _tensors(given, task, device)
    return task.loss(name, smoothing, arguments), task.loss(name, 0.0, arguments)


def _check_names(name: str, given: Mapping[str, Any]) -> None:
    """Raise ValueError where an argument is of no loss that the name joins."""
    known = [losses.catalog.arguments(part.strip()) for part in name.split("+")]
    for argument in given:
        if argument in _OURS:
            raise checks.InvalidValue(f"{_WHERE}: {argument} is not a setting. {_OURS[argument]}")
        if any(one is None or argument in one for one in known):
            continue
        names = {one for of_one in known for one in of_one or ()} - _OURS.keys()
        raise checks.InvalidValue(
            f"{_WHERE}: {argument} is not a setting of {name}. "
            + (checks.nearest(argument, names) if names else "It has none.")
        )


def _tensors(given: Mapping[str, Any], task: Task, device: torch.device) -> dict[str, Any]:
    """The arguments as the losses take them."""
    made: dict[str, Any] = {}
    for argument, value in given.items():
        numbers = _of_classes(argument, value, task) if isinstance(value, Mapping) else value
        if isinstance(numbers, list | tuple) and all(_is_number(one) for one in numbers):
            numbers = torch.tensor(numbers, dtype=torch.float32, device=device)
        made[argument] = numbers
    return made


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _of_classes(argument: str, table: Mapping[str, Any], task: Task) -> list[Any]:
    """A number for each class: {cat: 4} is 4 for cats and 1 for all others."""
    for named in table:
        if named not in task.names:
            raise checks.invalid(
                _WHERE, argument, "by classes of the data", named, checks.nearest(named, task.names)
            )
    return [table.get(one, 1.0) for one in task.names]


def _try(name: str, task: Task, arguments: Mapping[str, Any], smoothing: float) -> None:
    """Raise ValueError where the loss refuses a value, before anything of a run is written."""
    outputs, targets = task.example()
    try:
        task.loss(name, smoothing, arguments)(outputs, targets)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise checks.InvalidValue(
            f"{_WHERE}: {name} refused its settings ({checks.first_line(error)}). "
            "Change or remove that setting."
        ) from error
