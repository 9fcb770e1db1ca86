"""The step of a run and its batches, from the resolved settings: the same for fit and replay."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator

import torch
from torch import nn

from toque import data
from toque.data import Batch, Splits
from toque.models.ema import EMA
from toque.train import build, prepare, resizing
from toque.train.distributed import World, preparing
from toque.train.measure import Loss
from toque.train.optimisation import optimise
from toque.train.optimisation.freezing import Freezing
from toque.train.run import Run
from toque.train.steps import memory
from toque.train.steps.mixing import Mixing
from toque.train.steps.precision import Precision
from toque.train.steps.predicting import Example, Prediction
from toque.train.steps.step import Step

HOST = torch.device("cpu")


def total_images(run: Run, splits: Splits) -> int:
    """The images of the whole run.

    Every batch is full, so it ends with the first batch that completes the last epoch.
    """
    return math.ceil(run.epochs * len(splits.train) / run.batch_size) * run.batch_size


def build_step(
    run: Run,
    splits: Splits,
    network: nn.Module,
    loss: Loss,
    precision: Precision,
    world: World,
    say: Callable[[str], None] = lambda sentence: None,
) -> Step:
    """The step of this rank: optimisers, average, mixing, freezing, clipping, exchange."""
    num_images = len(splits.train)
    offload = False
    if run.memory.limit is not None:
        planned = world.first_does(
            lambda: _plan(run, splits, network, loss, precision, world),
            "the plan under memory.limit",
        )
        say(f"memory.limit {run.memory.limit}: {planned}")
        planned.prepare(network, compiled=run.compile)
        settings = {"limit": run.memory.limit, "micro_batch": planned.micro_batch}
        run, offload = run.changed(memory=settings), planned.offload
    half_life_images = run.ema.half_life_epochs * num_images
    mixed = run.mix.mixup or run.mix.cutmix
    late = any(rule.frozen_epochs for rule in run.rules)
    return Step(
        network,
        loss,
        optimise.build(run, network, precision.device),
        seed=run.seed,
        precision=precision,
        micro_batch=run.memory.micro_batch,
        offload=offload,
        compile_network=run.compile,
        clip=run.clip,
        ema=EMA(network, half_life_images=half_life_images) if half_life_images else None,
        mixing=Mixing(run.mix, len(splits.classes), run.seed) if mixed else None,
        freezing=Freezing(run.rules, num_images) if late else None,
        sam=run.optimizer.sam,
        exchange=preparing.exchange(run, world, network, loss),
    )


def _plan(
    run: Run,
    splits: Splits,
    network: nn.Module,
    loss: Loss,
    precision: Precision,
    world: World,
) -> memory.Plan:
    """How a step of one of these ranks stays under `memory.limit`, at its largest images."""
    two = run.changed(
        batch_size=2, threads=1, workers=0, image_size=resizing.sizes(run)[-1], resize={}
    )
    with contextlib.closing(train_batches(two, splits, 0, 2, World())) as batches:
        batch = next(batches)
    shards = run.distributed.virtual_shards or world.size
    num_images = -(-run.batch_size // shards)
    example = Example(batch.images, batch.targets)
    waiting = 1 if precision.device.type == "cuda" else 0
    prediction = Prediction(network, run, precision.name, loss, example, num_images, waiting)
    return memory.plan(prediction, run, network, num_images)


def train_batches(
    run: Run,
    splits: Splits,
    start_images: int,
    stop_images: int,
    world: World,
    device: torch.device = HOST,
) -> Generator[Batch]:
    """This rank's part of the batches from one count of images seen to another, on its device.

    Their size is that of the phase that each batch begins in (see resizing.py).
    """
    upload = build.upload(device, build.augments_there(run, device))
    for start, stop, size_px in resizing.stretches(
        run, len(splits.train), start_images, stop_images
    ):
        batches = data.train_batches(
            splits.train,
            build.training_pipeline(run, splits, size_px),
            seed=run.seed,
            batch_size=run.batch_size,
            start_images=start,
            stop_images=stop,
            threads=run.threads or 1,
            workers=run.workers,
            scaled_decoding=run.scaled_decoding,
            sampling=prepare.sampling_of(run),
            rank=world.rank,
            ranks=world.size,
            upload=upload,
        )
        with contextlib.closing(batches):
            yield from batches
