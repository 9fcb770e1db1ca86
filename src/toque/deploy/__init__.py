"""From a run to something that answers.

predict       the classes or labels of image files, by a finished run or an exported file
answer        what either says of them, whatever its task
load          a predictor from a run folder or an exported file
export        a finished run -> one file that takes raw images
Prediction    what a model of classes or labels says of one image; Predictions: of many
NumbersAnswer what one of numbers says; MaskAnswer: what one of masks says
Predictor     a loaded model: call it with images, or ask for its answers
Exported      an exported file, its card, and how it compares with the run
Parity        how a file's classes or labels differ from the model's; NumbersParity, MasksParity

Exporting reads a run, and so imports toque.train; that waits until it is asked for, as does all
that answering needs nothing of: predicting starts with this file.
"""

from typing import TYPE_CHECKING, Any

from toque.deploy.answers import MaskAnswer, NumbersAnswer
from toque.deploy.load import load
from toque.deploy.predict import answer, predict
from toque.deploy.predictions import Prediction, Predictions
from toque.deploy.predictor import Predictor

if TYPE_CHECKING:
    from toque.deploy.exporting import Exported, export
    from toque.deploy.parity import MasksParity, NumbersParity, Parity

__all__ = [
    "Exported",
    "MaskAnswer",
    "MasksParity",
    "NumbersAnswer",
    "NumbersParity",
    "Parity",
    "Prediction",
    "Predictions",
    "Predictor",
    "answer",
    "export",
    "load",
    "predict",
]


def __getattr__(name: str) -> Any:
    if name in ("MasksParity", "NumbersParity", "Parity"):
        from toque.deploy import parity

        return getattr(parity, name)
    if name in ("Exported", "export"):
        from toque.deploy import exporting

        return getattr(exporting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
