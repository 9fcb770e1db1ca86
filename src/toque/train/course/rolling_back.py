"""Going back to the last good checkpoint, after too many steps in a row without a number."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from toque.train.course.nonfinite import NonFinite
from toque.train.course.rewind import Rewindable
from toque.train.course.standing import Standing
from toque.train.distributed.checkpoints import Checkpoints
from toque.train.distributed.follower import SilentLog
from toque.train.logs.log import MetricsLog
from toque.train.state import checkpoint
from toque.train.state.saving import Saver


class RollBack:
    """Takes a run back to before its trouble began: state, rows and batches, at a lower rate.

    Args: checkpoints: where to go back to
          saver: may be writing there, and is waited for
          log: forgets the rows that came after
          warn: is told of checkpoints that are damaged
    """

    def __init__(
        self,
        standing: Standing,
        trouble: NonFinite,
        checkpoints: Checkpoints,
        saver: Saver,
        log: MetricsLog | SilentLog,
        batches: Rewindable,
        warn: Callable[[str], None],
    ) -> None:
        self._standing = standing
        self._trouble = trouble
        self._checkpoints = checkpoints
        self._saver = saver
        self._log = log
        self._batches = batches
        self._warn = warn

    def __call__(self) -> None:
        """Stand at the last checkpoint with a score from before the trouble.

        Raises: ValueError: there is none, or it was tried often enough
        """
        factor = self._trouble.rate_factor
        self._saver.settle()
        good, state, damages = self._checkpoints.load(
            partial(checkpoint.scored, images_seen=self._trouble.began_images)
        )
        for damage in damages:
            self._warn(damage)
        if good is None:
            raise self._trouble.no_way_back()
        self._standing.load_state_dict(state)
        # The state has the rate of then: what was lowered since stays lowered.
        self._trouble.rolled_back(self._standing.images_seen, factor)
        self._log.cut(self._standing.images_seen)
        self._batches.rewind(self._standing.images_seen)
