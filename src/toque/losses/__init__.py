"""Losses: functions of (predictions, targets), each right under every reduction and dtype.

`create(name, settings)` gives one by name, with its settings, as a module.
"""

from toque.losses.catalog import Loss, create, names
from toque.losses.contrastive import contrastive_loss
from toque.losses.cross_entropy import cross_entropy
from toque.losses.focusing import asymmetric, focal, sigmoid_focal
from toque.losses.linear import linear_cross_entropy
from toque.losses.metric import (
    ArcFace,
    UncertaintyWeights,
    distillation,
    supervised_contrastive,
    triplet,
)
from toque.losses.mixed import mixup_cross_entropy
from toque.losses.overlap import dice, generalised_dice, lovasz, tversky
from toque.losses.regression import ciou, giou, huber, quantile
from toque.losses.targets import explain
from toque.losses.upsampled import upsample_cross_entropy

__all__ = [
    "ArcFace",
    "Loss",
    "UncertaintyWeights",
    "asymmetric",
    "ciou",
    "contrastive_loss",
    "create",
    "cross_entropy",
    "dice",
    "distillation",
    "explain",
    "focal",
    "generalised_dice",
    "giou",
    "huber",
    "linear_cross_entropy",
    "lovasz",
    "mixup_cross_entropy",
    "names",
    "quantile",
    "sigmoid_focal",
    "supervised_contrastive",
    "triplet",
    "tversky",
    "upsample_cross_entropy",
]
