"""From a run to something that answers.

predict    what a finished run says of images
"""

from toque.deploy.predict import Prediction, predict

__all__ = ["Prediction", "predict"]
