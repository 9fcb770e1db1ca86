"""Checkpoints: complete or absent, and checked by their hashes when they are read.

A checkpoint is a folder, `checkpoints/images-000000012800/`:

    tensors.safetensors   every tensor of the state, by number
    state.json            the shape of the state, with numbers in place of the tensors
    manifest.json         sizes and sha256 of the others, images seen, score, and its own sha256

Where several ranks write it, each has a file `tensors-1-of-4.safetensors` with its pieces, and
`tensors.json` says where they lie (see `pieces`).

It is written under another name, synced and renamed, so that a kill at any moment leaves the older
ones untouched. No tensor format of torch notices a flipped bit (300 random flips: 280 silent in
torch.save, 299 in safetensors), which is why the manifest holds hashes. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file

from toque import checks, durable
from toque.train.state import formats, pieces
from toque.train.state.snapshot import Camera, Snapshot, put_tensors
from toque.version import VERSION as TOQUE

STATE, _MANIFEST = "state.json", "manifest.json"


class DamagedCheckpoint(Exception):
    """A checkpoint that is not what was written; its message names the file and what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on the disk, not yet read.

    score: what was measured on the validation images at that moment (higher is better), if it was
    """

    path: Path
    images_seen: int
    score: float | None


def save(folder: Path, state: Mapping[str, Any], *, images_seen: int, score: float | None) -> Path:
    """Write a checkpoint of a state (see `snapshot.Camera.take`); as `write`."""
    return write(folder, Camera().take(state), images_seen=images_seen, score=score)


def write(folder: Path, snapshot: Snapshot, *, images_seen: int, score: float | None) -> Path:
    """Write a checkpoint into `folder` and return its path once it is on the disk.

    It may run in another thread than the training: writing, hashing and syncing leave the lock of
    Python to others.

    Raises: OSError: no space, no permission; what was there before is untouched
    """
    aside = folder / f".writing-{name_of(images_seen)}"
    folder.mkdir(parents=True, exist_ok=True)
    durable.remove_leftovers(folder)
    try:
        aside.mkdir()
        save_file(snapshot.tensors, aside / pieces.WHOLE)
        (aside / STATE).write_text(json.dumps(snapshot.skeleton))
        files = {name: written(aside / name) for name in (pieces.WHOLE, STATE)}
        return complete(aside, files, images_seen=images_seen, score=score)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError):
            raise
        raise OSError(f"{aside / pieces.WHOLE} could not be written: {error}") from error


def name_of(images_seen: int) -> str:
    """ "images-000000012800"."""
    return f"images-{images_seen:012d}"


def written(file: Path) -> dict[str, Any]:
    """What a manifest says of a file: its bytes and sha256, once it is on the disk."""
    durable.sync(file)
    return {"bytes": file.stat().st_size, "sha256": durable.sha256(file)}


def complete(
    aside: Path, files: Mapping[str, Mapping[str, Any]], *, images_seen: int, score: float | None
) -> Path:
    """Make a checkpoint of a folder whose files are on the disk: manifest, then its name.

    Args: files: what `written` gave for each
    """
    manifest: dict[str, Any] = {
        "version": formats.VERSION,
        "toque": TOQUE,
        "images_seen": images_seen,
        "score": score,
        "files": files,
    }
    manifest["sha256"] = _manifest_hash(manifest)
    (aside / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    durable.sync(aside / _MANIFEST)
    durable.sync(aside)
    final = aside.with_name(name_of(images_seen))
    aside.rename(final)
    durable.sync(final.parent)
    return final


def found(folder: Path) -> list[Checkpoint]:
    """The checkpoints of a folder, oldest first, by their manifests; hashes are not checked yet.

    A folder without a readable manifest is listed too, without a score: reading it names why.
    """
    checkpoints = []
    for path in sorted(folder.glob("images-[0-9]*")):
        try:
            manifest = read_manifest(path)
            checkpoints.append(Checkpoint(path, manifest["images_seen"], manifest["score"]))
        except DamagedCheckpoint:
            checkpoints.append(Checkpoint(path, int(path.name.removeprefix("images-")), None))
    return checkpoints


def is_there(folder: Path, images_seen: int, score: float | None) -> bool:
    """Whether a checkpoint of that moment exists, with a score if there is one now."""
    return any(
        one.images_seen == images_seen and (score is None or one.score is not None)
        for one in found(folder)
    )


def load(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, tensors on the CPU, after every byte was checked.

    What an older toque wrote comes as this one would have written it (see `formats`).

    Raises: DamagedCheckpoint: a file is missing, of another size or with other bytes
            ValueError: written by a newer toque
    """
    manifest = read_manifest(path)
    check(path, manifest, manifest["files"])
    if pieces.TABLE in manifest["files"]:
        table = read_table(path, manifest)
        tensors = {name: stored.empty() for name, stored in table.items()}
        pieces.read(path, table, tensors)
    else:
        tensors = load_file(path / pieces.WHOLE)
    state = put_tensors(json.loads((path / STATE).read_text()), tensors)
    assert isinstance(state, dict)
    return formats.migrate(state, manifest["version"])


def check(path: Path, manifest: Mapping[str, Any], names: Iterable[str]) -> None:
    """Compare files of a checkpoint with its manifest.

    Raises: DamagedCheckpoint: one is missing, of another size or with other bytes
    """
    for name in names:
        file, expected = path / name, manifest["files"][name]
        if not file.is_file():
            raise DamagedCheckpoint(f"{file} is missing")
        if file.stat().st_size != expected["bytes"]:
            raise DamagedCheckpoint(
                f"{file} has {file.stat().st_size} bytes, written were {expected['bytes']}"
            )
        if durable.sha256(file) != expected["sha256"]:
            raise DamagedCheckpoint(f"{file} has other bytes than were written (sha256 differs)")


def read_table(path: Path, manifest: Mapping[str, Any]) -> pieces.Table:
    """Where the tensors of a checkpoint lie, whose files were checked.

    Raises: DamagedCheckpoint: its table does not fit its files
    """
    try:
        return pieces.read_table(
            path, {name: told["bytes"] for name, told in manifest["files"].items()}
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{path / pieces.TABLE}: {error}") from None


Choice = Callable[[Path], Checkpoint | None]
"""Which checkpoint of a folder to take; asked again after a damaged one was moved aside."""


def newest(folder: Path) -> Checkpoint | None:
    """The one that was written last."""
    return next(reversed(found(folder)), None)


def best(folder: Path) -> Checkpoint | None:
    """The checkpoint with the highest score; the earliest of equals."""
    return _best(found(folder))


def best_or_newest(folder: Path) -> Checkpoint | None:
    """The best, where there are scores."""
    return best(folder) or newest(folder)


def scored(folder: Path, images_seen: int) -> Checkpoint | None:
    """The newest with a score and at most `images_seen` images; later ones are removed."""
    for one in reversed(found(folder)):
        if one.score is not None and one.images_seen <= images_seen:
            return one
        remove(one.path)
    return None


def load_chosen(
    folder: Path, choose: Choice
) -> tuple[Checkpoint | None, dict[str, Any], list[str]]:
    """The first undamaged checkpoint chosen, its state, and a sentence for each damaged one before.

    A damaged checkpoint is moved aside as `damaged-images-…`: it is kept to be looked at, and never
    met again.
    """
    warnings: list[str] = []
    while (one := choose(folder)) is not None:
        try:
            return one, load(one.path), warnings
        except DamagedCheckpoint as damage:
            set_aside(one.path)
            warnings.append(passed_over(damage))
    return None, {}, warnings


def passed_over(damage: DamagedCheckpoint | str) -> str:
    """The sentence for a person about a damaged checkpoint."""
    return f"damaged checkpoint: {damage}; the one before it is used"


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint, so that its name is free and it is not read again."""
    target = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(target, ignore_errors=True)
    path.rename(target)
    durable.sync(path.parent)


def _best(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    scored = [checkpoint for checkpoint in checkpoints if checkpoint.score is not None]
    return max(scored, key=lambda checkpoint: checkpoint.score or 0.0, default=None)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints, the best one, and the last with a score.

    A run goes back to that one, because which of the others there are depends on the clock.
    """
    checkpoints = found(folder)
    scored = [checkpoint for checkpoint in checkpoints if checkpoint.score is not None]
    kept = [*checkpoints[-keep:], *scored[-1:], _best(checkpoints)]
    for checkpoint in checkpoints:
        if checkpoint not in kept:
            remove(checkpoint.path)


def remove(path: Path) -> None:
    """Remove a checkpoint, whole or not at all under its name."""
    # Renamed first: a kill in the middle must not leave half a checkpoint under its name.
    leaving = path.with_name(f".writing-{path.name}")
    path.rename(leaving)
    shutil.rmtree(leaving)


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; the files it names are not looked at.

    Raises: DamagedCheckpoint: it is missing or not what was written
            ValueError: written by a newer toque
    """
    file = path / _MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        whole = manifest["sha256"] == _manifest_hash(manifest)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{file} is missing") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedCheckpoint(f"{file} is not a manifest") from None
    if not whole:
        raise DamagedCheckpoint(f"{file} has other content than was written")
    if manifest["version"] > formats.VERSION:
        raise checks.invalid(
            "fit", str(path), f"of format {formats.VERSION} or older",
            f"format {manifest['version']}, of a newer toque ({manifest.get('toque')}; this is "
            f"{TOQUE})", "Continue the run with that version.",
        )  # fmt: skip
    assert isinstance(manifest, dict)
    return manifest
