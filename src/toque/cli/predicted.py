"""How toque predict prints answers, and writes masks."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toque import checks
from toque.cli.encoding import holds_every_letter
from toque.train.metrics.shown import percent

if TYPE_CHECKING:
    from toque.deploy.answers import Answer
    from toque.deploy.asking import Unanswered


@dataclass(frozen=True)
class Said:
    """An answer as it is printed; of a mask, its shares and file, without the pixels.

    words:   the answer in short, and what else is said
    columns: of CSV, by name
    tree:    of JSON
    mask:    the file it was written to
    error:   why there is no answer, where there is none
    """

    image: str
    words: Sequence[str]
    columns: dict[str, object]
    tree: dict[str, Any]
    probabilities: Sequence[tuple[str, float]] = ()
    mask: Path | None = None
    error: str = ""


def unanswered(image: Unanswered) -> Said:
    """What is printed of an image that could not be asked about."""
    return Said(image.image, (), {}, image.as_dict(), error=image.reason)


def with_threshold(answer: Answer, threshold: float | None) -> Answer:
    """The answer with the labels of that probability or more, where there may be several."""
    if threshold is None:
        return answer
    from toque.deploy import Prediction

    if isinstance(answer, Prediction) and answer.labels is not None:
        return replace(answer, labels=answer.above(threshold))
    return answer


class MaskWriter:
    """Writes the masks among answers to files of a folder, named as their images."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: set[Path] = set()

    def written(self, number: int, answer: Answer) -> Said:
        """An answer for printing, its mask on disk."""
        from toque.deploy import MaskAnswer

        if not isinstance(answer, MaskAnswer):
            return _said(answer)
        name = "mask" if answer.image == "-" else Path(answer.image).stem
        file = self._folder / f"{name}.png"
        if file in self._files:  # two folders may hold files of one name
            file = self._folder / f"{number:05}-{file.name}"
        self._files.add(file)
        if Path(answer.image).exists() and file.exists() and file.samefile(answer.image):
            raise checks.invalid(
                "predict", "--masks", "another folder than that of the images", self._folder,
                "Masks have the names of their images, and would overwrite them.",
            )  # fmt: skip
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            answer.write(file)
        except OSError as error:
            raise checks.invalid(
                "predict", "--masks", "a folder that can be written",
                f"{self._folder} ({error.strerror or error})", "Choose another.",
            ) from None  # fmt: skip
        shares = ", ".join(
            f"{name} {percent(share)}" for name, share in answer.shares.items() if share
        )
        return Said(
            answer.image, [shares], {"mask": file, **answer.shares},
            {**answer.as_dict(), "mask": str(file)}, mask=file,
        )  # fmt: skip


def _said(answer: Answer) -> Said:
    from toque.deploy import NumbersAnswer, Prediction

    if isinstance(answer, NumbersAnswer):
        words = ", ".join(f"{name} {value:.5g}" for name, value in answer.numbers.items())
        return Said(answer.image, [words], dict(answer.numbers), answer.as_dict())
    assert isinstance(answer, Prediction)
    label = answer.label if answer.labels is None else ", ".join(answer.labels) or "none"
    columns: dict[str, object] = {"label": answer.label, "confidence": answer.confidence}
    if answer.labels is not None:
        columns["labels"] = "|".join(answer.labels)
    return Said(
        answer.image, [label, percent(answer.confidence)],
        {**columns, **answer.probabilities}, answer.as_dict(),
        probabilities=answer.top(len(answer.probabilities)),
    )  # fmt: skip


def print_json(answers: Sequence[Said]) -> None:
    """An array with an object for each image."""
    # Escaped where the output could not hold every letter: it must stay the same text.
    whole = holds_every_letter(sys.stdout)
    print(json.dumps([one.tree for one in answers], indent=1, ensure_ascii=not whole))


def print_csv(answers: Sequence[Said]) -> None:
    """A row for each image, a column for each class, label or number, and last the error, which is
    empty where there is an answer."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    columns = next((list(one.columns) for one in answers if not one.error), [])
    rows.writerow(["image", *columns, "error"])
    for one in answers:
        rows.writerow([one.image, *(one.columns.get(name, "") for name in columns), one.error])


def print_table(answers: Sequence[Said], top: int) -> None:
    """A table for people, of what was answered."""
    answers = [one for one in answers if not one.error]
    if not answers:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shares, masks = bool(answers[0].probabilities), bool(answers[0].mask)
    heads = ["label", "confidence", "next"] if shares else ["answer", *(["mask"] if masks else [])]
    table = Table("image", *heads)
    for one in answers:
        cells = [one.image, *one.words]
        if shares:
            others = one.probabilities[1:top]
            cells.append(", ".join(f"{name} {percent(share)}" for name, share in others))
        if masks:
            cells.append(str(one.mask))
        table.add_row(*map(Text, cells))  # Text: a file called [red].jpg is a name, not a colour
    Console().print(table)
