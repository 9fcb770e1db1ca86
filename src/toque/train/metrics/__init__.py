"""What the answers on validation images are worth: scores, how sure they are, and what to look at.

answers.py         what a classifier said of each image, small enough to keep with the run
classification.py  accuracy, top 5, F1, calibration, each with its interval
intervals.py       bootstrap: how sure a score is, and whether two runs differ
resampled.py       scores of labels, numbers and masks, for the bootstrap
doubts.py          what the answers contradict in any task
calibration.py     whether 90 % confident means 90 % right, and the temperature that mends it
shown.py           how a score is read by people
stages.py          what share of the time each stage of a run took
suspects.py        labels that the answers contradict

NumPy alone: nothing here needs the model, the images or torchmetrics (four seconds of import).
Shape letters: N images, K classes, R resamples, M of the most probable classes.
"""

from toque.train.metrics.answers import Answers
from toque.train.metrics.calibration import Calibration, temperature_of
from toque.train.metrics.classification import Scores, score, scores_of
from toque.train.metrics.doubts import Doubt
from toque.train.metrics.intervals import Interval, difference, resample
from toque.train.metrics.suspects import Suspect, suspects, unlearnt

__all__ = [
    "Answers",
    "Calibration",
    "Doubt",
    "Interval",
    "Scores",
    "Suspect",
    "difference",
    "resample",
    "score",
    "scores_of",
    "suspects",
    "temperature_of",
    "unlearnt",
]
