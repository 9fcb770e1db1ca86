"""Evaluation: every image once, without gradients, with what the report needs about each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toque.data import Batch
from toque.train.log import num_correct
from toque.train.metrics import Scores, score
from toque.train.precision import Precision

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Evaluation:
    """What a model answers on N images of K classes.

    loss:          mean over the images
    accuracy:      share answered right; None where the outputs are no class scores
    indices:       [N] int64, the images in their source, in the order of the arrays below
    targets:       [N] int64
    probabilities: [N, K] float32; empty where the outputs are no class scores
    """

    loss: float
    accuracy: float | None
    indices: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    @property
    def score(self) -> float:
        """What makes one checkpoint better than another: the accuracy, else the negative loss."""
        return -self.loss if self.accuracy is None else self.accuracy

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image: [N] int64."""
        return np.asarray(self.probabilities.argmax(1), dtype=np.int64)

    def scores(self, seed: int) -> Scores | None:
        """What the answers are worth and how sure that is; None where they name no classes."""
        if self.accuracy is None or self.targets.ndim != 1 or self.targets.dtype.kind != "i":
            return None
        return score(self.indices, self.targets, self.probabilities, seed=seed)

    def summary(self, scores: Scores | None = None) -> str:
        """ "accuracy 91.2 % (90.0 to 92.4), loss 0.3051 on 2000"; what is counted follows."""
        loss = f"loss {self.loss:.4f} on {len(self.targets)}"
        if scores is not None:
            return f"{scores.summary()}, {loss}"
        return loss if self.accuracy is None else f"accuracy {100 * self.accuracy:.2f} %, {loss}"

    def confusion(self, num_classes: int) -> npt.NDArray[np.int64]:
        """Counts [K, K]: rows are the true classes, columns the predicted ones.

        A model may have more outputs than there are classes; an answer there counts nowhere.
        """
        known = self.predictions < num_classes
        targets, predictions = self.targets[known], self.predictions[known]
        cells = targets * num_classes + predictions
        counts = np.bincount(cells, minlength=num_classes**2)
        return counts.reshape(num_classes, num_classes).astype(np.int64)


def measure(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    device: torch.device,
    precision: Precision | None = None,
) -> Evaluation:
    """Run the model in evaluation mode over batches; its mode is put back afterwards.

    Args: loss: gives the mean over a batch; means are weighted by the images in each
          precision: the one trained in; float32 if None
    """
    was_training = model.training
    model.eval()
    loss_sum, images, correct = 0.0, 0, 0
    classified = True
    indices, targets, probabilities = [], [], []
    autocast = nullcontext if precision is None else precision.autocast
    try:
        with torch.no_grad():  # not inference_mode: a module may cache what it computed
            for batch in batches:
                x = batch.images.to(device, non_blocking=True)
                y = batch.targets.to(device, non_blocking=True)
                with autocast():
                    outputs = model(x)
                    loss_sum += float(loss(outputs, y)) * len(y)
                images += len(y)
                right = num_correct(outputs, y)
                indices.append(batch.indices)
                targets.append(batch.targets.numpy())
                if right is None:
                    classified = False
                else:
                    correct += right
                    probabilities.append(outputs.float().softmax(1).cpu().numpy())
    finally:
        model.train(was_training)
    return Evaluation(
        loss=loss_sum / max(1, images),
        accuracy=correct / max(1, images) if classified else None,
        indices=np.concatenate(indices) if indices else np.empty(0, np.int64),
        targets=np.concatenate(targets) if targets else np.empty(0, np.int64),
        probabilities=(
            np.concatenate(probabilities)
            if classified and probabilities
            else np.empty((0, 0), np.float32)
        ),
    )
