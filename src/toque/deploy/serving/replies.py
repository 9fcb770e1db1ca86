"""What the server answers, task by task: the shape of the JSON, and how it is made."""

from __future__ import annotations

import base64
from collections.abc import Callable

from pydantic import BaseModel, Field

from toque.data.masks import palette
from toque.deploy.answers import Answer, MaskAnswer, NumbersAnswer
from toque.deploy.details import REGRESSION, SEGMENTATION
from toque.deploy.predictions import Prediction


class Labels(BaseModel):
    """What the model says of an image."""

    label: str = Field(description="the most probable class")
    confidence: float = Field(description="its probability, 0 to 1")
    labels: list[str] | None = Field(
        default=None, description="of a multilabel model: those at their thresholds or above"
    )
    probabilities: dict[str, float] = Field(description="of the classes, the most probable first")
    milliseconds: float = Field(description="from the whole request to the answer")


class Numbers(BaseModel):
    """The numbers that the model reads off an image."""

    numbers: dict[str, float] = Field(
        description="by the name of their column, in the units that they were trained in"
    )
    milliseconds: float = Field(description="from the whole request to the answer")


class Mask(BaseModel):
    """The class of each pixel of an image."""

    mask: str = Field(
        description="a PNG of the image's size as a data: address: class numbers, and a palette"
    )
    shares: dict[str, float] = Field(description="of the pixels, for each class, 0 to 1")
    colours: dict[str, str] = Field(description="of the classes in the palette, as #rrggbb")
    milliseconds: float = Field(description="from the whole request to the answer")


Reply = Labels | Numbers | Mask


def model_of(task: str) -> type[Labels] | type[Numbers] | type[Mask]:
    """The shape of the answers of a task."""
    if task == REGRESSION:
        return Numbers
    return Mask if task == SEGMENTATION else Labels


def reply(
    answer: Answer, top: int | None, threshold: float | None, elapsed_ms: Callable[[], float]
) -> Reply:
    """An answer as it is sent; of a mask this writes a PNG, which takes a while.

    Args: top: how many classes, where there are probabilities; all if unset
          threshold: of a multilabel model, from which probability on a label is there
          elapsed_ms: asked last, so that the picture is counted in
    """
    if isinstance(answer, NumbersAnswer):
        return Numbers(numbers=answer.numbers, milliseconds=elapsed_ms())
    if isinstance(answer, MaskAnswer):
        address = f"data:image/png;base64,{base64.b64encode(answer.png()).decode()}"
        colours = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in
                   palette(len(answer.names)).tolist()]  # fmt: skip
        return Mask(
            mask=address, shares=answer.shares,
            colours=dict(zip(answer.names, colours, strict=True)), milliseconds=elapsed_ms(),
        )  # fmt: skip
    assert isinstance(answer, Prediction)
    labels = answer.labels
    if labels is not None and threshold is not None:
        labels = answer.above(threshold)
    return Labels(
        label=answer.label,
        confidence=answer.confidence,
        labels=None if labels is None else list(labels),
        probabilities=dict(answer.top(top or len(answer.probabilities))),
        milliseconds=elapsed_ms(),
    )
