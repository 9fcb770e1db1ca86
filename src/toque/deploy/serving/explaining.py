"""Where the network looked, on demand; bounded by itself, so that answers do not wait for it."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

from toque import checks
from toque.deploy.details import REGRESSION
from toque.deploy.explain import overlay
from toque.deploy.predictor import Pixels, Predictor
from toque.deploy.serving.limits import Limits, Refused


class Explaining:
    """One explanation at a time, in a thread of its own; a few may wait.

    A forward and a backward pass on the one image, at the size the network sees, whatever the size
    of the upload.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._thread = ThreadPoolExecutor(1, "explain")
        self._places = 0

    def enter(self) -> None:
        """Take a place, before the body is read; `leave` gives it back.

        Raises: Refused: all max_explaining places are taken
        """
        if self._places >= self._limits.max_explaining:
            raise Refused(503, "Too many explanations wait; try again in a second.")
        self._places += 1

    def leave(self) -> None:
        """Give a place back."""
        self._places -= 1

    async def png(self, predictor: Predictor, pixels: Pixels, label: str | None) -> bytes:
        """The picture of where it looked for a class or number; if unset for its most probable
        class, or its first number.

        Raises: Refused: a class it does not know, or a model that cannot be looked into
        """
        if label is not None and label not in predictor.labels:
            raise Refused(422, "The label must be one of the model's.")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _png, predictor, pixels, label)

    def stop(self) -> None:
        """End, once the explanation that is under way is done."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _png(predictor: Predictor, pixels: Pixels, label: str | None) -> bytes:
    from PIL import Image

    if label is None:
        numbers = predictor.task == REGRESSION
        label = predictor.labels[0 if numbers else int(predictor.ask([pixels])[0].argmax())]
    try:
        picture = overlay(predictor, pixels, label)
    except checks.UserMistake as mistake:
        raise Refused(422, str(mistake)) from None
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
