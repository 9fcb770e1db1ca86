"""A caller's own data as the splits of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from toque import checks
from toque.data.dataset import DatasetSource
from toque.data.part import Part
from toque.data.source import Source
from toque.data.splits import Splits, draw_validation

OwnData = Source | Dataset[Any]


def own(train: OwnData, val: OwnData | None, *, seed: int, val_fraction: float = 0.2) -> Splits:
    """The splits of a source or torch Dataset of one's own.

    Args:    val: what to validate on; without it a keyed share of every class of `train`
    Raises:  ValueError: no images; classes of the two that differ
             TypeError: something that is neither a source nor a map-style Dataset
    Example: >>> own(my_dataset, None, seed=0).val
    """
    training = _source(train)
    if val is None:
        names = [training.name(index) for index in range(len(training))]
        in_val = draw_validation(names, training.labels, seed, val_fraction)
        whole = training
        training = Part(whole, np.flatnonzero(~in_val))
        validation: Source = Part(whole, np.flatnonzero(in_val))
    else:
        validation = _source(val)
        # Numbers for names: a validation set may lack the last classes of the training set.
        shorter = training.classes[: len(validation.classes)]
        if validation.classes not in (training.classes, shorter):
            raise checks.invalid(
                "fit", "the classes of val", f"those of train, {list(training.classes)}",
                list(validation.classes), "Give both the same classes in the same order.",
            )  # fmt: skip
    for part, source in (("train", training), ("val", validation)):
        if len(source) == 0:
            raise checks.invalid("fit", part, "at least one image", "none", "Add images.")
    return Splits(training, validation, training.classes, (), int(training.read(0).shape[0]))


def _source(data: OwnData) -> Source:
    return data if isinstance(data, Source) else DatasetSource(data)
