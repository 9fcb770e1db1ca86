"""Where rows go besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

Each is imported when the first row is written to it. None may end a training: what a logger cannot
write is warned of once, and metrics.jsonl has it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toque import checks
from toque.train import run as settings_of
from toque.train.logs.log import Logger, Row
from toque.train.run import Run
from toque.train.settings.course import LogName

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_PLACES = ("images_seen", "epoch", "time_s", "split")
_PACKAGES: dict[LogName, str] = {"wandb": "wandb", "mlflow": "mlflow"}
_LONGEST_PARAM = 500  # characters that MLflow takes for the value of a setting


class MissingLogger(checks.UserMistake, ImportError):
    """The package of a logger is not installed."""


def refuse_missing(names: Sequence[LogName]) -> None:
    """Raise ImportError, before anything is written, if a logger's package is not installed."""
    for name in names:
        package = _PACKAGES.get(name)
        if package and not _installed(package):
            raise MissingLogger(
                f"run.toml [log]: to must name installed packages; {package} is not. "
                f"pip install {package}, or leave {name} out."
            )


def create(run: Run, folder: Path, images_seen: int, warn: Callable[[str], None]) -> list[Logger]:
    """The loggers that the settings name, for a run folder that continues at an image."""
    refuse_missing(run.log.to)
    made: dict[LogName, Callable[[], Logger]] = {
        "tensorboard": lambda: TensorBoard(folder, images_seen),
        "wandb": lambda: Wandb(run, folder),
        "mlflow": lambda: MLflow(run, folder),
    }
    return [Guarded(name, made[name], warn) for name in run.log.to]


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row by the names all loggers give them: {"loss/train": 0.25}."""
    return {
        f"{name}/{row['split']}": float(value)
        for name, value in row.items()
        if name not in _PLACES and isinstance(value, int | float)
    }


class Guarded:
    """A logger made at its first row, and given up with a warning when it fails."""

    def __init__(self, name: str, make: Callable[[], Logger], warn: Callable[[str], None]) -> None:
        self._name, self._make, self._warn = name, make, warn
        self._logger: Logger | None = None
        self._failed = False

    def write(self, row: Row) -> None:
        def attempt() -> None:
            if self._logger is None:
                self._logger = self._make()
            self._logger.write(row)

        self._try(attempt)

    def cut(self, images_seen: int) -> None:
        if self._logger is not None:
            self._try(partial(self._logger.cut, images_seen))

    def close(self) -> None:
        if self._logger is not None:
            self._try(self._logger.close)

    def _try(self, attempt: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            attempt()
        # Whatever a logger's own code, server or disk does wrong, the training goes on.
        except Exception as error:
            self._failed = True
            self._warn(
                f"{self._name} gets no more rows of this run ({checks.first_line(error)}); "
                "metrics.jsonl has them all."
            )


class TensorBoard:
    """Events beside metrics.jsonl; a full disk begins a new file with the next row."""

    def __init__(self, folder: Path, images_seen: int) -> None:
        self._folder, self._images_seen = folder, images_seen
        self._writer: SummaryWriter | None = None

    def write(self, row: Row) -> None:
        try:
            if self._writer is None:
                # Imported here: it costs a second or more.
                from torch.utils.tensorboard import SummaryWriter

                # What a killed run wrote after its checkpoint is written again: hide the first.
                purge = self._images_seen + 1 if self._images_seen else None
                self._writer = SummaryWriter(str(self._folder), purge_step=purge)
            for name, value in scalars(row).items():
                self._writer.add_scalar(name, value, row["images_seen"])
        except OSError:  # no space: metrics.jsonl has the row
            self._writer, self._images_seen = None, row["images_seen"]

    def cut(self, images_seen: int) -> None:
        self.close()
        self._writer, self._images_seen = None, images_seen

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Wandb:
    """A run of Weights & Biases; a run that is continued goes on in the same one.

    Its own settings hold (WANDB_PROJECT, WANDB_MODE=offline ...). What is written again after a
    kill stands there twice: the x axis is images_seen.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "toque"),
            id=identity(folder),
            name=folder.resolve().name,
            dir=str(folder),
            config=run.as_dict(),
            resume="allow",
        )
        self._run.define_metric("images_seen")
        self._run.define_metric("*", step_metric="images_seen")

    def write(self, row: Row) -> None:
        self._run.log({**scalars(row), "images_seen": row["images_seen"], "epoch": row["epoch"]})

    def cut(self, images_seen: int) -> None:
        pass

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow; a run that is continued goes on in the same one.

    MLFLOW_TRACKING_URI says where (unset: MLflow's own default), MLFLOW_EXPERIMENT_NAME in which
    experiment. Steps are images seen.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        tracking = importlib.import_module("mlflow.tracking")
        self._client = tracking.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "toque")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        tag = identity(folder)
        found = self._client.search_runs([number], f"tags.toque_run = '{tag}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        title = folder.resolve().name
        made = self._client.create_run(number, run_name=title, tags={"toque_run": tag})
        self._id = made.info.run_id
        for key, value in settings_of.flat(run.as_dict()).items():
            self._client.log_param(self._id, key, str(value)[:_LONGEST_PARAM])

    def write(self, row: Row) -> None:
        for name, value in scalars(row).items():
            self._client.log_metric(self._id, name, value, step=row["images_seen"])

    def cut(self, images_seen: int) -> None:
        pass

    def close(self) -> None:
        self._client.set_terminated(self._id)


def identity(folder: Path) -> str:
    """What a logger calls this run folder: the same after a restart, another for a new run.

    run.toml is written once, when a run begins; its text and time tell two runs apart.
    """
    file = folder / "run.toml"
    text = file.read_bytes() + str(file.stat().st_mtime_ns).encode()
    return hashlib.sha256(text).hexdigest()[:12]
