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
        self._asked = asyncio.Event()

    def look_now(self) -> None:
        """Load it again at once, changed or not; from the event loop."""
        self._asked.set()

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
            asked = await self._called()
            found = self._signature()
            if not asked and (found is None or found == self._seen):
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
                self._told(
                    False, f"{self._source} cannot be loaded anew, so the model stays: {error}"
                )

    async def _called(self) -> bool:
        """Whether it was asked to load again; False when it is time to look by itself."""
        try:
            await asyncio.wait_for(self._asked.wait(), self._every_s)
        except TimeoutError:
            return False
        self._asked.clear()
        return True

    def _load(self) -> Predictor:
        predictor = load(self._source, device=self._device, trust=self._trust)
        if self._calibrate:
            predictor = calibrated(predictor)
        _try(predictor)
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


def _try(predictor: Predictor) -> None:
    """Ask it once, of a picture that is no single colour, before anybody else does.

    The first answer takes longest (kernels are chosen, memory is taken): nobody waits for it.

    Raises: ValueError: it answers with what is no number, as weights do of a run that went wrong
    """
    height, width = predictor.size or (32, 32)
    count = height * width * predictor.channels
    picture = np.arange(count).astype(np.uint8).reshape(height, width, predictor.channels)
    if not np.isfinite(predictor.ask([picture])).all():
        raise checks.invalid(
            "serve", "the model", "one that answers with finite numbers", "NaN or infinity",
            "Its weights are damaged: serve another checkpoint, or export the run again.",
        )  # fmt: skip
