"""The real step of a run on its real batches, writing nothing: profile, range test and replay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from toque.data import Batch, Splits
from toque.train import build, parts, prepare
from toque.train.distributed import ALONE, preparing
from toque.train.measure import Loss
from toque.train.optimisation.schedule import schedule
from toque.train.prepare import Own
from toque.train.run import Run
from toque.train.steps.precision import Precision
from toque.train.steps.step import Step
from toque.train.tasks import Task


@dataclass(frozen=True)
class Trial:
    """What a run is made of, before its first step.

    run:     the resolved settings
    loss:    that is minimised
    rate:    the learning rate as a function of images seen
    batches: (from, to) images seen -> the run's training batches; the caller closes them
    """

    run: Run
    splits: Splits
    precision: Precision
    network: nn.Module
    loss: Loss
    step: Step
    rate: Callable[[int], float]

    @property
    def device(self) -> torch.device:
        return self.precision.device

    def batches(self, start_images: int, stop_images: int) -> Generator[Batch]:
        return parts.train_batches(
            self.run, self.splits, start_images, stop_images, ALONE, self.device
        )


@contextlib.contextmanager
def trial(run: Run, own: Own | None = None) -> Iterator[Trial]:
    """Build a run as `fit` does, with its seed, precision and threads, and leave its folder alone.

    Raises: ValueError, FileNotFoundError: as `fit`, before anything is computed
    """
    own = own or Own()
    splits = prepare.open_splits(run, own)
    task = prepare.task_of(splits, own)
    run = prepare.resolve(run, splits, own, task)
    precision = Precision(run.precision, build.device(run.device))
    with built(run, splits, own, task, precision) as made:
        yield made


@contextlib.contextmanager
def built(run: Run, splits: Splits, own: Own, task: Task, precision: Precision) -> Iterator[Trial]:
    """As `trial`, of settings that are resolved, as a run folder has them, and opened data."""
    network = build.network(run, splits, own, task, precision.device)
    loss, _ = build.losses(run, own, task, precision.device)
    step = parts.build_step(run, splits, network, loss, precision, ALONE)
    with precision.in_force(), preparing.steady_threads(run, precision.device):
        network.train()
        rate = schedule(run, parts.total_images(run, splits))
        yield Trial(run, splits, precision, network, loss, step, rate)
