"""load: whatever holds a model -> a predictor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from toque import augment, checks, devices
from toque.deploy.outputs import Outputs, outputs_for
from toque.deploy.predictor import Network, Predictor, of_network

if TYPE_CHECKING:
    from toque.train.restore import Trained

SUFFIXES = (".onnx", ".pt2", ".aoti", ".safetensors")


def load(source: str | Path, *, device: str = "cpu", trust: bool = False) -> Predictor:
    """A predictor from a run folder or an exported file; a file needs nothing of toque.train.

    Args:    source: a run folder, or a file NAME.onnx, NAME.pt2, NAME.aoti or NAME.safetensors
             device: for a run folder and .safetensors; the other files answer on the cpu alone
             trust: whether to load machine code, which an .aoti file is; the others are data
    Raises:  FileNotFoundError: nothing there, or a run that has not finished
             ValueError: a damaged file, one that toque did not write, or of another kind; an
             .aoti file without trust; a device that is not there
             ImportError: onnxruntime is not installed, for an .onnx file
    Example: >>> toque.deploy.load("model.onnx")(["garden.jpg"])[0].label
    """
    path = Path(source)
    _check_device(path, device)
    if path.is_dir():
        return _run(path, device)
    if path.suffix not in SUFFIXES:
        kinds = f"a run folder or a file {', '.join(SUFFIXES)}"
        if not path.exists():
            raise checks.MissingFile(f"load: {path} must be {kinds}; there is none. {_near(path)}")
        raise checks.invalid("load", "the model", kinds, path, "Train one with: toque train DATA.")
    if not path.is_file():
        raise checks.MissingFile(f"load: {path} must be a file; there is none. {_near(path)}")
    if path.suffix == ".onnx":
        from toque.deploy import onnx_file

        return onnx_file.load(path)
    if path.suffix == ".aoti":
        from toque.deploy import compiled_file

        return compiled_file.load(path, trust=trust)
    from toque.deploy import torch_file

    if path.suffix == ".pt2":
        return torch_file.load_graph(path)
    return torch_file.load_weights(path, device)


def _check_device(path: Path, device: str) -> None:
    if device != "cpu" and path.suffix in {".onnx", ".pt2", ".aoti"}:
        raise checks.invalid(
            "load", "device", f"cpu for a {path.suffix} file", device,
            "For a GPU, load the run folder or its .safetensors file.",
        )  # fmt: skip
    devices.named("load", device, "Leave it out for the cpu.")


def _near(path: Path) -> str:
    names = [str(found) for found in path.parent.iterdir()] if path.parent.is_dir() else []
    return checks.nearest(str(path), names) if names else "Check the path."


def _run(path: Path, device: str) -> Predictor:
    from toque.train import load_model

    trained = load_model(path, device=device)
    pipeline: augment.Compose = trained.pipeline
    return of_network(
        Network(trained.model, pipeline, device, outputs_of_run(trained, path)),
        source=str(path),
        labels=trained.classes,
        channels=trained.channels,
        details={
            "model": trained.run.model,
            "image_size": trained.run.image_size,
            "task": trained.task.name,
            "temperature": temperature_of_run(path),
        },
    )


def outputs_of_run(trained: Trained, path: Path) -> Outputs:
    """How the outputs of a finished run, which lies at `path`, are read."""
    about = trained.task.details()
    thresholds = thresholds_of_run(path)
    return outputs_for(about["task"], about.get("mean", ()), about.get("std", ()), thresholds)


def thresholds_of_run(path: Path) -> tuple[float, ...]:
    """From which probability a finished run names each of several labels; none where it does not
    say."""
    from toque.train.run_folder import outcome

    found = outcome.read(path)
    return tuple(found.thresholds) if found else ()


def temperature_of_run(path: Path) -> float | None:
    """The temperature that calibrates a finished run, where it was measured."""
    from toque.train.run_folder import outcome

    found = outcome.read(path)
    return found.scores.calibration.temperature if found and found.scores else None
