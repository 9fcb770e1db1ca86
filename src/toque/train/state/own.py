"""Checkpoints of a loop of your own, by the files and the care of those of a run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from toque import checks
from toque.train.state import checkpoint, formats
from toque.train.state.layout import lay_out


class Stateful(Protocol):
    """A module, an optimiser, an average, a step: whatever gives its state and takes it back."""

    def state_dict(self) -> Mapping[str, Any]:
        """Tensors and plain values of JSON, in dicts and lists."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: Any) -> Any:
        """Continue from a `state_dict()`."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Saved:
    """A checkpoint that was read, every byte of it checked.

    images_seen: how many images the training had seen
    score:       what was measured then, if it was; more is better
    state:       what each part had, by its name; tensors on the CPU
    """

    images_seen: int
    score: float | None
    state: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of a training loop of your own: complete or absent, hashed, never unpickled.

    A save is written under another name, synced, hashed and renamed, so that a kill at any moment
    leaves the one before untouched. Reading compares every byte with its hash; a damaged checkpoint
    is set aside as `damaged-images-…`, told as a warning, and the one before it is taken.

    Parts are given by name: whatever has `state_dict` and `load_state_dict`, and dicts of your own
    with tensors and plain values, which are filled in place. One process writes; of several ranks
    let one save, with whole tensors, and all restore.

    Args:    path: the folder; the first save makes it
             keep: how many of the newest stay; the best by score always stays
    Raises:  ValueError: keep below 1
    Example: >>> checkpoints = CheckpointFolder("runs/own")
             >>> images_seen = checkpoints.restore({"step": step})     # 0 where there is none
             >>> checkpoints.save({"step": step}, images_seen)
    """

    def __init__(self, path: str | Path, *, keep: int = 2) -> None:
        if not keep >= 1:
            raise checks.invalid("CheckpointFolder", "keep", ">= 1", keep, "One must stay.")
        self.path = Path(path)
        self._keep = keep

    def save(
        self, parts: Mapping[str, Stateful | dict[str, Any]], images_seen: int, *,
        score: float | None = None,
    ) -> Path:  # fmt: skip
        """Save the parts as they are now; the path of the checkpoint, once it is on the disk.

        One that is there of the same count of images stays as it is, unless only this has a score.

        Args:   images_seen: how many images the training has seen
                score: what was measured, more is better; `best` goes by it
        Raises: OSError: no space, no permission; the checkpoints before are whole
                TypeError: a part without state, or with something that is no tensor and not plain
                ValueError: no part, a count below 0, a score that is no finite number
        """
        where = "CheckpointFolder.save"
        if not parts:
            raise checks.invalid(where, "parts", "at least one", "none", "Name what to save.")
        if images_seen < 0:
            raise checks.invalid(where, "images_seen", ">= 0", images_seen, "Count images.")
        if score is not None and not math.isfinite(score):
            raise checks.invalid(where, "score", "finite", score, "Leave it out.")
        state = {formats.OWN: {name: _state_of(where, name, part) for name, part in parts.items()}}
        path = self.path / checkpoint.name_of(images_seen)
        if checkpoint.is_there(self.path, images_seen, score):
            return path
        if path.exists():
            checkpoint.remove(path)
        known = None if score is None else float(score)
        checkpoint.save(self.path, state, images_seen=int(images_seen), score=known)
        checkpoint.prune(self.path, self._keep)
        return path

    def restore(self, parts: Mapping[str, Stateful | dict[str, Any]]) -> int:
        """Bring the parts to the newest whole checkpoint; the images seen by then, 0 without one.

        Without one the parts stay as they are. Give all parts that were saved: a part left out
        would go on from nothing.

        Raises: ValueError: other parts than were saved, a part that its state does not fit, a
                folder of `toque.fit`
        """
        saved = self.latest()
        if saved is None:
            return 0
        where = "CheckpointFolder.restore"
        if parts.keys() != saved.state.keys():
            raise checks.invalid(
                where, "parts", f"those that were saved: {', '.join(saved.state)}",
                ", ".join(parts) or "none",
                "Give the same names; `latest()` has each by itself.",
            )  # fmt: skip
        for name, part in parts.items():
            _put(where, name, part, saved.state[name])
        return saved.images_seen

    def latest(self) -> Saved | None:
        """The newest whole checkpoint; None where there is none.

        Raises: ValueError: a folder of `toque.fit`, or of a newer toque
        """
        return self._read(checkpoint.newest)

    def best(self) -> Saved | None:
        """The whole checkpoint of the highest score; None where none has one.

        Raises: ValueError: as `latest`
        Example: >>> model.load_state_dict(checkpoints.best().state["model"])
        """
        return self._read(checkpoint.best)

    def _read(self, choose: checkpoint.Choice) -> Saved | None:
        found, state, damages = checkpoint.load_chosen(self.path, choose)
        for damage in damages:
            warnings.warn(damage, stacklevel=3)
        if found is None:
            return None
        if formats.OWN not in state:
            raise checks.invalid(
                "CheckpointFolder", str(self.path), "written by its save", "a run of toque.fit",
                "Load its model with toque.train.load_model.",
            )  # fmt: skip
        return Saved(found.images_seen, found.score, state[formats.OWN])


def _state_of(where: str, name: str, part: Any) -> Any:
    if isinstance(part, dict):
        return part
    if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
        raise checks.invalid_type(
            where, name, "a part with state_dict and load_state_dict, or a dict",
            type(part).__name__, "Put plain values into a dict.",
        )  # fmt: skip
    return part.state_dict()


def _put(where: str, name: str, part: Any, state: Any) -> None:
    if isinstance(part, dict):
        part.clear()
        part.update(state)
        return
    try:
        part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise checks.invalid(
            where, name, "what it was when it was saved",
            f"another ({' '.join(str(error).split())[:300]})",
            "Build it alike, or name another folder.",
        ) from error  # fmt: skip
    if isinstance(part, torch.optim.Optimizer):
        lay_out(part)
