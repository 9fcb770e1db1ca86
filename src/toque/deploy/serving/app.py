"""The routes of the server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import torch
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from toque.deploy.explain import why_not
from toque.deploy.outputs import Raw
from toque.deploy.predictor import Pixels, Predictor
from toque.deploy.serving.access import Access, Log, write_log
from toque.deploy.serving.batching import Batcher, Full
from toque.deploy.serving.explaining import Explaining
from toque.deploy.serving.limits import Limits, Refused, decode, read_body
from toque.deploy.serving.metrics import Metrics
from toque.deploy.serving.reloading import Reloading
from toque.deploy.serving.replies import Reply, model_of, reply
from toque.version import VERSION

_PAGE = {"/": ("page.html", "text/html"), "/page.js": ("page.js", "text/javascript"),
         "/page.css": ("page.css", "text/css")}  # fmt: skip
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


def create_app(
    source: str | Path,
    *,
    device: str = "cpu",
    trust: bool = False,
    calibrate: bool = False,
    explain: bool = True,
    limits: Limits | None = None,
    token: str | None = None,
    log: Log = write_log,
    look_every_s: float = 2.0,
) -> FastAPI:
    """The server of a run folder or exported file, as an ASGI application.

    Args:    trust: as for `toque.deploy.load`
             calibrate: whether its confidence is that of the run's temperature
             explain: whether to answer /explain, where the model can be looked into
             limits: what a request may cost
             token: if given, what every client must send as `Authorization: Bearer TOKEN`
             log: called with each line of the log
             look_every_s: seconds between two looks for a newer model
    Raises:  as `toque.deploy.load`
    Example: >>> uvicorn.run(create_app("runs/flowers"))
    """
    bounds = limits or Limits()
    metrics = Metrics()

    def told(done: bool, sentence: str) -> None:
        metrics.reloaded("done" if done else "failed")
        log({"time": time.time(), "event": "reload", "done": done, "message": sentence})

    model = Reloading(
        source, told, device=device, trust=trust, calibrate=calibrate, every_s=look_every_s
    )
    readers = ThreadPoolExecutor(max(1, torch.get_num_threads()), "decode")
    batcher: list[Batcher] = []
    explaining = Explaining(bounds)

    async def pixels_of(body: bytes, predictor: Predictor) -> Pixels:
        return await asyncio.get_running_loop().run_in_executor(
            readers, decode, body, predictor.channels, bounds, predictor.size
        )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.append(Batcher(bounds, metrics.batch))
        batcher[0].start()
        model.start()
        yield
        await model.stop()
        await batcher.pop().stop()
        explaining.stop()
        readers.shutdown(wait=True)

    # The usual pages of documentation load scripts from elsewhere; /openapi.json stays.
    app = FastAPI(
        title="toque", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None,
        servers=[{"url": "."}],  # beside the description, wherever a proxy has put it
    )  # fmt: skip

    app.add_middleware(Access, metrics=metrics, log=log, token=token)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        # What is left of the body is not read: the connection cannot be used again.
        headers = {"Connection": "close"} if error.status in (408, 413) else {}
        if error.status == 503:
            headers["Retry-After"] = "1"
        return JSONResponse({"detail": str(error)}, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def misunderstood(_: Request, error: RequestValidationError) -> JSONResponse:
        # One shape for every mistake: FastAPI's own is a list.
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"detail": f"{name}: {first['msg']}."}, 422)

    upload = {
        "requestBody": {
            "required": True,
            "description": "the bytes of one image file",
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}} for kind in _IMAGE_TYPES
            },
        }
    }
    mistakes: dict[int | str, dict[str, Any]] = {
        status: {"model": Mistake, "description": text}
        for status, text in {
            400: "a query that is not understood", 401: "no token, or a wrong one",
            408: "the body came too slowly", 413: "too many bytes or pixels",
            415: "not a JPEG, PNG, WebP, GIF or BMP file",
            422: "a damaged image, or a query out of range",
            503: "too many requests: try again after Retry-After seconds",
        }.items()
    }  # fmt: skip

    async def answered(request: Request, top: int | None) -> Reply:
        waiting = batcher[0]
        try:
            waiting.enter()
        except Full:
            raise Refused(503, "Too many requests wait; try again in a second.") from None
        try:
            body = await read_body(request, bounds)
            start = time.perf_counter()
            predictor = model.predictor
            async with asyncio.timeout(bounds.answer_s):
                pixels = await pixels_of(body, predictor)
                raw = await waiting.ask(predictor, pixels)
                return await asyncio.get_running_loop().run_in_executor(
                    readers, said, predictor, pixels, raw, top, start
                )
        except TimeoutError:
            raise Refused(503, f"No answer within {bounds.answer_s:g} s; try again.") from None
        finally:
            waiting.leave()

    def said(
        predictor: Predictor, pixels: Pixels, raw: Raw, top: int | None, start: float
    ) -> Reply:
        height, width = pixels.shape[:2]
        answer = predictor.outputs.answer("", predictor.labels, raw, (height, width))
        return reply(answer, top, lambda: round(1000 * (time.perf_counter() - start), 2))

    @app.post(
        "/predict", response_model=model_of(model.predictor.task),
        response_model_exclude_none=True, responses=mistakes, openapi_extra=upload,
    )  # fmt: skip
    async def predict(
        request: Request,
        top: Annotated[int | None, Query(ge=1, le=100_000, description="how many classes")] = None,
    ) -> Reply:
        """What the model says of the image in the body."""
        return await answered(request, top)

    @app.post(
        "/explain",
        response_class=Response,
        responses={**mistakes, 200: {"content": {"image/png": {}}}, 404: {"model": Mistake}},
        openapi_extra=upload,
    )
    async def explained(
        request: Request,
        label: Annotated[
            str | None, Query(max_length=1000, description="a class; the most probable if unset")
        ] = None,
    ) -> Response:
        """A picture (PNG) of where the network looked for a class in the image in the body."""
        predictor = model.predictor
        if not explain:
            raise Refused(404, "This server answers without explanations.")
        if (reason := why_not(predictor)) is not None:
            raise Refused(404, f"The model must be {reason[0]} to be explained. {reason[2]}")
        explaining.enter()
        try:
            body = await read_body(request, bounds)
            async with asyncio.timeout(bounds.answer_s):
                png = await explaining.png(predictor, await pixels_of(body, predictor), label)
        except TimeoutError:
            raise Refused(503, f"No answer within {bounds.answer_s:g} s; try again.") from None
        finally:
            explaining.leave()
        return Response(png, media_type="image/png")

    @app.get("/model", responses={401: mistakes[401]})
    async def describe() -> Model:
        """The name and the classes of the model that answers."""
        found = model.predictor
        return Model(
            name=str(found.details.get("model") or Path(found.source).name),
            task=found.task,
            labels=list(found.labels),
            channels=found.channels,
            version=VERSION,
            explains=explain and why_not(found) is None,
        )

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process runs."""
        return {"status": "alive"}

    @app.get("/ready", responses={503: mistakes[503]})
    async def ready() -> dict[str, str]:
        """Whether a request sent now would be taken."""
        if batcher[0].waiting >= bounds.max_waiting:
            raise Refused(503, "Too many requests wait; try again in a second.")
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, responses={401: mistakes[401]})
    async def measured() -> Response:
        """Counts and times for Prometheus."""
        text = metrics.text(batcher[0].waiting)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    for path, (name, kind) in _PAGE.items():
        content = resources.files(__package__).joinpath(name).read_bytes()
        app.add_api_route(path, _file(content, kind), include_in_schema=False)
    return app


def _file(content: bytes, kind: str) -> Callable[[], Any]:
    async def page() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8")

    return page
