"""The rows of metrics.jsonl: what each says, and of which stretch of the run."""

from __future__ import annotations

import time

import torch

from toque.train import resizing
from toque.train.logs.clock import Clock, memory_bytes
from toque.train.logs.log import Row
from toque.train.logs.window import Window
from toque.train.measure import Evaluation
from toque.train.run import Run


class Rows:
    """Makes the rows of a run, each of the stretch since the one before.

    Args: run: with resolved settings
          num_images: in an epoch
          window: sums of the training steps
          clock: where their time went
          began: `time.monotonic()` at the start of this call of fit
    """

    def __init__(
        self,
        run: Run,
        num_images: int,
        window: Window,
        clock: Clock,
        device: torch.device,
        began: float,
    ) -> None:
        self._run = run
        self._num_images = num_images
        self._window = window
        self._clock = clock
        self._device = device
        self._began = began
        self.begin(0)

    def begin(self, images_seen: int) -> None:
        """The stretch of the next row begins here and now."""
        self._images, self._since = images_seen, time.monotonic()

    def training(self, images_seen: int, learning_rate: float, skipped_steps: int) -> Row:
        """The training since the last row; the next one begins after it."""
        now = time.monotonic()
        row = self._window.take()
        if skipped_steps:
            row["skipped_steps"] = skipped_steps
        row |= {
            "images_seen": images_seen,
            "epoch": images_seen / self._num_images,
            "split": "train",
            "learning_rate": learning_rate,
            "images_per_s": (images_seen - self._images) / max(now - self._since, 1e-9),
            "time_s": now - self._began,
            **self._clock.take("train"),
            "memory_bytes": memory_bytes(self._device),
        }
        if self._run.resize.from_px is not None:
            row["image_size"] = resizing.size_at(self._run, self._num_images, images_seen - 1)
        self._images, self._since = images_seen, now
        return row

    def validation(self, images_seen: int, evaluation: Evaluation, num_images: int) -> Row:
        """A validation that has just ended, of so many images; the next row begins after it."""
        now = time.monotonic()
        row = {
            "images_seen": images_seen,
            "epoch": images_seen / self._num_images,
            "split": "val",
            "loss": evaluation.loss,
            "images_per_s": num_images / max(now - self._since, 1e-9),
            "time_s": now - self._began,
            **self._clock.take("val"),
            **evaluation.metrics,
        }
        self._since = now
        return row
