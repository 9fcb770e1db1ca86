"""What is measured while training: sums since the last row, metrics.jsonl."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from toque import durable
from toque.train.distributed.world import ALONE, World
from toque.train.metrics.counting import num_correct

if TYPE_CHECKING:
    from toque.train.logs.loggers import Logger
from toque.train.steps.step import Outcome

Row = dict[str, Any]


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


class MetricsLog:
    """metrics.jsonl and what else the rows go to, cut back to where a resumed run continues.

    A full disk does not end the run: rows wait in memory and are appended with the next one.
    """

    def __init__(self, file: Path, images_seen: int, loggers: Sequence[Logger] = ()) -> None:
        self._path, self._loggers = file, loggers
        self._begin(images_seen)

    def _begin(self, images_seen: int) -> None:
        kept = [row for row in read_rows(self._path) if row["images_seen"] <= images_seen]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        if self._path.exists():
            durable.write(self._path, text)
        self._file = self._path.open("ab", buffering=0)
        self._unwritten = b""
        self.rows = kept

    def cut(self, images_seen: int) -> None:
        """Forget what came after an image, here and in the file."""
        self._close_file()
        self._begin(images_seen)
        for logger in self._loggers:
            logger.cut(images_seen)

    def write(self, row: Row) -> None:
        """Append one row, with numbers rounded to what is significant."""
        row = {
            key: float(f"{value:.7g}") if isinstance(value, float) else value
            for key, value in row.items()
        }
        self.rows.append(row)
        self._unwritten += json.dumps(row).encode() + b"\n"
        self._append()
        for logger in self._loggers:
            logger.write(row)

    def _append(self) -> None:
        with contextlib.suppress(OSError):
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def close(self) -> None:
        self._close_file()
        for logger in self._loggers:
            logger.close()

    def _close_file(self) -> None:
        self._append()
        self._file.close()


def read_rows(file: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line torn by a kill is left out."""
    if not file.is_file():
        return []
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
