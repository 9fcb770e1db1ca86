"""export: a finished run -> one file, kept only if it answers as the run does."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from torch import nn

from toque import checks, durable, train
from toque.deploy import compiled_file, deployed, onnx_file, quantised, samples, torch_file
from toque.deploy.answering import Answers
from toque.deploy.card import card_path, card_text
from toque.deploy.details import FileDetails
from toque.deploy.load import SUFFIXES, outputs_of_run, temperature_of_run
from toque.deploy.parity import EXACT, HALF, AnyParity, Tolerance, measure, network_answers
from toque.deploy.predictor import Network, Pixels
from toque.deploy.preprocess import Preprocess
from toque.deploy.program import Program, noise, trace
from toque.random import Key
from toque.train import restore
from toque.train.run_folder.folder import WEIGHTS, read_run
from toque.version import VERSION

FORMATS = tuple(suffix[1:] for suffix in SUFFIXES)
Precision = Literal["float32", "half", "int8"]


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
    kind, file = _kind_and_file(Path(run), to, out)
    _check_choices(kind, size, precision, max_loss)
    trained = train.load_model(run, model=model)
    temperature = _temperature(Path(run), calibrate)
    labelled = samples.labelled(restore.images_of(trained, data_path), size)
    details = _details(Path(run), trained, size, precision, temperature, calibrate)
    network = Network(
        trained.model, trained.pipeline, outputs=outputs_of_run(trained),
        temperature=(temperature or 1.0) if calibrate else 1.0,
    )  # fmt: skip
    calibration = samples.calibration(trained, data_path, size) if precision == "int8" else ()
    # The suffix stays, by which the loaders tell the formats apart.
    aside = file.with_name(f".writing-{file.name}")
    try:
        _make_folder(file, out)
        answers, folded = _write(kind, network, details, aside, calibration)
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


def _write(
    kind: str,
    network: Network,
    details: FileDetails,
    file: Path,
    calibration: Sequence[Pixels] = (),
) -> tuple[Answers, str]:
    """Write a file and read it back: its answers, and what was folded."""
    half = details.precision == "half"
    if kind == "safetensors":
        torch_file.write_weights(network.module, details, file, half=half)
        back = torch_file.load_weights(file, model=network.module).network
        assert back is not None
        return lambda images: network_answers(back, images), "nothing: the model is built by name"
    example = noise(2, 37, 53, details.in_channels).permute(0, 3, 1, 2)
    module, folded = deployed.fused(
        network.module, network.pipeline(example, key=Key(0, 0, np.arange(2)))
    )
    if half:
        module = deployed.halved(module)
    preprocess = Preprocess(network.pipeline, details.in_channels)
    program = Program(preprocess, module, network.outputs, network.temperature).eval()
    exported = trace(program, details.in_channels, details.size)
    if kind == "pt2":
        torch_file.write_graph(exported, details, file)
        return torch_file.open_graph(file)[0], folded
    if kind == "aoti":
        compiled_file.write(exported, details, file)
        return compiled_file.open_file(file, trust=True)[0], folded
    if details.precision == "int8":
        whole = file.with_name(f"{file.stem}-float32.onnx")
        try:
            onnx_file.write(exported, details, whole)
            quantised.quantise(whole, file, calibration)
        finally:
            whole.unlink(missing_ok=True)
    else:
        onnx_file.write(exported, details, file)
    return onnx_file.open_file(file)[0], folded


def _check_choices(
    kind: str, size: tuple[int, int] | None, precision: str, max_loss: float
) -> None:
    known = get_args(Precision)
    if precision not in known:
        raise checks.invalid(
            "export", "the precision", f"one of {', '.join(known)}", precision,
            checks.nearest(precision, known),
        )  # fmt: skip
    if precision == "int8" and kind != "onnx":
        raise checks.invalid(
            "export", "--int8", "written as onnx", kind, "Leave --to out, or leave --int8 out."
        )
    if size is not None and kind == "safetensors":
        raise checks.invalid(
            "export", "--size", "for a program: onnx, pt2 or aoti", f"{kind}, the weights alone",
            "Leave one out.",
        )  # fmt: skip
    if size is not None and not (len(size) == 2 and min(size) >= 1):
        raise checks.invalid(
            "export", "--size", "a height and a width in pixels", size, "Write --size 480x640."
        )
    if not 0 <= max_loss <= 1:
        raise checks.invalid(
            "export", "max_loss", "a share of accuracy in 0 .. 1", max_loss, "0.01 is one point."
        )


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


def _in_words(trained: restore.Trained) -> str:
    return " -> ".join(" ".join(str(step).split()) for step in trained.pipeline.transforms)
