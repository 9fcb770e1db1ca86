"""From settings to images and a task, and to settings with nothing unset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from toque import checks, data
from toque.data import OwnData, Source, Splits
from toque.data.decoding import DARK
from toque.data.sampling import order_of
from toque.train import resizing, tasks
from toque.train.optimisation import optimise
from toque.train.run import Run
from toque.train.run_folder import environment
from toque.train.run_folder.folder import default_out
from toque.train.tasks import Task
from toque.train.tasks.task import Loss
from toque.version import VERSION

OwnModel = nn.Module | Callable[[], nn.Module]


OWN = "own"  # the name of data and models that the caller of fit brought along


@dataclass(frozen=True)
class Own:
    """What a caller of fit brings along instead of naming it in the settings."""

    train: OwnData | None = None
    val: OwnData | None = None
    model: OwnModel | None = None
    loss: Loss | None = None


def check_given(run: Run, own: Own) -> None:
    """Refuse what cannot be a run, a model or a loss before anything is read.

    Raises: TypeError: settings that are no Run, a name in place of a model or a loss
    """
    if not isinstance(run, Run):
        raise checks.invalid_type(
            "fit", "run", "a toque.Run", type(run).__name__, "Give toque.Run(data=…, epochs=…)."
        )
    for argument, given, setting in (
        ("model", own.model, 'Run(model="{}")'),
        ("loss", own.loss, 'Run(loss={{"name": "{}"}})'),
    ):
        if given is not None and not callable(given):
            named = isinstance(given, str)
            raise checks.invalid_type(
                "fit", argument, "a module or a function", repr(given),
                f"One by name is a setting: {setting.format(given)}." if named else "Give that.",
            )  # fmt: skip


def open_splits(run: Run, own: Own) -> Splits:
    """The training and validation images: the caller's own, or what `run.data` names.

    Raises: ValueError: validation data without training data
            and what `toque.data.open` raises
    """
    if own.train is None:
        if own.val is not None:
            raise checks.invalid(
                "fit", "train", "given together with val", None, "Pass train=… as well."
            )
        if run.data == OWN and not Path(OWN).exists():
            raise checks.invalid(
                "fit", "train", "the dataset that the run was given in Python", None,
                "Continue it from there: toque.fit(run, train=…, val=…), as it began.",
            )  # fmt: skip
        return open_named(run, run.data)
    asked = None if run.task == "auto" else run.task
    return data.own(
        own.train, own.val, seed=split_seed(run), val_fraction=run.val_fraction, task=asked
    )


def split_seed(run: Run) -> int:
    """What draws the validation images, where the data does not say which they are."""
    return run.seed if run.split_seed is None else run.split_seed


def open_named(run: Run, named: str, channels: int | None = None) -> Splits:
    """The images that a name, path or URL stands for, read as the settings say."""
    return data.open(
        named,
        seed=split_seed(run),
        val_fraction=run.val_fraction,
        on_bad=run.on_bad,
        channels=channels,
        task=None if run.task == "auto" else run.task,
        columns=data.Columns(**run.table.model_dump()),
    )


def task_of(splits: Splits, own: Own) -> Task:
    """The task that the training targets make; numbers stay in their units for a caller's loss."""
    return tasks.of(splits.train, standardised=own.loss is None)


def resolve(run: Run, splits: Splits, own: Own, task: Task) -> Run:
    """The settings with everything unset chosen from the data; what run.toml stores.

    A small picture gets a small network at its own size; a photo gets 224 pixels and a ResNet-18.

    Raises: ValueError: an optimiser, argument, preset or model that does not exist; a sampling that
            the data does not allow
    """
    if task.name == "classification" and len(task.names) < 2 and own.loss is None:
        raise checks.invalid(
            "data", "the number of classes", "at least 2", f"only {', '.join(task.names)}",
            "Add images of another class; of a table, say which column with "
            "--set table.label=NAME.",
        )  # fmt: skip
    order_of(splits.train, sampling_of(run), run.seed)  # says what the data lacks for it
    image_size = run.image_size or task.image_size(short_side(splits.train))
    model = run.model or task.model_name(image_size)
    if own.model is not None:
        kind = own.model if isinstance(own.model, type) else type(own.model)
        model = f"{OWN}:{getattr(own.model, '__qualname__', kind.__qualname__)}"
    batch_size = run.batch_size if "batch_size" in run.model_fields_set else task.batch_size
    optimizer = optimise.resolve_optimizer(run.optimizer, batch_size, image_size)
    resize = resizing.resolved(run, image_size, run.augment or "light")
    rows = max(batch_size, len(splits.train) // 20)
    loss_name = run.loss.name or task.loss_name
    smoothing = task.smoothing if loss_name == task.loss_name else 0.0
    if run.loss.label_smoothing is not None:
        smoothing = run.loss.label_smoothing
    return run.changed(
        task=task.name,
        batch_size=batch_size,
        data=OWN if own.train is not None else run.data,
        out=run.out or default_out(OWN if own.train is not None else run.data),
        image_size=image_size,
        model=model,
        augment=run.augment or "light",
        threads=run.threads or environment.num_cores(),
        optimizer=optimizer.model_dump(),
        resize=resize.model_dump(),
        loss={**run.loss.model_dump(), "name": loss_name, "label_smoothing": smoothing},
        rules=optimise.resolve_rules(run, image_size),
        log={**run.log.model_dump(), "every_images": run.log.every_images or rows},
    )


def short_side(source: Source) -> int:
    """The usual short side in pixels, by up to 16 images spread over the source."""
    looked_at = np.unique(np.linspace(0, len(source) - 1, 16).astype(int))
    return int(np.median([min(source.read(int(i)).shape[-2:]) for i in looked_at]))


def sampling_of(run: Run) -> data.Sampling:
    """Which training images are seen, and how often."""
    asked = run.sampling
    return data.Sampling(asked.name, asked.repeats, asked.class_weights)


def in_words(run: Run, splits: Splits, task: Task, device: torch.device) -> str:
    """What will be done, in a line: "photos: 290 images to learn from, 69 to validate, ..."."""
    named = "your dataset" if run.data == OWN else run.data
    what = f"{len(task.names)} classes" if task.name == "classification" else task.name
    epochs = f"{run.epochs:g} epoch" + ("" if run.epochs == 1 else "s")
    return (
        f"{named}: {len(splits.train):,} images to learn from, {len(splits.val):,} to validate, "
        f"{what}; {run.model} at {run.image_size} px, {epochs}, on {device}"
    )


def check_apart(run: Run, splits: Splits) -> None:
    """Refuse a run folder in a folder of images, where the next start would take it for a class.

    Raises: ValueError
    """
    assert run.out is not None, "resolved settings name their folder"
    root, out = Path(run.data).expanduser(), Path(run.out).expanduser()
    inside = root.is_dir() and out.resolve().is_relative_to(root.resolve())
    if not (splits.drawn and inside and data.is_class_folder(run.data)):
        return
    raise checks.invalid(
        "train", "--out", "outside of the data, where it would be taken for a class",
        f"{out} in {root.resolve()}",
        f"Add --out {root.resolve().with_name('runs') / root.resolve().name}",
    )  # fmt: skip


def notes(run: Run, splits: Splits) -> tuple[str, ...]:
    """What a person should know before images and settings are joined."""
    said = []
    count = len(splits.train)
    if run.batch_size > count:
        said.append(
            f"batch_size is {run.batch_size} and there are {count} training images: a step shows "
            f"each of them {run.batch_size / count:.2g} times. A batch_size of {count} or less "
            "learns more from an epoch."
        )
    if run.data != OWN and (brightest := _brightest(splits.train)) < DARK:
        said.append(
            f"the training images are nearly black: the largest value found is {brightest} of 255. "
            "Of 16-bit files the upper 8 bits are kept; where those hold little (cameras of 12 "
            "bits), save the files as 8 bits first, scaled to the values in use."
        )
    return tuple(said)


def _brightest(source: Source) -> int:
    """The largest value in up to 8 images spread over the source; 255 where they are no bytes."""
    looked_at = np.unique(np.linspace(0, len(source) - 1, 8).astype(int))
    found = 0
    for index in looked_at.tolist():
        image = source.read(index)
        found = max(found, int(image.max()) if image.dtype == torch.uint8 else 255)
        if found >= DARK:
            break
    return found


def record(splits: Splits, fingerprint: environment.Fingerprint) -> dict[str, Any]:
    """What run.toml says of the environment and the data that a run began with."""
    return {
        "toque": VERSION,
        **fingerprint,
        "data_fingerprint": data_fingerprint(splits),
        "train_images": len(splits.train),
        "val_images": len(splits.val),
        "left_out_images": len(splits.bad),
        "channels": splits.channels,
        "classes": list(splits.classes),
        "git": environment.git_state(Path.cwd()),
    }


def data_fingerprint(splits: Splits) -> str:
    """One sha256 of both splits."""
    both = splits.train.fingerprint() + splits.val.fingerprint()
    return hashlib.sha256(both.encode()).hexdigest()
