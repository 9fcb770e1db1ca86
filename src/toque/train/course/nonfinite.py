"""Steps without a number: told with their images, and after too many in a row the run stops or
goes back to where all was well, with a lower rate.

Such a step has changed nothing (see step.py). What is decided here follows from the steps alone, in
their order, and not from when they were looked at: a run that was killed decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from toque import checks
from toque.train.distributed.world import ALONE, World
from toque.train.logs.window import Settled
from toque.train.settings.course import NonFiniteSettings

# Each halves a float16 loss scale that begins at 2**16: after so many it is 2**-8.
_OVERFLOWS = 24
_TOLD, _NAMED = 10, 5
_ROLL_BACKS = 8  # with the rate halved each time: 1/256 of it is no help either


class NonFinite:
    """What a run does about steps without a number.

    Args: settings: of the run
          batch_size: images in a step
          name_of: what an image is called, by its index
          warn: where each skipped step is told, the first ten of them
          scaled: a float16 loss scale is at work, whose overflows are no trouble
          world: its ranks judge the same steps together, and name the images of all
    """

    def __init__(
        self,
        settings: NonFiniteSettings,
        batch_size: int,
        *,
        name_of: Callable[[int], str],
        warn: Callable[[str], None],
        scaled: bool = False,
        world: World = ALONE,
    ) -> None:
        self._settings = settings
        self._batch_size = batch_size
        self._name_of = name_of
        self._warn = warn
        self._scaled = scaled
        self._world = world
        self._told = 0
        self._overflows = 0
        self._roll_backs = 0
        self.streak = 0
        self.began_images = 0
        self.skipped_steps = 0
        self.rate_factor = 1.0

    def judge(self, settled: Sequence[Settled], learning_rate: float) -> bool:
        """Look at steps in their order; true if the run must go back to before `began_images`.

        Raises: ValueError: too many in a row without a number, or the very first of the run
        """
        for one in settled:
            overflow = self._scaled and one.skipped and math.isfinite(one.loss)
            self._overflows = self._overflows + 1 if overflow else 0
            if not one.skipped or (overflow and self._overflows <= _OVERFLOWS):
                self.streak = self.streak if overflow else 0
                continue
            if self.streak == 0:
                self.began_images = one.outcome.images_seen
            self.streak += 1
            self.skipped_steps += 1
            if one.outcome.images_seen == 0 or self.streak >= self._settings.limit:
                if self._settings.then == "roll_back" and self.began_images > 0:
                    return True
                raise checks.InvalidValue(self._stop(one, learning_rate))
            self._tell(one)
        return False

    def rolled_back(self, images_seen: int, before: float) -> None:
        """The run is at a checkpoint from before the trouble: go on at a lower rate.

        Raises: ValueError: it was tried often enough
        """
        self._roll_backs += 1
        if self._roll_backs > _ROLL_BACKS:
            raise checks.invalid(
                "fit", "loss", "finite", f"none after going back {_ROLL_BACKS} times",
                "Look at the images and the loss: a lower learning rate does not help.",
            )  # fmt: skip
        self.rate_factor = before * self._settings.rate_factor
        self.streak = 0
        self._warn(
            f"{self._settings.limit} steps in a row had no number: the run went back to image "
            f"{images_seen} and goes on at {self.rate_factor:.3g} of the learning rate"
        )

    def no_way_back(self) -> checks.InvalidValue:
        """What to raise where no checkpoint is old enough."""
        return checks.invalid(
            "fit", "loss", "finite",
            f"none from image {self.began_images} on, with no whole epoch before to go back to",
            "Lower optimizer.learning_rate or lengthen schedule.warmup_fraction.",
        )  # fmt: skip

    def _tell(self, one: Settled) -> None:
        self._told += 1
        if self._told <= _TOLD:
            more = "; more such steps are only counted" if self._told == _TOLD else ""
            self._warn(
                f"step {self._step(one)} was skipped: {_what(one)} ({self._images(one)}){more}"
            )

    def _stop(self, one: Settled, learning_rate: float) -> str:
        at = self.began_images + self._batch_size
        fix = (
            "Lower optimizer.learning_rate or lengthen schedule.warmup_fraction; if it is so at "
            "step 1, look at the images and the loss."
        )
        what = str(one.loss) if not math.isfinite(one.loss) else "a gradient that is not"
        return (
            f"fit: loss must be finite; got {what} at image {at} (step {at // self._batch_size}, "
            f"learning rate {learning_rate:.3g}; {self._images(one)}). {fix}"
        )

    def _step(self, one: Settled) -> int:
        return one.outcome.images_seen // self._batch_size + 1

    def _images(self, one: Settled) -> str:
        """The images whose own outputs are no numbers; all of the batch where that does not say."""
        indices, outputs = one.outcome.indices, one.outcome.outputs
        own = np.zeros(len(indices), dtype=bool)
        if len(outputs) == len(indices):
            own = ~torch.isfinite(outputs).flatten(1).all(1).cpu().numpy()
        rows = np.stack([indices, own], axis=1)
        rows = self._world.gather_rows(rows, "the images of a step without a number")
        indices, own = rows[:, 0], rows[:, 1] != 0
        which = "images"
        if 0 < own.sum() < len(indices):
            indices, which = indices[own], "images without a number"
        return f"{which}: {checks.first(map(self._name_of, indices.tolist()), _NAMED)}"

    def state_dict(self) -> dict[str, Any]:
        return {
            "streak": self.streak,
            "began_images": self.began_images,
            "skipped_steps": self.skipped_steps,
            "overflows": self._overflows,
            "rate_factor": self.rate_factor,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.streak = state["streak"]
        self.began_images = state["began_images"]
        self.skipped_steps = state["skipped_steps"]
        self._overflows = state["overflows"]
        self.rate_factor = state["rate_factor"]


def _what(one: Settled) -> str:
    return "a gradient is not finite" if math.isfinite(one.loss) else f"the loss is {one.loss}"
