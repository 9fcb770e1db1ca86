"""Labels that a finished run contradicts, for toque check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from toque import checks, data
from toque.data import Finding, Item
from toque.data.progress import Show
from toque.train import restore
from toque.train.metrics import answers as answer_files
from toque.train.metrics.answers import Answers
from toque.train.metrics.suspects import Suspect, suspects, unlearnt
from toque.train.studies import learnt

_MOST = 200

Contradicted = tuple[Finding, Callable[[Item], torch.Tensor]]
"""A finding, and what reads its images."""


def contradicted(path: str | Path, *, show: Show = "auto") -> list[Contradicted]:
    """The images of a run whose labels its kept weights contradict: of its validation part those
    contradicted most surely, of its training part those that it did not take on while it learnt.

    What the weights answer on the training images is asked here, and kept in the run folder, where
    `toque report` finds it.

    Args:    show: how to tell how far that is
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
    says = (
        f"{_labels(found)} of the validation part that {path} contradicts as surely as it agrees "
        "with others. Look at them."
    )
    findings = [_finding(f"validation of {path}", says, source, trained.classes, answers, found)]
    train = learnt.images_of(trained)
    answers = learnt.answer(Path(path), trained, train, show=show)
    found = unlearnt(answers)
    says = (
        f"{_labels(found)} of the training part that {path} contradicts although it learnt from "
        "them. Look at them; wrong ones that were learnt by heart do not show."
    )
    return [
        *(one for one in findings if one[0].groups),
        *([_finding(f"training of {path}", says, train, trained.classes, answers, found)]
          if found else []),
    ]  # fmt: skip


def _labels(found: Sequence[Suspect]) -> str:
    return f"{len(found)} label{'s' if len(found) != 1 else ''}"


def _finding(
    part: str, says: str, source: data.Source, classes: Sequence[str], answers: Answers,
    found: Sequence[Suspect],
) -> Contradicted:  # fmt: skip
    shown = found[:_MOST]
    indices = [int(answers.indices[one.row]) for one in shown]
    groups = tuple(
        (Item(part, index, source.name(index), classes[one.label]),)
        for index, one in zip(indices, shown, strict=True)
    )
    remarks = tuple(
        f"{_named(classes, one.answer)} ({one.answer_probability:.0%}, the label "
        f"{one.label_probability:.1%})"
        for one in shown
    )
    return Finding("suspects", False, says, groups, remarks), lambda item: source.read(item.index)


def _named(classes: Sequence[str], number: int) -> str:
    return classes[number] if number < len(classes) else f"output {number}"
