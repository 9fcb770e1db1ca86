"""Labels that a finished run contradicts, for toque check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from toque import checks
from toque.data import Finding, Item
from toque.train import restore
from toque.train.metrics import answers as answer_files
from toque.train.metrics.suspects import suspects

_MOST = 200


def contradicted(path: str | Path) -> tuple[Finding | None, Callable[[Item], torch.Tensor]]:
    """The validation images of a run whose labels its answers contradict most surely.

    Returns: the finding, or None where no label is contradicted; and what reads its images
    Raises:  FileNotFoundError: no run folder, or a run that has not finished
             ValueError: a run without classes, or of other data than there is now
    """
    trained = restore.load_model(path)
    read = answer_files.read(Path(path))
    if read is None:
        raise checks.invalid(
            "toque check", "--run", "a finished run of a classifier", f"{path}, without answers",
            f"Measure it first: toque evaluate {path}.",
        )  # fmt: skip
    answers, _ = read
    source = restore.images_of(trained, None)
    if len(answers) != len(source):
        raise checks.invalid(
            "toque check", "the data of --run", f"the {len(answers)} validation images it measured",
            len(source), f"Measure it again: toque evaluate {path}.",
        )  # fmt: skip
    found = suspects(answers)

    def image(item: Item) -> torch.Tensor:
        return source.read(item.index)

    if not found:
        return None, image
    shown = found[:_MOST]
    indices = [int(answers.indices[one.row]) for one in shown]
    groups = tuple(
        (Item(f"validation of {path}", index, source.name(index), trained.classes[one.label]),)
        for index, one in zip(indices, shown, strict=True)
    )
    remarks = tuple(
        f"{trained.classes[one.answer]} ({one.answer_probability:.0%}, the label "
        f"{one.label_probability:.1%})"
        for one in shown
    )
    some = f"{len(found)} label{'s' if len(found) != 1 else ''} of the validation part"
    says = f"{some} that {path} contradicts as surely as it agrees with others. Look at them."
    return Finding("suspects", False, says, groups, remarks), image
