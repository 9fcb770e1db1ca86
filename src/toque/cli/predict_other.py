"""toque predict for runs on labels, numbers or masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toque.deploy.answers import Answer


def is_for(model: str) -> bool:
    """Whether this is a run on labels, numbers or masks."""
    from toque.train.run_folder.folder import SETTINGS, read_run

    if not (Path(model) / SETTINGS).is_file():
        return False
    return read_run(Path(model))[0].task not in ("auto", "classification")


def show(
    run: str, images: Sequence[str], threshold: float, masks: Path | None, as_json: bool
) -> None:
    """Print what a run says of images; write its masks as PNG."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from toque.deploy.answers import MaskAnswer, answer

    answers = answer(run, images)
    files = _write_masks([one for one in answers if isinstance(one, MaskAnswer)], masks)
    if as_json:
        trees = [one.as_dict() for one in answers]
        for tree, file in zip(trees, files, strict=False):
            tree["mask"] = str(file)
        print(json.dumps(trees, indent=1, ensure_ascii=False))
        return
    table = Table("image", "answer", *(["mask"] if files else []))
    for number, one in enumerate(answers):
        cells = [one.image, _in_words(one, threshold), *map(str, files[number : number + 1])]
        table.add_row(*map(Text, cells))  # Text: a file called [red].jpg is a name, not a colour
    Console().print(table)


def _in_words(one: Answer, threshold: float) -> str:
    from toque.deploy.answers import LabelsAnswer, NumbersAnswer

    if isinstance(one, LabelsAnswer):
        above = [f"{name} {100 * one.probabilities[name]:.1f} %" for name in one.above(threshold)]
        return ", ".join(above) or "none"
    if isinstance(one, NumbersAnswer):
        return ", ".join(f"{name} {value:.5g}" for name, value in one.numbers.items())
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in one.shares.items() if share)


def _write_masks(answers: Sequence[object], folder: Path | None) -> list[Path]:
    from toque import checks
    from toque.deploy.answers import MaskAnswer

    folder = folder or Path("masks")
    files: list[Path] = []
    for number, one in enumerate(answers):
        assert isinstance(one, MaskAnswer)
        file = folder / f"{Path(one.image).stem}.png"
        if file in files:  # two folders may hold files of one name
            file = folder / f"{number:05}-{file.name}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            one.write(file)
        except OSError as error:
            raise checks.invalid(
                "predict", "--masks", "a folder that can be written",
                f"{folder} ({error.strerror or error})", "Choose another.",
            ) from None  # fmt: skip
        files.append(file)
    return files
