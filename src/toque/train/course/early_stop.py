"""Early stopping: a function of the scores recorded so far."""

from __future__ import annotations

from collections.abc import Sequence

from toque.train.settings.course import StopSettings


class EarlyStop:
    """Says when the score has not risen for `patience_epochs` validations.

    The scores belong to the state of a run, so a resumed run stops where it would have.

    Example: >>> early = EarlyStop(StopSettings(patience_epochs=2))
             >>> [early.add(score) for score in (0.5, 0.6, 0.6, 0.4)]
             [False, False, False, True]
    """

    def __init__(self, settings: StopSettings) -> None:
        self._settings = settings
        self.scores: list[float] = []

    def add(self, score: float) -> bool:
        """Record a validation; true if it is time to stop."""
        self.scores.append(score)
        return self.due

    @property
    def due(self) -> bool:
        patience = self._settings.patience_epochs
        if patience is None or not self.scores:
            return False
        best = _last_rise(self.scores, self._settings.least_gain)
        return len(self.scores) - 1 - best >= patience


def _last_rise(scores: Sequence[float], least_gain: float) -> int:
    """Where the scores last rose by more than `least_gain` above the best before."""
    at, best = 0, scores[0]
    for number, score in enumerate(scores):
        if score > best + least_gain:
            at, best = number, score
    return at
