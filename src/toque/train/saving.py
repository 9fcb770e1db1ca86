"""When the state is saved, and what happens when it cannot be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from toque.train import checkpoint
from toque.train.run import CheckpointSettings

_RETRY_S = 60.0


class Saver:
    """Saves a run's state at the end of every epoch and every so many seconds.

    A save that fails (no space, no permission) loses nothing: the training goes on with the older
    checkpoints untouched, says so, and tries again a minute later.
    """

    def __init__(
        self, folder: Path, settings: CheckpointSettings, say: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._say = say
        self._next_s = time.monotonic() + settings.every_s

    def due(self) -> bool:
        """Whether it is time to save, by the clock."""
        return time.monotonic() >= self._next_s

    def save(self, state: Mapping[str, Any], images_seen: int, score: float | None) -> bool:
        """Save, unless this very state is on the disk already; false if it could not be."""
        self._next_s = time.monotonic() + self._settings.every_s
        if any(
            one.images_seen == images_seen and (score is None or one.score is not None)
            for one in checkpoint.found(self._folder)
        ):
            return True
        try:
            checkpoint.save(self._folder, state, images_seen=images_seen, score=score)
            checkpoint.prune(self._folder, self._settings.keep)
        except OSError as error:
            self._next_s = time.monotonic() + min(_RETRY_S, self._settings.every_s)
            self._say(
                f"the checkpoint at image {images_seen} could not be saved ({error}). "
                "The ones before it are whole; make room in the run folder: toque tries again."
            )
            return False
        return True
