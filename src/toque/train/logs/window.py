"""Sums of what is measured while training, since the last row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from toque.train.distributed.world import ALONE, World
from toque.train.logs.log import Row
from toque.train.metrics.counting import num_correct
from toque.train.steps.step import Outcome


class Settled(NamedTuple):
    """A step whose values were read: its mean loss, and whether it was skipped."""

    outcome: Outcome
    loss: float
    skipped: bool


class Window:
    """Loss, and with `counts_right` accuracy, of the images since the last row.

    Outputs are only kept by `add` and looked at together by `settle`, once for many steps: reading
    a value costs a synchronisation on a GPU and several small operations everywhere. Sums are taken
    in step order, so that they do not depend on when they were settled or saved.
    """

    _PENDING_STEPS = 32

    def __init__(self, counts_right: bool = True, world: World = ALONE) -> None:
        self.images = 0
        self._world = world
        self._loss_sum = 0.0
        self._correct: int | None = 0 if counts_right else None
        self._pending: list[Outcome] = []

    def add(self, outcome: Outcome) -> bool:
        """Keep one step's results, on their device; true when it is time to settle."""
        if self._correct is None:  # 32 batches of maps would take gigabytes
            outcome = replace(outcome, outputs=outcome.outputs[:0], targets=None)
        self._pending.append(outcome)
        return len(self._pending) >= self._PENDING_STEPS

    def settle(self) -> list[Settled]:
        """Read what is pending into the sums and return it; skipped steps count in no sum.

        Several ranks do it together.
        """
        if not self._pending:
            return []
        pending, self._pending = self._pending, []
        losses = torch.stack([outcome.loss for outcome in pending]).tolist()
        skipped = torch.stack([outcome.skipped for outcome in pending]).tolist()
        settled = [
            Settled(outcome, loss, bad != 0)
            for outcome, loss, bad in zip(pending, losses, skipped, strict=True)
        ]
        good = [one for one in settled if not one.skipped]
        counts, right = [len(one.outcome.indices) for one in good], None
        if self._correct is not None and good:
            outputs = torch.cat([one.outcome.outputs for one in good])
            right = num_correct(outputs, torch.cat([one.outcome.targets for one in good]))
            self._correct = None if right is None else self._correct
        if not self._world.alone:
            # One message for all: the loss of a step is that of all ranks already.
            known = torch.tensor([*counts, right or 0])
            *counts, all_right = self._world.sum(known, "the counts of a row").tolist()
            right = None if right is None else all_right
        for one, count in zip(good, counts, strict=True):
            self._loss_sum += one.loss * count
            self.images += count
        if self._correct is not None and right is not None:
            self._correct += right
        return settled

    def take(self) -> Row:
        """The means since the last row, and a fresh start."""
        images = max(1, self.images)
        row: Row = {"loss": self._loss_sum / images}
        if self._correct is not None:
            row["accuracy"] = self._correct / images
        self.images, self._loss_sum = 0, 0.0
        self._correct = None if self._correct is None else 0
        return row

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images, "loss_sum": self._loss_sum, "correct": self._correct}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.images, self._loss_sum = state["images"], state["loss_sum"]
        self._correct = state["correct"]
