"""A caller's own data as the splits of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from toque import checks
from toque.data.dataset import DatasetSource
from toque.data.part import Part
from toque.data.source import Source, strata
from toque.data.splits import Splits, draw_validation
from toque.data.targets import Task

OwnData = Source | Dataset[Any]


def own(
    train: OwnData,
    val: OwnData | None,
    *,
    seed: int,
    val_fraction: float = 0.2,
    task: Task | None = None,
) -> Splits:
    """The splits of a source or map-style torch Dataset of one's own.

    A Dataset that names neither its `classes` nor its `targets` is read whole, once, to learn them.

    Args:    train, val: what to train and validate on; without val a share of each class of train
             is kept for it, drawn by the name of each image, as `open` does
             seed, val_fraction: of that draw
             task: what the targets mean, where they could mean two things
    Raises:  ValueError: no images, fewer than two to split; classes or tasks of the two that differ
             TypeError: something that is neither a source nor a map-style Dataset
    Example: >>> own(my_dataset, None, seed=0).val
    """
    whole = training = _source("train", train, task)
    if val is None:
        training, validation = _split(training, seed, val_fraction)
    else:
        validation = _source("val", val, training.task)
        # Numbers for names: a validation set may lack the last classes of the training set.
        shorter = training.classes[: len(validation.classes)]
        if validation.classes not in (training.classes, shorter):
            raise checks.invalid(
                "data", "the classes of val",
                f"those of train, {checks.first(training.classes, 5)}",
                checks.first(validation.classes, 5),
                "Give both the same classes in the same order.",
            )  # fmt: skip
    channels = int(training.read(0).shape[0])
    if val is not None and (others := int(validation.read(0).shape[0])) != channels:
        raise checks.invalid(
            "data", "the images of val", f"of {channels} channels, as those of train", others,
            "Convert one of them, so that the model sees one kind.",
        )  # fmt: skip
    drawn_from = whole if val is None else None
    return Splits(training, validation, training.classes, (), channels, whole=drawn_from)


def _source(argument: str, data: OwnData, task: Task | None) -> Source:
    source = data if isinstance(data, Source) else DatasetSource(data, task=task)
    if len(source) == 0:
        raise checks.invalid("data", argument, "at least one image", "none", "Add images.")
    if task is not None and source.task != task:
        raise checks.invalid(
            "data", f"the targets of {argument}", f"those of {task}", f"those of {source.task}",
            "Give other targets, or another task.",
        )  # fmt: skip
    return source


def _split(source: Source, seed: int, val_fraction: float) -> tuple[Source, Source]:
    names = [source.name(index) for index in range(len(source))]
    in_val = draw_validation(names, strata(source), seed, val_fraction)
    if in_val.all() or not in_val.any():
        raise checks.invalid(
            "data", "train", "at least two images of a class where no val is given", len(source),
            "Add images, or pass val=….",
        )  # fmt: skip
    return Part(source, np.flatnonzero(~in_val)), Part(source, np.flatnonzero(in_val))
