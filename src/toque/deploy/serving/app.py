"""The routes of the server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from toque.deploy.serving.access import Access, Log, write_log
from toque.deploy.serving.limits import Limits, Refused
from toque.deploy.serving.many import BODY, answers_of
from toque.deploy.serving.metrics import Families, exposition
from toque.deploy.serving.openapi import MISTAKES, UPLOAD, Mistake, Model
from toque.deploy.serving.questions import Question, endpoint
from toque.deploy.serving.replies import Reply, model_of
from toque.deploy.serving.service import Service
from toque.version import VERSION

Everyones = Callable[[Families], Awaitable[Mapping[str, Families]]]
"""What this process counts -> what all of them do, by the label of each."""

_PAGE = {"/": ("page.html", "text/html"), "/page.js": ("page.js", "text/javascript"),
         "/page.css": ("page.css", "text/css")}  # fmt: skip


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
    everyones: Everyones | None = None,
) -> FastAPI:
    """The server of a run folder or exported file, as an ASGI application.

    Args:    trust: as for `toque.deploy.load`
             calibrate: whether its confidence is that of the run's temperature
             explain: whether to answer /explain, where the model can be looked into
             limits: what a request may cost
             token: if given, what every client must send as `Authorization: Bearer TOKEN`
             log: called with each line of the log
             look_every_s: seconds between two looks for a newer model
             everyones: of several processes, gives what all of them count, for /metrics
    Raises:  as `toque.deploy.load`
    Example: >>> uvicorn.run(create_app("runs/flowers"))
    """
    service = Service(
        source, limits or Limits(), log, device=device, trust=trust, calibrate=calibrate,
        explain=explain, look_every_s=look_every_s,
    )  # fmt: skip

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    # The usual pages of documentation load scripts from elsewhere; /openapi.json stays.
    app = FastAPI(
        title="toque", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None,
        servers=[{"url": "."}],  # beside the description, wherever a proxy has put it
    )  # fmt: skip
    app.state.service = service
    app.add_middleware(
        Access, metrics=service.metrics, log=log, token=token, ending=lambda: service.ending
    )
    app.exception_handler(Refused)(_refused)
    app.exception_handler(RequestValidationError)(_misunderstood)

    task = service.predictor.task

    async def predict(request: Request, question: Question) -> Reply:
        return await service.answer(request, question)

    async def predict_many(request: Request, question: Question) -> BaseModel:
        return many(answers=await service.answers(request, question))

    app.add_api_route(
        "/predict", endpoint(task, predict), methods=["POST"], response_model=model_of(task),
        response_model_exclude_none=True, responses=MISTAKES, openapi_extra=UPLOAD,
        summary="What the model says of the image in the body.", operation_id="predict",
    )  # fmt: skip
    many = answers_of(task)
    app.add_api_route(
        "/predict/many", endpoint(task, predict_many), methods=["POST"], response_model=many,
        response_model_exclude_none=True, responses=MISTAKES, openapi_extra=BODY,
        summary="What the model says of each of several images.", operation_id="predict_many",
    )  # fmt: skip

    @app.post(
        "/explain",
        response_class=Response,
        responses={**MISTAKES, 200: {"content": {"image/png": {}}}, 404: {"model": Mistake}},
        openapi_extra=UPLOAD,
    )
    async def explained(
        request: Request,
        label: Annotated[
            str | None, Query(max_length=1000, description="a class; the most probable if unset")
        ] = None,
    ) -> Response:
        """A picture (PNG) of where the network looked for a class in the image in the body."""
        return Response(await service.explanation(request, label), media_type="image/png")

    @app.get("/model", responses={401: MISTAKES[401]})
    async def describe() -> Model:
        """The name and the classes of the model that answers."""
        found = service.predictor
        return Model(
            name=str(found.details.get("model") or Path(found.source).name),
            task=found.task,
            labels=list(found.labels),
            channels=found.channels,
            version=VERSION,
            explains=service.explains,
        )

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process runs."""
        return {"status": "alive"}

    @app.get("/ready", responses={503: MISTAKES[503]})
    async def ready() -> dict[str, str]:
        """Whether requests should be sent here: not while it is full, nor when it is ending."""
        service.require_ready()
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, responses={401: MISTAKES[401]})
    async def measured() -> Response:
        """Counts and times for Prometheus."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        own = service.measured()
        found = {"": own} if everyones is None else await everyones(own)
        return Response(exposition(found), media_type=kind)

    for path, (name, kind) in _PAGE.items():
        content = resources.files(__package__).joinpath(name).read_bytes()
        app.add_api_route(path, _file(content, kind), include_in_schema=False)
    return app


async def _refused(_: Request, error: Refused) -> JSONResponse:
    # What is left of the body is not read: the connection cannot be used again.
    headers = {"Connection": "close"} if error.status in (408, 413) else {}
    if error.status == 503:
        headers["Retry-After"] = "1"
    return JSONResponse({"detail": str(error)}, error.status, headers)


async def _misunderstood(_: Request, error: RequestValidationError) -> JSONResponse:
    # One shape for every mistake: FastAPI's own is a list.
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    unknown = first["type"] == "extra_forbidden"
    said = "it is not asked for here; /openapi.json tells what is" if unknown else first["msg"]
    return JSONResponse({"detail": f"{name[:100]}: {said}."}, 422)


def _file(content: bytes, kind: str) -> Callable[[], Any]:
    async def page() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8")

    return page
