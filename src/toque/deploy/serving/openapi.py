"""What /openapi.json says of the routes besides their answers: uploads, mistakes, the model."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp",
                "application/octet-stream")  # fmt: skip


class Mistake(BaseModel):
    """Why a request was not answered."""

    detail: str


class Model(BaseModel):
    """What is being asked."""

    name: str
    task: str = Field(description="classification, multilabel, regression or segmentation")
    labels: list[str] = Field(description="the names of its classes, labels or numbers")
    channels: int
    version: str = Field(description="of toque")
    explains: bool = Field(description="whether /explain shows where it looked")


UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "the bytes of one image file",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}} for kind in _IMAGE_TYPES
        },
    }
}
MISTAKES: dict[int | str, dict[str, Any]] = {
    status: {"model": Mistake, "description": text}
    for status, text in {
        400: "a query that is not understood", 401: "no token, or a wrong one",
        408: "the body came too slowly", 413: "too many bytes or pixels",
        415: "not a JPEG, PNG, WebP, GIF or BMP file",
        422: "a damaged image, or a query out of range",
        503: "too many requests: try again after Retry-After seconds",
    }.items()
}  # fmt: skip
