"""A step alone: batches of noise, and what the weights became."""

import numpy as np
import torch

from toque.data import Batch
from toque.train.optimisation.optimizers import Optimizers
from toque.train.steps.precision import Precision
from toque.train.steps.step import Step

CPU = torch.device("cpu")
FLOAT32 = Precision("float32", CPU)


def batch(images, targets):
    indices = np.arange(len(images))
    return Batch(images, targets, indices, np.zeros_like(indices))


def pixels(count, *shape, dtype=torch.float64, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def labels(*shape, classes=3, seed=1):
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def built(model, loss, *, lr=1.0, optimizer=None, **settings):
    """A step of plain SGD at rate 1: what the weights lose is the gradient."""
    made = optimizer(model) if optimizer else torch.optim.SGD(model.parameters(), lr=lr)
    settings.setdefault("precision", FLOAT32)
    return Step(model.train(), loss, Optimizers({"default": made}), seed=0, **settings)


def weights(model):
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])
