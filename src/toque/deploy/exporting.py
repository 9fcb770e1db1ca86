"""export: a finished run -> one file, kept only if it answers as the run does."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from toque import checks, data, durable, train
from toque.deploy import onnx_file, torch_file
from toque.deploy.answering import Answers
from toque.deploy.card import card_path, card_text
from toque.deploy.details import FileDetails
from toque.deploy.load import SUFFIXES
from toque.deploy.parity import Parity, measure, network_answers
from toque.deploy.predictor import Network, Pixels
from toque.deploy.preprocess import Preprocess
from toque.deploy.program import Program, trace
from toque.train import restore
from toque.train.folder import WEIGHTS, read_run
from toque.version import VERSION

FORMATS = tuple(suffix[1:] for suffix in SUFFIXES)
_MOST_IMAGES = 256


@dataclass(frozen=True)
class Exported:
    """An exported file, its model card, and how its answers compare with the run's."""

    file: Path
    card: Path
    parity: Parity


class _Labelled(NamedTuple):
    images: Sequence[Pixels]
    targets: Sequence[int]


def export(
    run: str | Path,
    *,
    to: str | None = None,
    out: str | Path | None = None,
    data_path: str | None = None,
) -> Exported:
    """Write a finished run as one file that takes raw images, and a model card beside it.

    The file is written aside, read back by what will run it (ONNX Runtime, torch.export, or toque
    for the weights alone), asked about validation images and hard cases, and renamed only when its
    answers are the run's.

    Args:    to: onnx, pt2 or safetensors; by the name of `out` if unset, else onnx
             out: the file; RUN/export/model.onnx (.pt2, .safetensors) if unset
             data_path: labelled images to compare on; the run's validation images if unset, of
             either up to 256, spread evenly
    Raises:  FileNotFoundError: no run, or one that has not finished
             ValueError: an unknown format; a model that cannot be exported, or whose file answers
             otherwise; nothing is left behind then
             ImportError: a package of the extra `export` is not installed, for onnx
    Example: >>> export("runs/flowers", to="onnx", out="flowers.onnx").parity.probability
    """
    kind, file = _kind_and_file(Path(run), to, out)
    trained = train.load_model(run)
    settings = trained.run
    assert settings.model is not None and settings.image_size is not None, "a run has them resolved"
    labelled = _labelled(restore.images_of(trained, data_path))
    details = FileDetails(
        version=VERSION,
        model=settings.model,
        classes=trained.classes,
        in_channels=trained.channels,
        image_size=settings.image_size,
        preprocessing=_in_words(trained),
        weights_sha256=durable.sha256(Path(run) / WEIGHTS),
    )
    network = Network(trained.model, trained.pipeline)
    # The suffix stays, by which the loaders tell the formats apart.
    aside = file.with_name(f".writing-{file.name}")
    try:
        _make_folder(file, out)
        answers = _write(kind, network, details, aside)
        parity = measure(network, answers, *labelled, channels=trained.channels)
        if parity.problem:
            raise checks.invalid(
                "export", f"the {kind} file", "as right as the run", parity.problem,
                "It was not kept. Try another format with --to.",
            )  # fmt: skip
        _, environment = read_run(Path(run))
        card = card_path(file)
        text = card_text(file, details, parity, trained.run, environment)
        durable.sync(aside)
        aside.replace(file)
        durable.sync(file.parent)
        durable.write(card, text)
    except OSError as error:
        if isinstance(error, checks.UserMistake):
            raise
        raise checks.invalid(
            "export", "--out", "a file that can be written",
            f"{file} ({error.strerror or error})", "Choose another, or make room there.",
        ) from None  # fmt: skip
    finally:
        _tidy(aside)
    return Exported(file, card, parity)


def _make_folder(file: Path, out: str | Path | None) -> None:
    if out is None:
        file.parent.mkdir(exist_ok=True)
    elif not file.parent.is_dir():
        raise checks.MissingFile(
            f"export: --out must be in a folder that exists; {file.parent} does not. Make it first."
        )


def _tidy(aside: Path) -> None:
    """Leave nothing of an export that failed."""
    with contextlib.suppress(OSError):
        aside.unlink(missing_ok=True)
        if aside.parent.name == "export":
            aside.parent.rmdir()  # only where it is empty


def _write(kind: str, network: Network, details: FileDetails, file: Path) -> Answers:
    """Write a file, and read it back."""
    if kind == "safetensors":
        torch_file.write_weights(network.module, details, file)
        back = torch_file.load_weights(file).network
        assert back is not None
        return lambda images: network_answers(back, images)
    preprocess = Preprocess(network.pipeline, details.in_channels)
    exported = trace(Program(preprocess, network.module).eval(), details.in_channels)
    if kind == "pt2":
        torch_file.write_graph(exported, details, file)
        return torch_file.open_graph(file)[0]
    onnx_file.write(exported, details, file)
    return onnx_file.open_file(file)[0]


def _kind_and_file(run: Path, to: str | None, out: str | Path | None) -> tuple[str, Path]:
    if to is not None and to not in FORMATS:
        raise checks.invalid(
            "export", "--to", f"one of {', '.join(FORMATS)}", to, checks.nearest(to, FORMATS)
        )
    if out is None:
        kind = to or "onnx"
        return kind, run / "export" / f"model.{kind}"
    file = Path(out)
    kind = to or file.suffix[1:]
    if file.suffix != f".{kind}" or kind not in FORMATS:
        endings = f".{to}" if to else ", ".join(SUFFIXES)
        raise checks.invalid(
            "export", "--out", f"a file that ends in {endings}", out,
            f"Name it {file.with_suffix(f'.{to}') if to else file.with_suffix('.onnx')}.",
        )  # fmt: skip
    if file.is_dir():
        raise checks.invalid("export", "--out", "a file", f"the folder {out}", "Name a file in it.")
    return kind, file


def _labelled(source: data.Source) -> _Labelled:
    count = min(len(source), _MOST_IMAGES)
    numbers = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()
    images = [source.read(number).permute(1, 2, 0).numpy() for number in numbers]
    return _Labelled(images, [int(source.labels[number]) for number in numbers])


def _in_words(trained: restore.Trained) -> str:
    return " -> ".join(" ".join(str(step).split()) for step in trained.pipeline.transforms)
