"""A finished run, back from its folder: the model with its weights, and its evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from toque import augment, checks, data, models
from toque.models import weights
from toque.train import build, prepare, tasks
from toque.train.measure import measure
from toque.train.run import Run
from toque.train.run_folder import environment
from toque.train.run_folder.folder import WEIGHTS, read_run
from toque.train.tasks import Evaluation, Task
from toque.train.tasks import loss as loss_of


@dataclass(frozen=True)
class Trained:
    """A model as a run left it, with what it takes to ask it.

    pipeline: turns uint8 images into what the model expects, without any draw
    """

    run: Run
    model: nn.Module
    classes: tuple[str, ...]
    channels: int
    pipeline: augment.Compose
    task: Task


def load_model(path: str | Path, *, model: nn.Module | None = None, device: str = "cpu") -> Trained:
    """The trained model of a run folder, in evaluation mode.

    Args:   model: the module to load the weights into, for a run on a module of your own
    Raises: FileNotFoundError: no run folder, or a run that has not finished
            ValueError: a damaged file, or weights of another architecture
    Example: >>> load_model("runs/own", model=MyNet()).model(images)
    """
    path = Path(path)
    run, _ = read_run(path)
    file = path / WEIGHTS
    if not file.is_file():
        raise checks.MissingFile(
            f"{path} must be a finished run; it has no {WEIGHTS}. "
            f"Continue it with: toque train --config {path / 'run.toml'}"
        )
    described, tensors = weights.read_described(
        file, device=device,
        mend="Run the training command again: it writes the file anew from the checkpoint.",
    )  # fmt: skip
    metadata = json.loads(described)
    classes = tuple(metadata["classes"])
    task = tasks.restored(metadata)
    channels, image_size = metadata["in_channels"], metadata["image_size"]
    if model is None:
        kind, _, name = metadata["model"].partition(":")
        if kind == prepare.OWN:
            raise checks.InvalidValue(
                f"{path} was trained on a module of your own ({name}), which toque cannot build. "
                "Use toque.train.load_model(path, model=…) from Python. For all commands, train it "
                f'by its name: Run(model="FILE:{name}"), FILE.py being where it is defined.'
            )
        model = models.create(
            metadata["model"],
            num_classes=task.num_outputs,
            in_channels=channels,
            image_size=image_size,
        )
    weights.put_in(model, tensors, file, mend="Build the same architecture.")
    pipeline = augment.preset(task.evaluation_preset, image_size, channels=channels)
    return Trained(run, model.to(device).eval(), classes, channels, pipeline, task)


def evaluate(
    path: str | Path,
    data_path: str | None = None,
    *,
    device: str = "auto",
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """A finished run on its own validation images, or on other labelled images.

    Other data is anything that `toque.data.open` takes: of a folder with a val folder, a table with
    a split and the like that part is taken, of data without one every image. Each image is counted
    exactly once.

    Args:   say: told, in a sentence, what of the data is passed over or left out
    Raises: FileNotFoundError, ValueError: as `load_model` and `toque.data.open`; a class that the
            run does not know, a run on data of the caller's own without `data_path`
    Example: >>> toque.evaluate("runs/photos", "photos/new").summary()
    """
    chosen = build.device(device)
    trained = load_model(path, device=str(chosen))
    return answers(trained, images_of(trained, data_path, say), chosen)


def answers(
    trained: Trained, source: data.Source, device: torch.device | None = None
) -> Evaluation:
    """What the weights of a run answer on some images, each once.

    Args: device: the one the run was trained on unless given; the model is moved there
    """
    device = device or build.device(trained.run.device)
    batches = data.evaluation_batches(
        source, trained.pipeline, batch_size=trained.run.batch_size,
        threads=environment.num_cores(), upload=build.upload(device),
    )  # fmt: skip
    _, loss = loss_of.by_settings(trained.run, trained.task, device)
    return measure(trained.model.to(device), batches, trained.task, loss, device)


def images_of(
    trained: Trained, data_path: str | None, say: Callable[[str], None] | None = None
) -> data.Source:
    """A run's validation images, or the labelled images of another folder."""
    run = trained.run
    if data_path is not None:
        return _other_images(trained, data_path, say)
    if run.data == prepare.OWN:
        raise checks.invalid(
            "evaluate", "the data", "named for a run on a Dataset of your own", "none",
            "Give a folder of images, as in: toque evaluate RUN photos/",
        )  # fmt: skip
    splits = own_splits(run)
    check_classes(trained, splits)
    return splits.val


def check_classes(trained: Trained, splits: data.Splits) -> None:
    """Raise ValueError where data of a run's name has other classes now."""
    if splits.classes != trained.classes:
        raise checks.invalid(
            "evaluate", "the data", f"of the run's classes {list(trained.classes)}",
            list(splits.classes), "Name the class folders as in training.",
        )  # fmt: skip


def own_splits(run: Run) -> data.Splits:
    """The images of a run that began on named data.

    Raises: FileNotFoundError: they are not where the run's settings say, seen from here
    """
    try:
        return prepare.open_splits(run, prepare.Own())
    except checks.MissingFile as mistake:
        if Path(run.data).is_absolute():
            raise
        raise checks.MissingFile(
            f"the run's own data, {run.data}, must be found from where this is called; there is "
            f"none in {Path.cwd()}. Call it where the run was begun, or name the data."
        ) from mistake


def _other_images(
    trained: Trained, data_path: str, say: Callable[[str], None] | None
) -> data.Source:
    run = trained.run
    if trained.task.name == "classification" and data.is_class_folder(data_path):
        return data.open_labelled(
            data_path, classes=trained.classes, channels=trained.channels, on_bad=run.on_bad,
            say=say,
        )  # fmt: skip
    asked = run.changed(task=trained.task.name)
    splits = prepare.open_named(asked, data_path, channels=trained.channels)
    # Numbers for names: other data may lack the last classes.
    if splits.classes != trained.classes[: len(splits.classes)]:
        raise checks.invalid(
            "evaluate", "the data", f"of the run's {', '.join(trained.classes[:8])}",
            ", ".join(splits.classes[:8]), "Name the classes, labels or columns as in training.",
        )  # fmt: skip
    if say is not None:
        for note in splits.notes:
            say(note)
    return data.Joined(splits.train, splits.val) if splits.drawn else splits.val
