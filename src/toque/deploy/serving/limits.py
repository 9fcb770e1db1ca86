"""What a request may cost: refused by its first bytes, before memory or time is spent on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from starlette.requests import ClientDisconnect

from toque import data
from toque.data import jpeg
from toque.data.decoding import TOO_LARGE

if TYPE_CHECKING:
    from starlette.requests import Request

# Each scan of a progressive JPEG goes over the whole picture again, in a few bytes of file.
_MOST_SCANS = 64
_START_OF_SCAN = b"\xff\xda"


@dataclass(frozen=True)
class Limits:
    """The bounds of the server.

    max_bytes:        of one request's body
    max_pixels:       of one image
    max_batch:        images the model is asked about at once
    max_batch_pixels: of all images of a batch, unless it is one image
    max_delay_s:      how long the first image of a batch waits for others while the model is free
    max_waiting:      images decoded or waiting for the model; above it the answer is 503
    max_explaining:   explanations waiting or under way; above it the answer is 503
    body_s:           for a client to send its request
    answer_s:         for a request to be answered, from the time when its body is there
    """

    max_bytes: int = 10 * 2**20
    max_pixels: int = 25_000_000
    max_batch: int = 16
    max_batch_pixels: int = 50_000_000
    max_delay_s: float = 0.002
    max_waiting: int = 64
    max_explaining: int = 4
    body_s: float = 10.0
    answer_s: float = 30.0


class Refused(Exception):
    """A request that is answered with a 4xx status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def decode(
    body: bytes, channels: int, limits: Limits, size: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """The pixels of an upload: uint8 [H, W, C]; of one size, where the model takes only that.

    JPEG, PNG, WebP, GIF (its first picture) and BMP alone: Pillow knows forty other formats, some
    of which start other programs.

    Raises: Refused: another kind of file, a damaged one, or one above the limits
    """
    if not is_known(body):
        form = body.startswith(b"--") and b"Content-Disposition" in body[:400]
        hint = (
            " Send the file itself, not a form: curl --data-binary @photo.jpg URL." if form else ""
        )
        raise Refused(415, f"The body must be a JPEG, PNG, WebP, GIF or BMP file.{hint}")
    if body.startswith(jpeg.START) and body.count(_START_OF_SCAN) > _MOST_SCANS:
        raise Refused(422, f"The image must have at most {_MOST_SCANS} scans; save it again.")
    try:
        pixels = data.decode(
            body, channels=channels, max_pixels=limits.max_pixels, name="the upload"
        )
    except data.UnreadableImage as error:
        if error.reason.endswith(TOO_LARGE):
            most = limits.max_pixels / 1e6
            raise Refused(413, f"The image must have at most {most:g} megapixels.") from None
        raise Refused(422, f"The image must be whole: {error.reason[:200]}.") from None
    except MemoryError:
        raise Refused(413, "The image needs more memory than there is.") from None
    if size is not None and tuple(pixels.shape[1:]) != size:
        height, width = pixels.shape[1:]
        raise Refused(
            422, f"The image must have {size[1]} x {size[0]} pixels; it has {width} x {height}."
        )
    return pixels.permute(1, 2, 0).numpy()


async def read_body(request: Request, limits: Limits, most: int | None = None) -> bytes:
    """The body, as long as it is neither too long nor too slow.

    Args:   most: its bytes; max_bytes if unset
    Raises: Refused: it is
    """
    most = limits.max_bytes if most is None else most
    too_long = Refused(413, f"The body must have at most {most:,} bytes.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise too_long
    except TimeoutError:
        raise Refused(408, f"The body must arrive within {limits.body_s:g} s.") from None
    except ClientDisconnect:
        raise Refused(400, "The client went away.") from None
    return bytes(body)


def is_known(body: bytes) -> bool:
    """Whether the first bytes are those of a format that is looked at."""
    starts = (jpeg.START, b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
    return body.startswith(starts) or (body[:4] == b"RIFF" and body[8:12] == b"WEBP")
