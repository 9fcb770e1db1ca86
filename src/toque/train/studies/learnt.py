"""What the kept weights of a run contradict among the images that they were trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from toque import checks, data, durable
from toque.data.progress import Show, shown
from toque.train import prepare, restore, tasks
from toque.train.measure import Evaluation
from toque.train.metrics import Doubt
from toque.train.metrics.doubts import kinds_of
from toque.train.restore import Trained, check_classes, own_splits
from toque.train.run_folder import doubted, outcome
from toque.train.run_folder import kept as answers_kept
from toque.train.run_folder.doubted import Doubted
from toque.train.run_folder.folder import WEIGHTS, read_run
from toque.train.run_folder.inventory import Inventory
from toque.train.tasks.classification import KeptEvaluation

_BLOCK_IMAGES = 5_000  # whose answers are held at once


def splits_of(trained: Trained) -> data.Splits:
    """The images that a run was trained and validated on.

    Raises: ValueError: a run on data of the caller's own, or of other classes than there are now
    """
    if trained.run.data == prepare.OWN:
        raise checks.invalid(
            "toque check", "--run", "a run on a folder, a table or other named data",
            "one on a Dataset of your own", "Ask its model from Python: toque.train.load_model.",
        )  # fmt: skip
    splits = own_splits(trained.run)
    check_classes(trained, splits)
    return splits


@dataclass(frozen=True)
class Kept:
    """What a run folder holds about the images of the run; unset where it holds nothing, or where
    weights or data are others now.

    validation: what the weights answer on the validation images
    training:   the doubts about training images
    """

    validation: Evaluation | None = None
    training: Doubted | None = None


def kept(path: Path, splits: data.Splits) -> Kept:
    """What the folder of a finished run holds about its images as they are now.

    Raises: ValueError: a damaged file
    """
    fingerprint = prepare.data_fingerprint(splits)
    ended = outcome.read(path)
    if (
        ended is None
        or ended.sha256 != durable.sha256(path / WEIGHTS)
        or read_run(path)[1]["data_fingerprint"] != fingerprint
        or Inventory(splits).rewritten(path)
    ):
        return Kept()
    training = doubted.read(path, fingerprint)
    if ended.scores is not None:
        answered = ended.scores.answers
        shown = tasks.kind("classification").metrics
        return Kept(
            KeptEvaluation(ended.loss, ended.metrics, shown, answered.indices, answered), training
        )
    found = answers_kept.read(path, ended.metrics, ended.loss)
    return Kept(found[0] if found is not None and found[1] == fingerprint else None, training)


def doubts(
    path: Path, trained: Trained, source: data.Source, validation: Evaluation, *, show: Show
) -> Doubted:
    """The training images whose targets the weights contradict, each looked at once as in
    validation: without augmentation. They are kept in the run folder.

    Args: validation: what the weights answer on the validation images
    """
    blocks = [
        np.arange(start, min(start + _BLOCK_IMAGES, len(source)))
        for start in range(0, len(source), _BLOCK_IMAGES)
    ]
    found: list[Doubt] = []
    for block in shown(blocks, doing="asking about training images", total=len(blocks), show=show):
        evaluation = restore.answers(trained, data.Part(source, block))
        found += [
            replace(one, index=int(block[one.index]))
            for one in evaluation.doubts(source.classes, validation)
        ]
    found.sort(key=lambda one: -one.lead)
    _, recorded = read_run(path)
    all_of_them = Doubted(
        len(source), len({one.index for one in found}), tuple(found), kinds_of(found),
        validation.cannot_tell(),
    )  # fmt: skip
    doubted.write(path, all_of_them, str(recorded["data_fingerprint"]))
    return all_of_them
