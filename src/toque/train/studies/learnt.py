"""What the kept weights of a run answer on the images that they were trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toque import checks, data
from toque.data.progress import Show, shown
from toque.train import prepare, tasks
from toque.train.measure import measure
from toque.train.metrics import answers as answer_files
from toque.train.metrics.answers import Answers, answers_of, joined
from toque.train.restore import Trained, own_splits
from toque.train.run_folder import environment
from toque.train.run_folder.folder import read_run

_BLOCK_IMAGES = 5_000  # whose probabilities of every class are held at once


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


def answer(path: Path, trained: Trained, source: data.Source, *, show: Show = "auto") -> Answers:
    """The answers of a classifier on its training images, prepared as in validation: without
    augmentation, each once. They are kept in the run folder.

    Raises: ValueError: a model whose outputs name no classes
    """
    device = prepare.pick_device(trained.run.device)
    model = trained.model.to(device)
    loss = trained.task.loss(trained.task.loss_name, 0.0)
    blocks = [
        np.arange(start, min(start + _BLOCK_IMAGES, len(source)))
        for start in range(0, len(source), _BLOCK_IMAGES)
    ]
    found = []
    for block in shown(blocks, doing="asking about training images", total=len(blocks), show=show):
        batches = data.evaluation_batches(
            data.Part(source, block), trained.pipeline, batch_size=trained.run.batch_size,
            threads=environment.num_cores(),
        )  # fmt: skip
        evaluation = measure(model, batches, trained.task, loss, device)
        if not isinstance(evaluation, tasks.ClassEvaluation) or evaluation.accuracy is None:
            raise checks.invalid(
                "toque check", "--run", "a finished run of a classifier", trained.task.name,
                "Look at its report: it shows what is answered worst.",
            )  # fmt: skip
        indices = block[evaluation.indices]
        found.append(answers_of(indices, evaluation.targets, evaluation.probabilities))
    answers = joined(found)
    _, recorded = read_run(path)
    answer_files.write(path, answers, str(recorded["data_fingerprint"]), answer_files.LEARNT)
    return answers
