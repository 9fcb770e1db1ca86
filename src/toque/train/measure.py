"""Evaluation: every image once, without gradients, with what the report needs about each."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from toque.data import Batch
from toque.train.distributed.world import ALONE, World
from toque.train.steps import compiled
from toque.train.steps.precision import Precision
from toque.train.tasks import Evaluation, Task
from toque.train.tasks.task import Loss

__all__ = ["Evaluation", "Loss", "measure"]


def measure(
    model: nn.Module,
    batches: Iterable[Batch],
    task: Task,
    loss: Loss,
    device: torch.device,
    precision: Precision | None = None,
    world: World = ALONE,
    lockstep: tuple[int, torch.Tensor] | None = None,
) -> Evaluation:
    """Run the model in evaluation mode over batches; its mode is put back afterwards.

    Several ranks each bring their batches of the whole; all get what all found, and the same bits
    as one rank would.

    Args: task: says what is counted
          loss: gives the mean over a batch; means are weighted by the images in each
          precision: the one trained in; float32 if None
          lockstep: make at least so many forward passes, the missing ones with these images
    """
    was_training = model.training
    model.eval()
    tally = task.tally()
    loss_sums, images = [], 0
    static, full = compiled.is_compiled(model), 0
    autocast = nullcontext if precision is None else precision.autocast
    try:
        with torch.no_grad():  # not inference_mode: a module may cache what it computed
            for batch in batches:
                x = batch.images.to(device, non_blocking=True)
                y = batch.targets.to(device, non_blocking=True)
                full = max(full, len(x))
                with autocast():
                    if static and len(x) < full:
                        outputs = model(compiled.filled(x, full))[: len(x)]
                    else:
                        outputs = model(x)
                    loss_sums.append(float(loss(outputs, y)) * len(y))
                images += len(y)
                tally.add(outputs, y, batch.indices)
            if lockstep is not None:
                for _ in range(len(loss_sums), lockstep[0]):
                    model(lockstep[1])
    finally:
        model.train(was_training)
    what = "the evaluation"
    tally.join(world, what)
    # In the order of the batches, whoever had them.
    loss_sum = sum(world.gather_rows(np.array(loss_sums), what).tolist())
    images = int(world.sum(torch.tensor(images), what))
    return tally.evaluation(loss_sum / max(1, images))
