"""From a run to something that answers.

predict     what a finished run, or an exported file, says of image files
answer      what a run on labels, numbers or masks says of them
load        a predictor from a run folder or an exported file
export      a finished run -> one file that takes raw images
Prediction  what a model says of one image
Predictions what it says of many
Predictor   a loaded model: call it with images
Exported    an exported file, its card, and how it compares with the run
Parity      how a file's answers differ from the model's

Exporting reads a run, and so imports toque.train; that waits until it is asked for, as does all
that answering needs nothing of: predicting starts with this file.
"""

from typing import TYPE_CHECKING, Any

from toque.deploy.load import load
from toque.deploy.predict import predict
from toque.deploy.predictions import Prediction, Predictions
from toque.deploy.predictor import Predictor

if TYPE_CHECKING:
    from toque.deploy.answers import answer
    from toque.deploy.exporting import Exported, export
    from toque.deploy.parity import Parity

__all__ = [
    "Exported",
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
    if name == "answer":
        from toque.deploy import answers

        return answers.answer
    if name == "Parity":
        from toque.deploy import parity

        return parity.Parity
    if name in ("Exported", "export"):
        from toque.deploy import exporting

        return getattr(exporting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
