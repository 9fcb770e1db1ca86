"""Where a run stands: all that the rest of it follows from, besides settings, data and seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toque.train.course.early_stop import EarlyStop
from toque.train.course.nonfinite import NonFinite
from toque.train.distributed.checkpoints import Checkpoints
from toque.train.logs.window import Window
from toque.train.run_folder import environment
from toque.train.state import checkpoint
from toque.train.steps.step import Step


class Standing:
    """The count of images seen and what has a state of its own, as a checkpoint holds them.

    Args: step: weights, optimisers, average, loss scale
          window: sums since the last row
          early: scores of all validations
          trouble: steps without a number
          fingerprint: of the environment the bits depend on
    """

    def __init__(
        self,
        step: Step,
        window: Window,
        early: EarlyStop,
        trouble: NonFinite,
        fingerprint: dict[str, Any],
    ) -> None:
        self.images_seen = 0
        self._step = step
        self._window = window
        self._early = early
        self._trouble = trouble
        self._fingerprint = fingerprint

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds; the tensors are those that train on."""
        return {
            **self._step.state_dict(),
            "images_seen": self.images_seen,
            "window": self._window.state_dict(),
            "scores": self._early.scores,
            "nonfinite": self._trouble.state_dict(),
            "environment": self._fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where `state_dict()` was taken."""
        self._step.load_state_dict(state)
        self._window.load_state_dict(state["window"])
        self._early.scores = state["scores"]
        self._trouble.load_state_dict(state["nonfinite"])
        self.images_seen = state["images_seen"]

    def continue_from(self, checkpoints: Checkpoints, warn: Callable[[str], None]) -> bool:
        """Stand where the newest whole checkpoint was saved; whether there is one.

        Warns of damaged ones, and of what has changed since that the bits depend on.
        """
        found, state, damages = checkpoints.load(checkpoint.newest)
        for damage in damages:
            warn(damage)
        if found is None:
            return False
        self.load_state_dict(state)
        changed = environment.differences(state["environment"], self._fingerprint)
        if changed:
            warn(
                f"this run cannot end in the bits it would have had: "
                f"{', '.join(changed)} since it was saved."
            )
        return True
