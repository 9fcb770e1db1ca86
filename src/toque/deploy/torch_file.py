"""Files for PyTorch: the graph (pt2), and the weights alone (safetensors)."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.export import ExportedProgram

from toque import augment, checks, models
from toque.deploy import archive
from toque.deploy.answering import Answers, predictor_of_file, torch_answers
from toque.deploy.deployed import is_narrowed
from toque.deploy.details import FileDetails, read_details
from toque.deploy.outputs import outputs_of
from toque.deploy.predictor import Network, Predictor, of_network
from toque.models import weights


def write_graph(exported: ExportedProgram, details: FileDetails, file: Path) -> None:
    """Write the graph with its weights as a .pt2 archive, without a pickle in it."""
    exported._guards_code = []  # Python source that loading would run; sizes are checked anyway
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(exported, file, extra_files={archive.DETAILS: details.as_json()})
    archive.check_archive(file)


def open_graph(file: Path) -> tuple[Answers, FileDetails]:
    """The program in a .pt2 archive, and its details.

    Raises: ValueError: a damaged archive, or one that holds more than tensors and a graph
    """
    archive.check_archive(file)
    details = read_details(file, archive.read_details_text(file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.load(file).module()
        except Exception as error:  # the archive is ours, but damaged
            raise checks.invalid(
                "load", str(file), "a whole .pt2 archive", checks.first_line(error),
                "Export it again with: toque export RUN --to pt2.",
            ) from error  # fmt: skip
    return torch_answers(program), details


def load_graph(file: Path) -> Predictor:
    """A predictor of a .pt2 file."""
    answers, details = open_graph(file)
    return predictor_of_file(str(file), details, answers)


def write_weights(
    model: nn.Module, details: FileDetails, file: Path, *, half: bool = False
) -> None:
    """Write the weights alone; loading builds the model by its name, and widens halved weights."""
    tensors = {name: weights.plain(value) for name, value in model.state_dict().items()}
    if half:
        narrow = {name: value.half() for name, value in tensors.items() if is_narrowed(value)}
        tensors |= narrow
    save_file(tensors, file, metadata={"toque": details.as_json()})


def load_weights(file: Path, device: str = "cpu", *, model: nn.Module | None = None) -> Predictor:
    """A predictor of a weights file: an exported one, or a run's weights.safetensors.

    Args:   model: a module to load a copy's weights into, where toque cannot build it
    Raises: ValueError: a damaged file, not one of toque's, or of a model toque cannot build
    """
    mend = "Export it again with: toque export RUN --to safetensors."
    described, tensors = weights.read_described(file, device=device, mend=mend)
    details = read_details(file, described)
    if model is not None:
        model = copy.deepcopy(model)
    elif details.model.startswith("own:"):
        raise checks.InvalidValue(
            f"load: {file} must be of a model that toque can build; got one of your own "
            f"({details.model[4:]}). Export it with --to onnx or --to pt2 instead."
        )
    channels, size = details.in_channels, details.image_size
    if model is None:
        model = models.create(
            details.model, num_classes=len(details.classes), in_channels=channels, image_size=size
        )
    weights.put_in(model, tensors, file, mend=mend)
    outputs = outputs_of(details)
    network = Network(
        model.to(device).eval(),
        augment.preset(outputs.preset, size, channels=channels),
        device,
        outputs,
        (details.temperature or 1.0) if details.calibrated else 1.0,
    )
    return of_network(
        network,
        source=str(file),
        labels=details.classes,
        channels=channels,
        details=json.loads(details.as_json()),
    )
