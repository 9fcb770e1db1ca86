"""What the kept weights of a run contradict among the images that they were trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from toque import checks, data
from toque.data.progress import Show, shown
from toque.train import prepare
from toque.train.measure import Evaluation, measure
from toque.train.metrics import Doubt
from toque.train.restore import Trained, own_splits
from toque.train.run_folder import doubted, environment
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
        evaluation = answers(trained, data.Part(source, block))
        found += [
            replace(one, index=int(block[one.index]))
            for one in evaluation.doubts(source.classes, validation)
        ]
    found.sort(key=lambda one: -one.lead)
    _, recorded = read_run(path)
    all_of_them = Doubted(len(source), len(found), tuple(found))
    doubted.write(path, all_of_them, str(recorded["data_fingerprint"]))
    return all_of_them


def answers(trained: Trained, source: data.Source) -> Evaluation:
    """What the weights answer on some images, each once."""
    device = prepare.pick_device(trained.run.device)
    batches = data.evaluation_batches(
        source, trained.pipeline, batch_size=trained.run.batch_size,
        threads=environment.num_cores(),
    )  # fmt: skip
    loss = trained.task.loss(trained.task.loss_name, 0.0)
    return measure(trained.model.to(device), batches, trained.task, loss, device)
