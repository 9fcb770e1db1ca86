"""A newer model in the place of the old one, without a request lost.

Requests that came before go to the old model, those after to the new one. A newer file that cannot
be loaded changes nothing: the old model goes on answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from toque import checks
from toque.deploy.load import load
from toque.deploy.predictor import Predictor, calibrated

_LOOK_EVERY_S = 2.0
# As in train/run_folder/folder.py, which is not imported: it would load the training.
_WEIGHTS = "weights.safetensors"

Signature = tuple[int, int, int]

Told = Callable[[bool, str], None]
"""Told of each attempt: whether it worked, and a sentence."""


class Reloading:
    """The predictor of a source, which is loaded again when its file changes.

    Args: source: a run folder or an exported file
          trust: as for `toque.deploy.load`
          calibrate: whether its confidence is that of the run's temperature
          told: what to call after each attempt
          every_s: seconds between two looks
    """

    def __init__(
        self,
        source: str | Path,
        told: Told,
        *,
        device: str = "cpu",
        trust: bool = False,
        calibrate: bool = False,
        every_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._source = Path(source)
        self._told = told
        self._device = device
        self._trust = trust
        self._calibrate = calibrate
        self._every_s = every_s
        # Looked at before loading: a file written meanwhile is then loaded once more, never missed.
        self._seen = self._signature()
        self.predictor = self._load()
        self._kind = self.predictor.task
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, in the running event loop."""
        _settle()
        self._task = asyncio.get_running_loop().create_task(self._look())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        gc.unfreeze()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            found = self._signature()
            if found is None or found == self._seen:
                continue
            self._seen = found
            try:
                newer = await asyncio.to_thread(self._load)
                if newer.task != self._kind:  # clients were told the shape of the answers
                    raise checks.invalid(
                        "serve", "the newer model", f"of {self._kind}, as the one before",
                        newer.task, "Start the server anew.",
                    )  # fmt: skip
                self.predictor = newer
                gc.unfreeze()  # the old one may be freed
                del newer
                _settle()
                self._told(True, f"loaded {self._source} anew")
            except Exception as error:  # whatever a damaged file causes, the old model stays
                self._told(False, f"{self._source} has changed and cannot be loaded: {error}")

    def _load(self) -> Predictor:
        predictor = load(self._source, device=self._device, trust=self._trust)
        if self._calibrate:
            predictor = calibrated(predictor)
        _warm(predictor)
        return predictor

    def _signature(self) -> Signature | None:
        file = self._source / _WEIGHTS if self._source.is_dir() else self._source
        with contextlib.suppress(OSError):
            found = file.stat()
            return found.st_ino, found.st_mtime_ns, found.st_size
        return None


def _settle() -> None:
    """Leave what is loaded by now out of garbage collection, which stops every thread meanwhile.

    A full collection walks all of PyTorch's objects: 0.2 to 0.4 s, in the middle of the answers.
    """
    gc.collect()
    gc.freeze()


def _warm(predictor: Predictor) -> None:
    """The first answer takes longest (kernels are chosen, memory is taken): nobody waits for it."""
    predictor.ask([np.zeros((*(predictor.size or (32, 32)), predictor.channels), np.uint8)])
