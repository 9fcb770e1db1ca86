"""The real step of a run, on its real batches, writing nothing: for profiles and range tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from toque.data import Batch, Splits
from toque.train import parts, prepare
from toque.train.distributed import World, preparing
from toque.train.optimisation.schedule import schedule
from toque.train.prepare import Own
from toque.train.run import Run
from toque.train.steps.precision import Precision
from toque.train.steps.step import Step


@dataclass(frozen=True)
class Trial:
    """What a run is made of, before its first step.

    run:     the resolved settings
    rate:    the learning rate as a function of images seen
    batches: (from, to) images seen -> the run's training batches; the caller closes them
    """

    run: Run
    splits: Splits
    device: torch.device
    network: nn.Module
    step: Step
    rate: Callable[[int], float]
    _world: World = field(repr=False)

    def batches(self, start_images: int, stop_images: int) -> Generator[Batch]:
        return parts.train_batches(
            self.run, self.splits, start_images, stop_images, self._world, self.device
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
    device = prepare.pick_device(run.device)
    precision, world = Precision(run.precision, device), World()
    network = prepare.build_model(run, splits, own, task, device)
    training_loss, _ = prepare.build_losses(run, own, task)
    step = parts.build_step(run, splits, network, training_loss, precision, world)
    with precision.in_force(), preparing.steady_threads(run, device):
        network.train()
        rate = schedule(run, parts.total_images(run, splits))
        yield Trial(run, splits, device, network, step, rate, world)
