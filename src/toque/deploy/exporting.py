"""export: a finished run -> one file, kept only if it answers as the run does."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from toque import checks, durable, train
from toque.deploy import formats, samples
from toque.deploy.card import card_path, card_text
from toque.deploy.details import FileDetails
from toque.deploy.formats import Precision
from toque.deploy.load import outputs_of_run, temperature_of_run, thresholds_of_run
from toque.deploy.parity import EXACT, HALF, AnyParity, Tolerance, measure
from toque.deploy.predictor import Network
from toque.train import restore
from toque.train.run_folder.folder import WEIGHTS, read_run
from toque.version import VERSION


@dataclass(frozen=True)
class Exported:
    """An exported file, its model card, and how its answers compare with the run's: a Parity, of
    numbers a NumbersParity, of masks a MasksParity.

    folded: what fusing the network's layers did, in words
    """

    file: Path
    card: Path
    parity: AnyParity
    folded: str


def export(
    run: str | Path,
    *,
    to: str | None = None,
    out: str | Path | None = None,
    data_path: str | None = None,
    size: tuple[int, int] | None = None,
    precision: Precision = "float32",
    max_loss: float = 0.01,
    calibrate: bool = False,
    model: nn.Module | None = None,
) -> Exported:
    """Write a finished run as one file that takes raw images, and a model card beside it.

    The file is written aside, read back by what will run it (ONNX Runtime, torch.export, or toque
    for the weights alone), asked about validation images and hard cases, and renamed only when its
    answers are the run's. BatchNorm and parallel branches are folded first, except for the weights
    alone; what is exported is what validation measured: without dropout, and with the averaged
    weights where the run kept an average.

    Args:    to: onnx, pt2, aoti or safetensors; by the name of `out` if unset, else onnx
             out: the file; RUN/export/model.onnx (.pt2, .aoti, .safetensors) if unset
             data_path: labelled images to compare on; the run's validation images if unset, of
             either up to 256, spread evenly
             size: height and width in pixels of the only images it shall take; any if unset
             precision: half stores matrices and kernels as float16 and computes in float32; int8
             (onnx alone) computes on whole numbers, calibrated on up to 128 training images
             max_loss: of accuracy or mean IoU that int8 may cost, as a share: 0.01 is one point; of
             numbers, the share by which the mean absolute error may grow
             calibrate: divide the logits by the run's temperature, in the file
             model: the module, for a run on a module of your own
    Raises:  FileNotFoundError: no run, or one that has not finished
             ValueError: an unknown format; a model that cannot be exported, or whose file answers
             otherwise; nothing is left behind then
             ImportError: a package of the extra `export` is not installed, for onnx
    Example: >>> export("runs/flowers", to="onnx", out="flowers.onnx").parity.probability
    """
    kind, file = formats.kind_and_file(Path(run), to, out)
    formats.check_choices(kind, size, precision, max_loss)
    trained = train.load_model(run, model=model)
    temperature = _temperature(Path(run), calibrate)
    labelled = samples.labelled(restore.images_of(trained, data_path), size)
    details = _details(Path(run), trained, size, precision, temperature, calibrate)
    network = Network(
        trained.model, trained.pipeline, outputs=outputs_of_run(trained, Path(run)),
        temperature=(temperature or 1.0) if calibrate else 1.0,
    )  # fmt: skip
    calibration = samples.calibration(trained, data_path, size) if precision == "int8" else ()
    # The suffix stays, by which the loaders tell the formats apart.
    aside = file.with_name(f".writing-{file.name}")
    try:
        _make_folder(file, out)
        answers, folded = formats.write(kind, network, details, aside, calibration)
        parity = measure(
            network, answers, *labelled, channels=trained.channels, size=size,
            tolerance=_tolerance(precision, max_loss),
        )  # fmt: skip
        if parity.problem:
            raise checks.invalid(
                "export", f"the {kind} file", "as right as the run", parity.problem,
                _advice(precision),
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
    return Exported(file, card, parity, folded)


def _temperature(run: Path, calibrate: bool) -> float | None:
    """The temperature of the run, which a calibrated file must have."""
    temperature = temperature_of_run(run)
    if calibrate and temperature is None:
        raise checks.invalid(
            "export", "--calibrated", "for a run that knows its temperature", run,
            "Runs of classification write it to result.json when they end.",
        )  # fmt: skip
    return temperature


def _details(
    run: Path,
    trained: restore.Trained,
    size: tuple[int, int] | None,
    precision: Precision,
    temperature: float | None,
    calibrate: bool,
) -> FileDetails:
    """What the file says about itself."""
    settings, about = trained.run, trained.task.details()
    assert settings.model is not None and settings.image_size is not None, "a run has them resolved"
    return FileDetails(
        version=VERSION,
        model=settings.model,
        classes=trained.classes,
        in_channels=trained.channels,
        image_size=settings.image_size,
        preprocessing=_in_words(trained),
        weights_sha256=durable.sha256(run / WEIGHTS),
        size=size,
        precision=precision,
        task=trained.task.name,
        temperature=temperature,
        calibrated=calibrate,
        mean=tuple(about.get("mean", ())),
        std=tuple(about.get("std", ())),
        thresholds=thresholds_of_run(run),
    )


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


def _tolerance(precision: str, max_loss: float) -> Tolerance:
    if precision == "int8":
        return Tolerance(1.0, EXACT.tie, max_loss)
    return HALF if precision == "half" else EXACT


def _advice(precision: str) -> str:
    if precision == "int8":
        return "It was not kept. Leave --int8 out, or allow more with --max-loss."
    if precision == "half":
        return "It was not kept. Leave --half out."
    return "It was not kept. Try another format with --to."


def _in_words(trained: restore.Trained) -> str:
    return " -> ".join(" ".join(str(step).split()) for step in trained.pipeline.transforms)
