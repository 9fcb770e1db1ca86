"""Several images in one request: JSON in, an answer or a mistake for each out."""

from __future__ import annotations

import base64
import binascii
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from toque.deploy.serving.limits import Limits, Refused
from toque.deploy.serving.replies import model_of

OF_ONE = 4
"""How many times the bytes of one image all of a request may have together, as they are sent."""


class Images(BaseModel):
    """What is asked."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(min_length=1, description="image files, each as base64")


class Missed(BaseModel):
    """Why one image of several has no answer; the others have theirs."""

    status: int = Field(description="as it would be answered alone, such as 422")
    detail: str


BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Images.model_json_schema()}},
    }
}


@cache
def answers_of(task: str) -> type[BaseModel]:
    """The shape of the answers to several images of a task."""
    one = model_of(task)
    each = Field(description="in the order of the images")
    found: type[BaseModel] = create_model(f"Many{one.__name__}", answers=(list[one | Missed], each))  # type: ignore[valid-type]
    return found


def files_in(body: bytes, limits: Limits, most: int) -> list[bytes | Missed]:
    """The files in the body of a request, in their order.

    Raises: Refused: it is not what is asked for, or there are more than `most`
    """
    try:
        sent = Images.model_validate_json(body).images
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        raise Refused(
            422, f'The body must be {{"images": [base64, ...]}}; {where or "it"}: {first["msg"]}.'
        ) from None
    if len(sent) > most:
        raise Refused(413, f"There must be at most {most} images in one request.")
    return [_file(one, limits) for one in sent]


def _file(text: str, limits: Limits) -> bytes | Missed:
    try:
        file = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return Missed(status=422, detail="The image must be base64, without a line break.")
    if len(file) > limits.max_bytes:
        return Missed(status=413, detail=f"The image must have at most {limits.max_bytes:,} bytes.")
    return file
