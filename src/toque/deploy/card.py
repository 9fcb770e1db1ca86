"""The model card beside an exported file: what it is, how good it is, and what is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toque.deploy.details import CLASSIFICATION, MULTILABEL, REGRESSION, SEGMENTATION, FileDetails
from toque.deploy.outputs import outputs_of
from toque.deploy.parity import AnyParity
from toque.train.run import Run


def card_path(file: Path) -> Path:
    """README.md beside the file; FILE.md where a README.md of something else stands."""
    readme = file.with_name("README.md")
    if not readme.exists() or readme.read_text(errors="replace").startswith(_mark(file)):
        return readme
    return file.with_name(f"{file.name}.md")


def card_text(
    file: Path, details: FileDetails, parity: AnyParity, run: Run, environment: dict[str, Any]
) -> str:
    """The card as Markdown."""
    classes = ", ".join(details.classes[:50]) + (" and more" if len(details.classes) > 50 else "")
    kind, limits = _KINDS[details.task]
    score = parity.score[0].upper() + parity.score[1:]
    return f"""{_mark(file)}
# {file.name}

{kind.format(len(details.classes))}: {classes}.

## How to ask it

    {how_to_ask(file.name)}

{_interface(file, details)}

## Data

Trained on {environment.get("train_images", "an unknown number of")} images of
`{Path(run.data).name}`, validated on
{environment.get("val_images", "an unknown number of")} others.
Model {details.model}, {run.epochs:g} epochs, seed {run.seed}, toque {details.version};
weights sha256 {details.weights_sha256}. {_precision(details)}

## Metrics

- {score} on {parity.images} labelled images, asked of this file.
- Against the run it comes from: {parity}.

## Limits

{limits}
The score holds for images like those it was validated on, which also chose its checkpoint.
{_calibration(details)}Not measured: other cameras, places and groups of people.

## License

- Of the weights: not stated. Fill in before passing the file on.
- Of the training images: not stated. Fill in.
- Contact: not stated. Fill in.
"""


def how_to_ask(file: str | Path) -> str:
    """The command that asks an exported file."""
    trust = " --trust" if Path(file).suffix == ".aoti" else ""
    return f"toque predict {file} IMAGE{trust}"


def _interface(file: Path, details: FileDetails) -> str:
    if file.suffix == ".safetensors":
        return f"Weights alone; toque builds the model and does {details.preprocessing}."
    sizes = (
        "of any size, alike in one batch"
        if details.size is None
        else (f"H = {details.size[0]} and W = {details.size[1]}")
    )
    return (
        f"Input `images`: uint8 [B, H, W, {details.in_channels}], {sizes}. "
        f"{_outputs(details)}. "
        f"Preprocessing is inside: {details.preprocessing}."
        f"{_MACHINE_CODE if file.suffix == '.aoti' else ''}"
    )


_MACHINE_CODE = " It is machine code for processors like the one it was made on."
_SHARES = "`probabilities` and\n`logits`: float32 [B, K]"
_OUTPUTS = {
    REGRESSION: "`numbers`: float32 [B, D], in the units of the table",
    SEGMENTATION: "`masks`:\nuint8 [B, H, W], the class of each pixel, and `logits`: float32 "
    "[B, K, h, w], as the network gives them",
}


def _outputs(details: FileDetails) -> str:
    names = outputs_of(details).names
    return f"Output{'s' if len(names) > 1 else ''} {_OUTPUTS.get(details.task, _SHARES)}"


_KINDS = {
    CLASSIFICATION: (
        "An image classifier of {} classes",
        "It answers with one of its classes whatever it is shown, also where none of them is on "
        "the image.",
    ),
    MULTILABEL: (
        "A model that says for each label whether it is on an image, of {} labels",
        "It answers for its labels alone, whatever else is on the image.",
    ),
    REGRESSION: (
        "A model that reads {} number(s) off an image",
        "It answers with numbers whatever it is shown, also beyond those it was trained on.",
    ),
    SEGMENTATION: (
        "A model that says of each pixel of an image which of {} classes it belongs to",
        "It gives every pixel one of its classes, also where none of them is on the image.",
    ),
}
"""What each task is, and what its answers cannot say."""


def _calibration(details: FileDetails) -> str:
    if details.calibrated:
        return (
            f"Its confidence was calibrated (temperature {details.temperature:.4g}) on the "
            "validation images. "
        )
    if details.task == REGRESSION:
        return "It does not say how sure it is. "
    if details.thresholds:
        return (
            "The probability from which it names a label was chosen on the validation images: "
            f"{_thresholds(details)}. Its confidence has not been calibrated. "
        )
    return "Its confidence has not been calibrated. "


def _thresholds(details: FileDetails) -> str:
    named = list(zip(details.classes, details.thresholds, strict=True))
    more = f" and {len(named) - 50} more in its metadata" if len(named) > 50 else ""
    return ", ".join(f"{name} {least:.3g}" for name, least in named[:50]) + more


def _precision(details: FileDetails) -> str:
    """How the numbers are kept."""
    if details.precision == "int8":
        return "Weights and activations are int8, calibrated on training images."
    if details.precision == "half":
        return "Matrices and kernels are stored as float16; it computes in float32."
    return "All numbers are float32."


def _mark(file: Path) -> str:
    return f"<!-- written by toque export for {file.name} -->"
