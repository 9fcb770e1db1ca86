"""A server in a thread, and plain sockets to speak to it: no client that tidies up requests."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import threading

import numpy as np
import uvicorn
from PIL import Image

from tests.waiting import PATIENCE_S, until
from toque.deploy.predictor import Predictor
from toque.deploy.serving import connections
from toque.deploy.serving.app import create_app
from toque.deploy.serving.limits import Limits


def encoded(value=128, size=(9, 7), kind="PNG", **options):
    """A picture of one gray, as a file."""
    file = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(file, kind, **options)
    return file.getvalue()


class Server:
    """Where it listens, and what it logged."""

    def __init__(self, port, log):
        self.port, self.log = port, log

    def ask(self, body=b"", path="/predict", method="POST", headers=None):
        """Status, headers and parsed body of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request(method, path, body if method == "POST" else None, headers or {})
            response = connection.getresponse()
            content = response.read()
            kind = response.headers.get("content-type", "")
            return (
                response.status,
                response.headers,
                json.loads(content) if content and "json" in kind else content,
            )


@contextlib.contextmanager
def running(source, limits=None, **settings):
    """A server on a free port, ended at the end of the block; its times suit a busy machine."""
    limits, log = limits or Limits(body_s=PATIENCE_S, answer_s=PATIENCE_S), []
    listening = connections.listen("127.0.0.1", 0)
    app = create_app(source, limits=limits, log=log.append, **settings)
    config = uvicorn.Config(
        app, http=connections.protocol(limits), ws="none", access_log=False, log_level="error",
        h11_max_incomplete_event_size=connections.HEADER_BYTES,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        until(lambda: server.started, "the server")
        yield Server(listening.getsockname()[1], log)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listening.close()
        assert not thread.is_alive()


class Model:
    """A model whose answer tells which image it saw: the mean brightness, and how it was asked."""

    def __init__(self, labels=("dark", "bright")):
        self.labels, self.batches = labels, []
        self.asked = 0
        self.breaks = False
        self.go = threading.Event()
        self.go.set()

    def predictor(self, source="made up", device="cpu", trust=False):
        return Predictor(str(source), self.labels, 3, self.ask, {"model": "brightness"})

    def ask(self, images):
        self.asked += 1
        assert self.go.wait(PATIENCE_S)
        if self.breaks:
            raise RuntimeError("as the model was told to")
        self.batches.append(len(images))
        bright = np.array([image.mean() / 255 for image in images], np.float32)
        return np.stack([1 - bright, bright], 1)
