"""What whoever runs the server in production meets: balancers, signals, new models, bad clients."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from tests.deploy.serving import Model, Server, encoded, running
from tests.waiting import PATIENCE_S, until
from toque import deploy
from toque.deploy.outputs import Masks, Numbers, Shares
from toque.deploy.predictor import Predictor
from toque.deploy.serving import connections, process, reloading
from toque.deploy.serving.app import create_app
from toque.deploy.serving.limits import Limits

SERVE = """
import json, sys
from toque.deploy.serving.app import create_app
from toque.deploy.serving.limits import Limits
from toque.deploy.serving.server import serve
told = json.loads(sys.argv[1])
serve(limits=Limits(**told.pop("limits")), **told)
"""


class Started:
    """`serve` in a process of its own, with its log in a file."""

    def __init__(self, folder, **told):
        self.file = folder / "log"
        limits = {"body_s": PATIENCE_S, "answer_s": PATIENCE_S}
        words = [sys.executable, "-c", SERVE, json.dumps({"port": 0, "limits": limits} | told)]
        with self.file.open("wb") as log:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        assert line, self.file.read_text()
        self.server = Server(int(re.search(r":(\d+) ", line).group(1)), [])

    def rows(self, event):
        """What the log says of an event: "reload" or "worker"."""
        lines = self.file.read_text().splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        return [row for row in rows if row.get("event") == event]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def server(model):
    with running("made up") as found:
        yield found


# Balancers


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/model", "/", "/openapi.json"])
def test_head_is_get_without_the_body(server, path):
    status, headers, content = server.ask(path=path, method="HEAD")
    got, of_get, _ = server.ask(path=path, method="GET")
    assert status == got == 200 and content == b""
    assert headers["content-type"] == of_get["content-type"]
    assert [row["method"] for row in server.log] == ["HEAD", "GET"]


def test_head_of_nothing(server):
    assert server.ask(path="/nowhere", method="HEAD")[0] == 404
    assert server.ask(path="/predict", method="HEAD")[0] == 405


def test_more_connections_than_are_answered(model):
    """Whoever looks whether the server lives is answered all the same."""
    limits = Limits(max_waiting=1, body_s=PATIENCE_S, answer_s=PATIENCE_S)  # 8 connections
    with running("made up", limits) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(9)]
        try:
            until(lambda: server.ask(encoded())[0] == 503, "a full house")
            _, headers, said = server.ask(encoded())
            assert headers["retry-after"] == "1" and headers["connection"] == "close"
            assert "connections" in said["detail"] and server.log[-1]["status"] == 503
            assert server.ask(path="/ready", method="GET")[0] == 503
            assert server.ask(path="/health", method="GET")[0] == 200
            assert b'status="503"' in server.ask(path="/metrics", method="GET")[2]
        finally:
            for raw in idle:
                raw.close()
        until(lambda: server.ask(encoded())[0] == 200, "room")


def test_who_does_not_take_the_answers_is_hung_up_on(model):
    with running("made up", Limits(body_s=0.3, answer_s=PATIENCE_S)) as server:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(PATIENCE_S)
        with raw:
            raw.connect(("127.0.0.1", server.port))
            ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                while True:  # the system's buffers fill; then the server stops reading, and waits
                    raw.sendall(ask * 100)
        until(lambda: server.ask(encoded())[0] == 200, "an answer")


@pytest.mark.parametrize(
    ("taken", "kept"), [([5_000, 20_000, 90_000], True), ([30_000, 30_100], False), ([0], False)]
)
def test_who_takes_the_answers_slowly_is_waited_for(taken, kept):
    """However long it takes, as long as 1 KiB a second goes; by a clock of our own."""

    class Transport:
        left, aborted = 200_000, False

        def get_write_buffer_size(self):
            return self.left

        def abort(self):
            self.aborted = True

    class Loop:
        call_later = lambda self, after, function, *arguments: (after, function, arguments)  # noqa: E731

    kind = connections.protocol(Limits(body_s=4.0))
    one = kind.__new__(kind)
    one.loop, one.transport = Loop(), Transport()
    one._watch()
    for total in taken:
        after, look, arguments = one._untaken
        assert after == 4.0
        one.transport.left = 200_000 - total
        look(*arguments)
    assert one.transport.aborted is not kept
    if kept:
        _, look, arguments = one._untaken
        one.transport.left = 0  # the last of it, which may be little
        look(*arguments)
        assert one._untaken is None and not one.transport.aborted


def masks():
    """A made-up model of masks, as ragged as the picture."""

    def ask(images):
        one = [image[..., 0].astype(np.float32) for image in images]
        return np.stack([np.stack([0 * x + 128, x]) for x in one])

    return Predictor("made up", ("dark", "bright"), 3, ask, {}, outputs=Masks())


# What may be asked


def made_up(outputs, labels):
    """A model of some task that says 0.9 and 0.4 of everything."""

    def ask(images):
        return np.array([[0.9, 0.4]] * len(images), np.float32)

    return Predictor("made up", labels, 3, ask, {}, outputs=outputs)


def parameters(server):
    schema = server.ask(path="/openapi.json", method="GET")[2]
    told = schema["paths"]["/predict"]["post"].get("parameters", [])
    return {one["name"] for one in told}, schema["paths"]["/predict"]["post"]


def test_a_threshold_names_the_labels(monkeypatch):
    found = made_up(Shares("multilabel"), ("cat", "dog"))
    monkeypatch.setattr(reloading, "load", lambda *_, **__: found)
    with running("made up") as server:
        assert parameters(server)[0] == {"top", "threshold"}
        for query, wanted in (("", ["cat"]), ("?threshold=0.3", ["cat", "dog"]),
                              ("?threshold=0.95", []), ("?threshold=0.3&top=1", ["cat", "dog"])):  # fmt: skip
            status, _, answer = server.ask(encoded(), f"/predict{query}")
            assert status == 200 and answer["labels"] == wanted, query
        for wrong in ("1.5", "-0.1", "nan", "half", ""):
            status, _, said = server.ask(encoded(), f"/predict?threshold={wrong}")
            assert status == 422 and said["detail"].startswith("threshold: "), wrong


@pytest.mark.parametrize(
    ("outputs", "asked", "refused"),
    [
        (Shares(), {"top"}, "threshold=0.3"),
        (Numbers([0, 0], [1, 1]), set(), "top=1"),
        (Masks(), set(), "threshold=0.3"),
    ],
)
def test_what_is_not_asked_for_is_told(monkeypatch, outputs, asked, refused):
    found = masks() if isinstance(outputs, Masks) else made_up(outputs, ("a", "b"))
    monkeypatch.setattr(reloading, "load", lambda *_, **__: found)
    with running("made up") as server:
        names, described = parameters(server)
        answers = described["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
        assert names == asked
        assert answers.endswith({"classification": "Labels", "regression": "Numbers"}.get(
            found.task, "Mask"))  # fmt: skip
        assert server.ask(encoded())[0] == 200
        for query in (refused, "treshold=0.3", "_=1"):
            status, _, said = server.ask(encoded(), f"/predict?{query}")
            assert status == 422 and "not asked for here" in said["detail"]
            assert said["detail"].startswith(query.split("=")[0])


# Several images in one request


def together(*files, **more):
    return json.dumps(
        {"images": [base64.b64encode(file).decode() for file in files], **more}
    ).encode()


def test_several_images_are_each_answered_as_alone(server, model):
    values = [0, 255, 51]
    status, _, said = server.ask(together(*map(encoded, values)), "/predict/many")
    assert status == 200
    assert [one["label"] for one in said["answers"]] == ["dark", "bright", "dark"]
    for value, one in zip(values, said["answers"], strict=True):
        alone = server.ask(encoded(value))[2]
        assert one.pop("milliseconds") > 0 and alone.pop("milliseconds") > 0
        assert one == alone
    said = server.ask(together(encoded()), "/predict/many?top=1")[2]
    assert list(said["answers"][0]["probabilities"]) == ["bright"]
    assert waiting_images(server) == 0


def waiting_images(server):
    text = server.ask(path="/metrics", method="GET")[2].decode()
    return int(re.search(r"^toque_waiting_images (\d+)$", text, re.MULTILINE).group(1))


def test_a_bad_image_among_several_spoils_no_other(server):
    body = json.loads(together(encoded(255), b"no picture", encoded(size=(400, 400))[:-60], b""))
    body["images"].insert(1, "not base64!")
    status, _, said = server.ask(json.dumps(body).encode(), "/predict/many")
    found = [(one.get("label"), one.get("status")) for one in said["answers"]]
    assert status == 200
    assert found == [("bright", None), (None, 422), (None, 415), (None, 422), (None, 415)]
    assert all(one["detail"] for one in said["answers"][1:])


@pytest.mark.parametrize(
    ("body", "expected", "word"),
    [
        (b"", 422, "JSON"),
        (b"[]", 422, "images"),
        (b'{"images": []}', 422, "images"),
        (b'{"images": [1]}', 422, "images.0"),
        (b'{"images": ["AA=="], "tpo": 3}', 422, "tpo"),
        (together(*[b"x"] * 17), 413, "at most 16"),
        (b" " * 900_000, 413, "bytes"),
        (b"[" * 100_000, 422, "JSON"),
    ],
    ids=["nothing", "list", "empty", "number", "unknown", "too many", "too long", "deep"],
)
def test_what_is_no_request_for_several(model, body, expected, word):
    limits = Limits(max_bytes=200_000, body_s=PATIENCE_S, answer_s=PATIENCE_S)
    with running("made up", limits) as server:
        status, _, said = server.ask(body, "/predict/many")
        assert status == expected and word in said["detail"] and len(said["detail"]) < 400
        assert server.ask(encoded())[0] == 200 and waiting_images(server) == 0


def test_several_images_take_as_many_places(model):
    """Places are bounded before a body is read, and each image has one until it is answered."""
    limits = Limits(max_waiting=6, max_batch=4, body_s=PATIENCE_S, answer_s=PATIENCE_S)
    with running("made up", limits) as server:
        model.go.clear()
        with ThreadPoolExecutor(2) as threads:
            body = together(*[encoded()] * 3)
            first = threads.submit(server.ask, body, "/predict/many")
            until(lambda: model.asked == 2 and waiting_images(server) == 3, "three images")
            status, headers, _ = server.ask(body, "/predict/many")  # might be four: no room
            assert status == 503 and headers["retry-after"]
            one = threads.submit(server.ask, encoded())
            until(lambda: waiting_images(server) == 4, "one more")
            model.go.set()
            assert len(first.result()[2]["answers"]) == 3 and one.result()[0] == 200
        assert waiting_images(server) == 0


def test_the_description_of_several_is_that_of_the_task(monkeypatch):
    found = made_up(Numbers([0, 0], [1, 1]), ("a", "b"))
    monkeypatch.setattr(reloading, "load", lambda *_, **__: found)
    with running("made up") as server:
        schema = server.ask(path="/openapi.json", method="GET")[2]
        described = schema["paths"]["/predict/many"]["post"]
        name = described["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
        each = schema["components"]["schemas"][name.rpartition("/")[2]]["properties"]["answers"]
        kinds = {one["$ref"].rpartition("/")[2] for one in each["items"]["anyOf"]}
        assert kinds == {"Numbers", "Missed"}
        asked = described["requestBody"]["content"]["application/json"]["schema"]
        assert asked["required"] == ["images"] and "parameters" not in described
        said = server.ask(together(encoded()), "/predict/many")[2]
        assert said["answers"][0]["numbers"] == pytest.approx({"a": 0.9, "b": 0.4})


# New models


def test_a_model_that_answers_with_no_numbers_does_not_take_over(tmp_path, monkeypatch):
    file = tmp_path / "m.onnx"
    file.write_bytes(b"good")

    def load(source, device="cpu", trust=False):
        found = Model().predictor(source)
        if source.read_bytes() == b"good":
            return found
        return replace(found, ask=lambda images: np.full((len(images), 2), np.nan, np.float32))

    monkeypatch.setattr(reloading, "load", load)
    with running(file, look_every_s=0.05) as server:
        file.write_bytes(b"went wrong")
        until(lambda: any(row.get("event") == "reload" for row in server.log), "a look at it")
        (row,) = (row for row in server.log if row.get("event") == "reload")
        assert row["done"] is False and "finite" in row["message"]
        assert server.ask(encoded(255))[2]["label"] == "bright"
    with pytest.raises(ValueError, match="finite"):
        create_app(file)


def test_signals(run, photos, tmp_path):
    """In one process: SIGHUP with the same, a damaged and a better file; then SIGTERM, twice."""
    source = tmp_path / "m.safetensors"
    shutil.copy(run / "weights.safetensors", source)
    whole = source.read_bytes()
    body = (photos / "val" / "left" / "0.jpg").read_bytes()
    (wanted,) = deploy.predict(run, [photos / "val" / "left" / "0.jpg"])
    with Started(tmp_path, source=str(source), linger_s=PATIENCE_S) as started:
        server = started.server

        def reloads():
            return [row["done"] for row in started.rows("reload")]

        started.process.send_signal(signal.SIGHUP)
        until(lambda: reloads() == [True], "a reload of what is the same")
        source.write_bytes(whole[: len(whole) // 2])  # in place, as a copy onto a full disk ends
        started.process.send_signal(signal.SIGHUP)
        until(lambda: False in reloads(), "a refusal")
        assert "the model stays" in started.rows("reload")[1]["message"]
        assert server.ask(body)[2]["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-5)
        source.unlink()
        count = len(reloads())
        started.process.send_signal(signal.SIGHUP)
        until(lambda: reloads()[count:] == [False], "another refusal")
        source.write_bytes(whole)
        until(lambda: reloads()[count:].count(True) >= 1, "the whole file again")
        assert server.ask(path="/ready", method="GET")[0] == 200

        # A balancer has time to hear of the end, and what it sends until then is answered.
        started.process.send_signal(signal.SIGTERM)
        until(lambda: server.ask(path="/ready", method="GET")[0] == 503, "the word that it ends")
        assert "ending" in server.ask(path="/ready", method="GET")[2]["detail"]
        status, headers, answer = server.ask(body)
        assert status == 200 and answer["label"] == wanted.label
        assert headers["connection"] == "close"  # and does not come this way again
        assert server.ask(path="/health", method="HEAD")[0] == 200
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(PATIENCE_S) == 0


def test_a_terminal_that_closes_ends_the_server(monkeypatch):
    """SIGHUP means either; where somebody's terminal is gone, nobody would end the server."""
    told = []

    class Service:
        ending = False

        def end(self):
            told.append("end")

        def reload(self):
            told.append("reload")

    import uvicorn

    from toque.deploy.serving.settings import Settings

    for had, has, wanted in (
        (True, True, "reload"),
        (True, False, "end"),
        (False, False, "reload"),
    ):
        monkeypatch.setattr(process, "has_terminal", lambda had=had: had)
        made = process.Process(uvicorn.Config("x:y"), Service(), Settings("m"), lambda: None)
        monkeypatch.setattr(process, "has_terminal", lambda has=has: has)
        made._hung_up()
        assert told.pop() == wanted and made.should_exit is (wanted == "end")


def test_a_terminal_is_seen():
    """In a session of its own a process has none; behind a pseudo-terminal it has one."""
    code = "import sys; from toque.deploy.serving.process import has_terminal; sys.exit(has_terminal())"
    alone = subprocess.run([sys.executable, "-c", code], start_new_session=True, check=False)
    assert alone.returncode == 0
    import pty

    child, master = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    _, status = os.waitpid(child, 0)
    os.close(master)
    assert os.waitstatus_to_exitcode(status) == 1
