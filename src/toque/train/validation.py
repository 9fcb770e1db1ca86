"""The validation images of a run, measured again and again while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from toque import data
from toque.data import Batch, Pipeline, Splits
from toque.train import build
from toque.train.distributed import World, preparing
from toque.train.logs.progress import Progress
from toque.train.measure import Evaluation, Loss, measure
from toque.train.run import Run
from toque.train.steps.precision import Precision
from toque.train.tasks import Task


class Validation:
    """What models answer on a run's validation images; several ranks share them.

    Args: pipeline: of evaluation
          loss: that counts every target once
          shown: is told of every batch
    """

    def __init__(
        self,
        run: Run,
        splits: Splits,
        pipeline: Pipeline | None,
        task: Task,
        loss: Loss,
        precision: Precision,
        world: World,
        shown: Progress,
    ) -> None:
        self._run = run
        self._splits = splits
        self._pipeline = pipeline
        self._task = task
        self._loss = loss
        self._precision = precision
        self._world = world
        self._shown = shown
        # Their pixels are the host's, as `toque predict` and exported models make them.
        self._upload = build.upload(precision.device)
        size = run.image_size or 1
        self._image_shape = (splits.channels, size, size)

    def __call__(self, model: nn.Module) -> Evaluation:
        """Every image once; all ranks call it together, and get what all found."""
        run, splits, world = self._run, self._splits, self._world
        batches = data.evaluation_batches(
            splits.val,
            self._pipeline,
            batch_size=run.batch_size,
            threads=run.threads or 1,
            workers=run.workers,
            rank=world.rank,
            ranks=world.size,
            upload=self._upload,
        )
        world.share(model, "the running statistics", parameters=False)
        lockstep = preparing.lockstep(run, world, model, len(splits.val), self._image_shape)
        return measure(
            model, self._told(batches), self._task, self._loss, self._precision.device,
            self._precision, world, lockstep,
        )  # fmt: skip

    def _told(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the progress counts them, and as many of every other rank."""
        images, total = 0, len(self._splits.val)
        self._shown.validating(0, total)
        for batch in batches:
            yield batch
            images += len(batch)
            self._shown.validating(min(images * self._world.size, total - 1), total)
        self._shown.validating(total, total)
