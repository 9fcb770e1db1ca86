"""What the kept weights of a run contradict among the images that they were trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from toque import checks, data
from toque.data.progress import Show, shown
from toque.train import prepare, restore
from toque.train.measure import Evaluation
from toque.train.metrics import Doubt
from toque.train.metrics.doubts import kinds_of
from toque.train.restore import Trained, own_splits
from toque.train.run_folder import doubted
from toque.train.run_folder.doubted import Doubted
from toque.train.run_folder.folder import read_run

_BLOCK_IMAGES = 5_000  # whose answers are held at once


def images_of(trained: Trained) -> data.Source:
    """The images that a run was trained on.

    Raises: ValueError: a run on data of the caller's own
    """
    if trained.run.data == prepare.OWN:
        raise checks.invalid(
            "toque check", "--run", "a run on a folder, a table or other named data",
            "one on a Dataset of your own", "Ask its model from Python: toque.train.load_model.",
        )  # fmt: skip
    return own_splits(trained.run).train


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
