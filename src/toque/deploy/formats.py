"""The formats of an exported file: which there are, what each can be, and how one is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from toque import checks
from toque.deploy import compiled_file, deployed, onnx_file, quantised, torch_file
from toque.deploy.answering import Answers
from toque.deploy.details import FileDetails
from toque.deploy.load import SUFFIXES
from toque.deploy.parity import network_answers
from toque.deploy.predictor import Network, Pixels
from toque.deploy.preprocess import Preprocess
from toque.deploy.program import Program, noise, trace
from toque.random import Key

FORMATS = tuple(suffix[1:] for suffix in SUFFIXES)
Precision = Literal["float32", "half", "int8"]


def kind_and_file(run: Path, to: str | None, out: str | Path | None) -> tuple[str, Path]:
    """The format asked for, and where the file goes.

    Raises: ValueError: an unknown format, a file whose name ends otherwise
    """
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


def check_choices(kind: str, size: tuple[int, int] | None, precision: str, max_loss: float) -> None:
    """Raise ValueError where a format cannot be what is asked."""
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


def write(
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
