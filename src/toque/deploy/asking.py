"""Asking a model about files, folders, or what comes on standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from toque import checks, data
from toque.data import strays
from toque.deploy.answers import Answer
from toque.deploy.load import load
from toque.deploy.predictor import Pixels, Predictor, both_ways, calibrated
from toque.threads import threads_beside

STANDARD_INPUT = "-"
_BATCH_IMAGES = 16
_MOST_PATHS_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Unanswered:
    """An image that the model could not be asked about.

    mistake: what is wrong with it
    """

    image: str
    mistake: checks.UserMistake

    @property
    def reason(self) -> str:
        """Why, in a few words where there are such."""
        if isinstance(self.mistake, data.UnreadableImage) and self.mistake.reason:
            return self.mistake.reason
        if Path(self.image).is_symlink() and not Path(self.image).exists():
            return "a link to a file that is not there"
        return str(self.mistake)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `toque predict --json` prints them."""
        return {"image": self.image, "error": self.reason}


Progress = Callable[[int, int], None]
"""Told, after each image, how many are done and how many there are."""


def opened(
    source: str | Path,
    *,
    device: str = "cpu",
    trust: bool = False,
    mirrored: bool = False,
    calibrate: bool = False,
) -> Predictor:
    """A predictor that answers as asked; arguments as of `predict.predict`."""
    model = load(source, device=device, trust=trust)
    if calibrate:
        model = calibrated(model)
    return both_ways(model) if mirrored else model


def each_answer(
    model: Predictor, images: Sequence[str | Path], *, progress: Progress | None = None
) -> Iterator[Answer]:
    """What a model says of each file, as it comes: no more than a batch is held at once.

    Raises: as `predict.predict`
    """
    for found in each_tried(model, images, progress=progress):
        if isinstance(found, Unanswered):
            raise found.mistake
        yield found


def each_tried(
    model: Predictor,
    images: Sequence[str | Path],
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Iterator[Answer | Unanswered]:
    """As `each_answer`, but an image that cannot be used does not stop the others.

    Args:   say: told, in a sentence, which files of a folder are passed over
    Raises: as `predict.predict`, for what is no matter of one image: no such file or folder among
            `images`, a folder without images
    """
    files = list(_named(images, say))
    done = 0
    with threads_beside(torch.get_num_threads(), "decode") as threads:
        for start in range(0, len(files), _BATCH_IMAGES):
            for found in _of_batch(model, files[start : start + _BATCH_IMAGES], threads):
                yield found
                done += 1
                if progress is not None:
                    progress(done, len(files))


def _of_batch(
    model: Predictor, batch: Sequence[Path | bytes | Unanswered], threads: Executor
) -> Iterator[Answer | Unanswered]:
    def pixels(file: Path | bytes | Unanswered) -> Pixels | Unanswered:
        if isinstance(file, Unanswered):
            return file
        try:
            return model.pixels(file)
        except checks.UserMistake as mistake:
            return Unanswered(_name(file), mistake)

    opened = list(threads.map(pixels, batch))
    good = [
        (_name(file), one)
        for file, one in zip(batch, opened, strict=True)
        if not isinstance(one, Unanswered)
    ]
    answers = model.answers(
        [one for _, one in good], names=[name for name, _ in good], batch_size=_BATCH_IMAGES
    )
    for one in opened:
        yield one if isinstance(one, Unanswered) else next(answers)


def _name(file: Path | bytes | Unanswered) -> str:
    return STANDARD_INPUT if isinstance(file, bytes) else str(file)


def _named(
    images: Iterable[str | Path], say: Callable[[str], None] | None
) -> Iterator[Path | bytes | Unanswered]:
    for name in images:
        if str(name) != STANDARD_INPUT:
            yield from files_of([name], say)
            continue
        content = sys.stdin.buffer.read()
        paths = _paths(content)
        if paths is None:
            yield content
            continue
        for path in paths:
            try:
                yield from files_of([path], say)
            except checks.UserMistake as mistake:
                yield Unanswered(path, mistake)


def _paths(content: bytes) -> list[str] | None:
    """The paths in what standard input gave, one a line; None if it is an image.

    No image format that is decoded is text: all have bytes that UTF-8 has not, or zeros.
    """
    if len(content) <= _MOST_PATHS_BYTES and b"\0" not in content:
        try:
            lines = [line.strip() for line in content.decode("utf-8").splitlines()]
        except UnicodeDecodeError:
            return None
        if paths := [line for line in lines if line]:
            return paths
    if not content.strip():
        raise checks.invalid(
            "predict", "-", "an image on standard input, or paths, one a line", "nothing",
            "Send one, as in: toque predict RUN - < garden.jpg",
        )  # fmt: skip
    return None


def files_of(
    images: Iterable[str | Path], say: Callable[[str], None] | None = None
) -> Iterator[Path]:
    """The files that a caller named, those in folders in the order of their names; of a folder
    those that are images by their names, while a file that is named itself is taken as one."""
    for name in images:
        path = Path(name)
        if path.is_dir():
            inside, others = data.images_below(path)
            if not inside:
                but = f" but other files: {strays.counted(others)}" if others else ""
                raise checks.MissingFile(
                    f"predict: {path} must hold images; there are none{but}. Give image files."
                )
            if say is not None:
                for note in strays.notes(others):
                    say(note)
            yield from (path / name for name in inside)
        elif path.is_file():
            yield path
        else:
            near = [str(found) for found in path.parent.iterdir()] if path.parent.is_dir() else []
            hint = checks.nearest(str(path), near)
            hint = hint if "mean" in hint else f"Check the path; this is {Path.cwd()}."
            raise checks.MissingFile(
                f"predict: {path} must be an image file; there is none. {hint}"
            )
