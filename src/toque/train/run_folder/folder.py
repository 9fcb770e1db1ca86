"""The run folder: one run, one writer, and files that explain themselves.

run.toml              every setting, resolved, and the environment it began in
data.jsonl.gz         the names of the images it began with
metrics.jsonl         a row for each stretch of training and each validation
events.out.tfevents.* the same rows for TensorBoard
checkpoints/          what the run continues from
weights.safetensors   the best (or last) weights, once it is finished
signal.json           what reached the end of the network before the first step
result.json           how it ended, in numbers; the notes; the temperature of its confidence
answers.safetensors   what the kept weights answer on each validation image
training-doubts.json  training images whose targets they contradict, once toque check --run asked
report.html           the run as a page
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from toque import checks, durable
from toque.train import run as settings_of
from toque.train.run import Run
from toque.train.run_folder import inventory
from toque.train.run_folder.inventory import Inventory
from toque.train.settings import toml
from toque.train.state import formats
from toque.version import VERSION

SETTINGS, METRICS, SIGNAL, WEIGHTS, RESULT, REPORT = (
    "run.toml",
    "metrics.jsonl",
    "signal.json",
    "weights.safetensors",
    "result.json",
    "report.html",
)
CHECKPOINTS = "checkpoints"
_LOCK = ".lock"


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run folder, and whether this process is the one that began it.

    locked: False where the file system has no locks: a second process would not be noticed
    """

    path: Path
    fresh: bool
    locked: bool = True

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS

    @property
    def report(self) -> Path:
        return self.path / REPORT


def default_out(data: str) -> str:
    """runs/NAME, by the last part of the data's path: "photos/flowers/" -> "runs/flowers"."""
    return str(Path("runs") / (Path(data).resolve().name if data else "run"))


def is_run_folder(path: Path) -> bool:
    """Whether a run was begun there; a file of settings alone may also lie beside images."""
    return (path / SETTINGS).is_file() and (path / CHECKPOINTS).is_dir()


@contextlib.contextmanager
def opened(
    run: Run, environment: Mapping[str, Any], images: Inventory | None = None
) -> Iterator[RunFolder]:
    """Create or continue the run folder of resolved settings, alone until the block ends.

    `images` is kept in a new folder, so that a continued one can say which of them changed.

    A folder that a user's mistake ends before the first checkpoint is removed again, if this call
    made it: a mistake leaves nothing behind.

    Raises: ValueError: the folder belongs to other settings or data, holds something else, cannot
            be written, or another process trains in it
    """
    assert run.out is not None, "resolved settings name their folder"
    path = Path(run.out)
    existed, fresh = path.exists(), not (path / SETTINGS).is_file()
    if fresh:
        _refuse_foreign(path)
    else:
        refuse_other(path, run, environment, images)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / _LOCK).open("a+")
    except OSError as error:
        raise _unwritable(path, error) from None
    with lock, _not_inherited(lock):
        folder = RunFolder(path, fresh, _lock(lock, path))
        try:
            if fresh:
                durable.write(path / SETTINGS, _settings_text(run, environment))
                if images is not None:
                    images.write(path)
            yield folder
        except OSError as error:
            if fresh and not any(folder.checkpoints.glob("images-*")):
                _remove(folder, existed)
                raise _unwritable(path, error) from error
            raise
        except checks.UserMistake:
            if fresh and not any(folder.checkpoints.glob("images-*")):
                _remove(folder, existed)
            raise


@contextlib.contextmanager
def elsewhere(run: Run) -> Iterator[RunFolder]:
    """The run folder for a rank that does not touch it: rank 0 reads and writes it alone."""
    assert run.out is not None, "resolved settings name their folder"
    yield RunFolder(Path(run.out), fresh=False)


def read_run(path: Path) -> tuple[Run, dict[str, Any]]:
    """The settings and the environment that a run folder was begun with.

    Raises: FileNotFoundError: no folder, or no run.toml in it
    """
    file = path / SETTINGS
    if not file.is_file():
        near = checks.nearest(path.name, [found.parent.name for found in _runs_beside(path)])
        raise checks.MissingFile(
            f"{path} must be a run folder; there is no {SETTINGS} in it. "
            + (near if "mean" in near else "Train one with: toque train DATA --out " + str(path))
        )
    tree = formats.migrate_settings(toml.read(file))
    environment = tree.pop("environment", {})
    try:
        return Run(**tree), environment
    except checks.InvalidValue as error:
        began = environment.get("toque")
        if began in (VERSION, None):
            raise
        raise checks.InvalidValue(
            f"{file} is of toque {began}, this is {VERSION}: {error}"
        ) from None


def refuse_other(
    path: Path, run: Run, environment: Mapping[str, Any], images: Inventory | None = None
) -> None:
    """Raise ValueError if the folder's run has other settings or saw other data; name what."""
    stored, began = read_run(path)
    differing = settings_of.differences(stored, run)
    if differing:
        raise checks.InvalidValue(
            f"{path} belongs to a run with other settings ({'; '.join(differing)}). "
            "Give the same settings to continue it, or choose another folder with --out."
        )
    if began.get("data_fingerprint") != environment.get("data_fingerprint"):
        changes = images.changes(path) if images is not None else None
        if changes is None:
            changes = (
                f"{began.get('train_images')} + {began.get('val_images')} images then, "
                f"{environment.get('train_images')} + {environment.get('val_images')} now"
            )
        what = f"{run.data} has changed since it began"
        if stored.data != run.data:
            what = f"{stored.data} there, {run.data} here"
        raise checks.InvalidValue(
            f"{path} belongs to a run on other data: {what} ({changes}). "
            "Put the data back to continue it, or choose another folder with --out."
        )


def _runs_beside(path: Path) -> Iterator[Path]:
    return path.parent.glob(f"*/{SETTINGS}")


def _settings_text(run: Run, environment: Mapping[str, Any]) -> str:
    return (
        f"# The settings of this run, resolved by toque {VERSION}. The same command continues it,\n"
        "# and so does `toque train` on this file, wherever it lies; with another --out it runs\n"
        "# anew.\n\n"
        + run.as_toml()
        + "\n# What it began with: for the record, not read as settings.\n"
        + toml.table("environment", environment)
    )


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise checks.invalid("train", "--out", "a folder", f"the file {path}", "Choose another.")
    # What a process leaves that was killed before it wrote run.toml is no obstacle.
    ours = (_LOCK, f".writing-{SETTINGS}")
    inside = [] if not path.exists() else [p.name for p in path.iterdir() if p.name not in ours]
    if inside:
        raise checks.InvalidValue(
            f"train: --out must be a run folder or a new one; {path} holds other files "
            f"({', '.join(sorted(inside)[:3])}). Choose another folder with --out."
        )


def _unwritable(path: Path, error: OSError) -> checks.InvalidValue:
    return checks.invalid(
        "train", "--out", "a folder that can be written", f"{path} ({error.strerror or error})",
        "Choose another folder with --out, or make room there.",
    )  # fmt: skip


_held: set[IO[str]] = set()


def _let_go() -> None:
    for lock in _held:
        lock.close()
    _held.clear()


# A worker process that reads images has a copy of what its parent holds open, and lives on for some
# seconds after the parent was killed: with the lock, it would keep the next start from continuing.
os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def _not_inherited(lock: IO[str]) -> Iterator[None]:
    """Processes forked in this block do not hold the lock."""
    _held.add(lock)
    try:
        yield
    finally:
        _held.discard(lock)


def _lock(lock: IO[str], path: Path) -> bool:
    """Hold the lock file until it is closed; false where the file system has no locks.

    The kernel drops the lock when its process ends in whatever way: no stale one is left behind.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        raise checks.InvalidValue(
            f"{path} is in use: process {holder} trains in it. "
            "Wait for it, stop it, or choose another folder with --out."
        ) from None
    except OSError:  # ENOLCK, ENOTSUP, ENOSYS: some network file systems
        return False
    lock.truncate(0)
    lock.write(f"{os.getpid()} on {platform.node()}")
    lock.flush()
    return True


def _remove(folder: RunFolder, existed: bool) -> None:
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    for name in (SETTINGS, METRICS, SIGNAL, inventory.FILE, _LOCK):
        (folder.path / name).unlink(missing_ok=True)
    for events in folder.path.glob("events.out.tfevents.*"):
        events.unlink()
    if not existed:
        with contextlib.suppress(OSError):
            folder.path.rmdir()
