"""The formats of a saved state over time: what an older toque wrote becomes what this one reads.

Whoever changes what `fit` saves raises VERSION and writes the step from the version before. Each
old format has a run in tests/train/format-N that this one must continue.

1  toque 0.1.0: one optimiser, float32 only, classification only
2  optimisers by name, a loss scale, the scores of all validations
3  tensors may lie in several files, in pieces (`pieces`); the state itself is that of 2

What a loop of a user's own saves (`own`) has no format of ours: it is read as it was written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

State = dict[str, Any]

VERSION = 3
OWN = "parts"  # the one key of a state that is not fit's


def migrate(state: State, version: int) -> State:
    """The state as this toque reads it, from the format it was written in."""
    if OWN in state:
        return state
    for number in range(version, VERSION):
        state = _FROM[number](state)
    return state


def migrate_settings(tree: dict[str, Any]) -> dict[str, Any]:
    """The tables of a run folder's run.toml, with what an older toque took for granted."""
    return {"task": "classification", **tree}


def _from_1(state: State) -> State:
    return {
        **state,
        "optimizer": {"default": state["optimizer"]},
        "loss_scale": None,
        "micro_batch": None,
        "scores": [],
        "nonfinite": {
            "streak": 0,
            "began_images": 0,
            "skipped_steps": 0,
            "overflows": 0,
            "rate_factor": 1.0,
        },
        "environment": {**state["environment"], "precision": "float32", "ranks": 1},
    }


_FROM: dict[int, Callable[[State], State]] = {1: _from_1, 2: lambda state: state}
