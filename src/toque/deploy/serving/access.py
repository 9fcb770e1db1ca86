"""What surrounds every request: who may ask, headers of every answer, one line of the log."""

from __future__ import annotations

import contextlib
import hmac
import json
import re
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toque.deploy.serving.metrics import Metrics

# Open to everyone also where a token is asked for: the page asks for it, a balancer cannot.
_OPEN = frozenset({"/", "/page.js", "/page.css", "/health", "/ready"})
# Answered however many connections are open: whether it lives, and why it is slow.
_ALWAYS = frozenset({"/health", "/metrics"})
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
        "media-src blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
}
_REQUEST_ID = re.compile(r"[\w.:=+/-]{1,128}", re.ASCII)

Log = Callable[[dict[str, Any]], None]


def write_log(row: dict[str, Any]) -> None:
    """One line of JSON on standard error; nobody goes without an answer for a log that is full."""
    with contextlib.suppress(OSError):
        # At once, with its end: the lines of several processes do not mix.
        sys.stderr.write(json.dumps(row, ensure_ascii=True) + "\n")
        sys.stderr.flush()


def write_problems(row: dict[str, Any]) -> None:
    """As `write_log`, without the requests that were answered as they should be."""
    if row.get("status", 500) >= 500:
        write_log(row)


class Access:
    """An application behind a token, whose answers are named, counted and logged.

    A request is known by the X-Request-ID that a proxy gave it, or by one of our own, in the answer
    and in the log. HEAD is answered as GET, without the body: balancers ask so whether we live.

    Written as plain ASGI: Starlette's wrapper for functions costs a third of the event loop's time
    for each request.

    Args: app: what answers
          metrics: told of each answer
          log: called with one row for each answer, before its first byte leaves
          token: what a client must send, if given
          ending: whether the server is about to end; clients are then told to connect anew
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        log: Log,
        token: str | None,
        ending: Callable[[], bool],
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._token = token
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start = time.perf_counter()
        asked = Headers(scope=scope)
        name = asked.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(name):
            name = uuid.uuid4().hex[:16]
        method = scope["method"]
        if method == "HEAD":  # what runs this leaves the body out
            scope = {**scope, "method": "GET"}
        started, problem = False, ""

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.update(_SAFE)
                headers["X-Request-ID"] = name
                if self._ending():
                    headers["Connection"] = "close"
                route = getattr(scope.get("route"), "path", "other")
                seconds, status = time.perf_counter() - start, message["status"]
                self._metrics.answered(route, status, seconds)
                row = {
                    "time": time.time(),
                    "request_id": name,
                    "method": method,
                    "path": scope["path"][:200],
                    "status": status,
                    "milliseconds": round(1000 * seconds, 2),
                }
                self._log(row | {"error": problem} if problem else row)
            await send(message)

        if not self._may(scope["path"], asked):
            return await JSONResponse(
                {"detail": "A token must be sent as: Authorization: Bearer TOKEN."}, 401,
                {"WWW-Authenticate": "Bearer", "Connection": "close"},  # its body is not read
            )(scope, receive, answer)  # fmt: skip
        if scope["path"] not in _ALWAYS and _crowded(scope):
            return await JSONResponse(
                {"detail": "Too many connections are open; try again in a second."}, 503,
                {"Retry-After": "1", "Connection": "close"},
            )(scope, receive, answer)  # fmt: skip
        try:
            await self._app(scope, receive, answer)
        except Exception as error:  # a bug, or a model that broke: the client learns no details
            if started:
                raise
            problem = "".join(traceback.format_exception(error))
            failed = JSONResponse({"detail": "The server failed; its log says why."}, 500)
            await failed(scope, receive, answer)

    def _may(self, path: str, headers: Headers) -> bool:
        if self._token is None or path in _OPEN:
            return True
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        # Compared in constant time: how long it takes tells nothing of the token.
        same = hmac.compare_digest(sent.strip().encode(), self._token.encode())
        return scheme.lower() == "bearer" and same


def _crowded(scope: Scope) -> bool:
    """Whether more connections are open than are answered, where what runs this counts them."""
    crowded = scope.get("state", {}).get("crowded")
    return crowded is not None and bool(crowded())
