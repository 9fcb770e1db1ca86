"""Labels, numbers and masks that a finished run contradicts, for toque check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from toque import data
from toque.data import Finding, Item
from toque.data.progress import Show
from toque.train import restore
from toque.train.metrics import Doubt
from toque.train.metrics.doubts import in_words, kinds_of
from toque.train.restore import Trained
from toque.train.studies import learnt

_MOST = 200
_MANY = 0.2  # of the images: more of them than labels are usually wrong

Contradicted = tuple[Finding, Callable[[Item], torch.Tensor]]
"""A finding, and what reads its images."""


def contradicted(path: str | Path, *, show: Show = "auto") -> list[Contradicted]:
    """The images of a run whose targets its kept weights contradict: of its validation part those
    contradicted most surely, of its training part those that it did not take on while it learnt.

    The answers on validation images are those that the run kept, where these are of the same
    weights and data. What the weights contradict among the training images is kept in the run
    folder, where `toque report` and the next call find it.

    Args:    show: how to tell how far that is
    Raises:  FileNotFoundError: no run folder, or a run that has not finished
             ValueError: a model whose outputs do not fit the task, a run on data of the caller's
             own, or of other classes than there are now
    """
    trained = restore.load_model(path)
    splits = learnt.splits_of(trained)
    train_images, validation_images = splits.train, splits.val
    known = learnt.kept(Path(path), splits)
    validation = known.validation or restore.answers(trained, validation_images)
    of_validation = validation.doubts(validation_images.classes)
    of_training = known.training or learnt.doubts(
        Path(path), trained, train_images, validation, show=show
    )
    in_doubt = len({one.index for one in of_validation})
    cannot_tell = validation.cannot_tell()
    findings = [
        _finding(
            f"validation of {path}", validation_images, trained, of_validation,
            f"Validation images of {path} {trained.task.doubted}: {in_doubt} of "
            f"{len(validation)}{in_words(kinds_of(of_validation))}. "
            f"{_how_to_look(in_doubt, len(validation))}. {cannot_tell}".strip(),
        ),
        _finding(
            f"training of {path}", train_images, trained, of_training.doubts,
            f"Training images of {path} {trained.task.doubted_learnt}: {of_training.number} of "
            f"{of_training.images}{in_words(of_training.kinds)}. "
            f"{_how_to_look(of_training.number, of_training.images)}; wrong ones that were learnt "
            f"by heart do not show. {cannot_tell}".strip(),
        ),
    ]  # fmt: skip
    return [one for one in findings if one[0].groups or cannot_tell]


def _how_to_look(doubted: int, images: int) -> str:
    """What to make of a list of that length."""
    if doubted > _MANY * images:
        return "So many are mostly what the model cannot do: train it longer, then look again"
    return "Look at them"


def _finding(
    part: str, source: data.Source, trained: Trained, doubts: Sequence[Doubt], says: str
) -> Contradicted:
    shown = doubts[:_MOST]
    groups = tuple((Item(part, one.index, source.name(one.index), one.label),) for one in shown)

    def picture(item: Item) -> torch.Tensor:
        pixels = trained.task.labelled(source, item.index, trained.pipeline)
        return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1)

    return Finding("suspects", False, says, groups, tuple(one.answer for one in shown)), picture
