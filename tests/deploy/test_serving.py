"""The server answers as predict does, within bounds, and loses nothing."""

import asyncio
import contextlib
import gc
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.deploy.serving import Model, Server, encoded, running
from tests.waiting import PATIENCE_S, until
from toque import deploy
from toque.deploy.explain import overlay
from toque.deploy.serving import explaining, reloading
from toque.deploy.serving import limits as bounds
from toque.deploy.serving.access import write_problems
from toque.deploy.serving.batching import Batcher, Full
from toque.deploy.serving.limits import Limits, Refused


def until_waiting(server, count):
    """Return once the server holds `count` requests whose answers are due."""
    wanted = f"toque_waiting_images {count}\n"
    until(
        lambda: wanted in server.ask(path="/metrics", method="GET")[2].decode(),
        f"a server that holds {count} requests",
    )


def until_answered(server):
    """Return once the server answers again: one of short times may refuse on a busy machine."""
    until(lambda: server.ask(encoded())[0] == 200, "an answer")


async def reached(condition):
    """Return once a condition holds, while the event loop goes on."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def impatient(model):
    """A server that waits for a request no longer than half a second."""
    with running("made up", Limits(body_s=0.5, answer_s=PATIENCE_S)) as found:
        yield found


@pytest.fixture
def server(model):
    limits = Limits(max_bytes=200_000, max_pixels=1_000_000, body_s=PATIENCE_S, answer_s=PATIENCE_S)
    with running("made up", limits) as found:
        yield found


# What it answers


def test_it_answers_as_predict_does(run, photos):
    file = photos / "val" / "left" / "0.jpg"
    (wanted,) = deploy.predict(run, [file])
    with running(run) as server:
        status, headers, answer = server.ask(file.read_bytes())
        assert status == 200 and headers["content-type"] == "application/json"
        assert answer["label"] == wanted.label
        assert answer["confidence"] == pytest.approx(wanted.confidence, abs=1e-6)
        assert answer["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-6)
        assert answer["milliseconds"] > 0
        status, _, described = server.ask(path="/model", method="GET")
        assert status == 200 and described["labels"] == ["left", "right"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_kinds_of_images(server, kind):
    status, _, answer = server.ask(encoded(255, kind=kind))
    assert status == 200 and answer["label"] == "bright" and answer["confidence"] > 0.99


def test_top(server):
    _, _, answer = server.ask(encoded(255), "/predict?top=1")
    assert list(answer["probabilities"]) == ["bright"]
    _, _, answer = server.ask(encoded(255))
    assert list(answer["probabilities"]) == ["bright", "dark"]
    for wrong in ("0", "-1", "many", "1e9", ""):
        status, _, said = server.ask(encoded(), f"/predict?top={wrong}")
        assert status == 422 and said["detail"].startswith("top: ")  # found by schemathesis: a list


def test_every_request_gets_its_own_answer(server, model):
    model.go.clear()
    values = list(range(0, 250, 10))
    with ThreadPoolExecutor(len(values)) as threads:
        answers = threads.map(lambda value: server.ask(encoded(value)), values)
        until_waiting(server, len(values))
        model.go.set()
        for value, (status, _, answer) in zip(values, answers, strict=True):
            assert status == 200
            assert answer["probabilities"]["bright"] == pytest.approx(value / 255, abs=1e-6)
    # The first batch holds whoever came first; the rest gathered while it ran, 16 at most. How they
    # fall depends on the machine: test_batches_keep_to_their_bounds says it without a network.
    tried, *batches = model.batches  # a model is tried once when it is loaded
    assert tried == 1 and sum(batches) == len(values) and 1 < max(batches) <= 16


def test_health_ready_metrics_and_openapi(server):
    server.ask(encoded())
    server.ask(b"no picture")
    assert server.ask(path="/health", method="GET")[2] == {"status": "alive"}
    assert server.ask(path="/ready", method="GET")[2] == {"status": "ready"}
    text = server.ask(path="/metrics", method="GET")[2].decode()
    assert 'toque_responses_total{route="/predict",status="200"} 1\n' in text
    assert 'toque_responses_total{route="/predict",status="415"} 1\n' in text
    assert 'toque_batch_images_bucket{le="+Inf"} 1\n' in text and "toque_waiting_images 0\n" in text
    for line in text.splitlines():
        assert re.fullmatch(r"# TYPE \w+ \w+|\w+(\{[\w=\",/+.]+\})? [\d.e+-]+", line), line
    schema = server.ask(path="/openapi.json", method="GET")[2]
    assert set(schema["paths"]) == {
        "/predict", "/predict/many", "/explain", "/model", "/health", "/ready", "/metrics"
    }  # fmt: skip
    assert "503" in schema["paths"]["/predict"]["post"]["responses"]


def test_the_log_is_one_json_object_a_request(server):
    server.ask(encoded())
    server.ask(path="/no%7fsuch%0apage", method="GET")
    rows = [json.loads(json.dumps(row)) for row in server.log]
    assert [row["status"] for row in rows] == [200, 404]
    assert rows[0]["path"] == "/predict" and rows[0]["milliseconds"] > 0


def test_a_request_is_found_in_the_log_by_its_name(server):
    """By the one a proxy gave it, or by one of our own, which no other request has."""
    _, headers, _ = server.ask(encoded(), headers={"X-Request-ID": "7f3a-01"})
    assert headers["x-request-id"] == "7f3a-01" == server.log[-1]["request_id"]
    own = set()
    for odd in ("two words", "x" * 129, "", 'a"b', None):
        given = {} if odd is None else {"X-Request-ID": odd}
        status, headers, _ = server.ask(b"no picture", headers=given)
        assert status == 415 and headers["x-request-id"] == server.log[-1]["request_id"] != odd
        own.add(headers["x-request-id"])
    assert len(own) == 5 and all(re.fullmatch("[0-9a-f]{16}", name) for name in own)


def test_the_log_of_problems_alone(capsys):
    for status in (200, 422, 499, 500, 503):
        write_problems({"path": "/predict", "status": status})
    write_problems({"event": "reload", "done": False})
    rows = [json.loads(row) for row in capsys.readouterr().err.splitlines()]
    assert [row.get("status") for row in rows] == [500, 503, None]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full, always full")  # noqa: PTH110
def test_a_log_that_is_full_keeps_nobody_from_an_answer(run):
    """As where standard error is a file, and its disk is full."""
    words = [sys.executable, "-c", PATIENT, str(run)]
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=full, text=True)
    try:
        server = Server(int(re.search(r":(\d+) ", process.stdout.readline()).group(1)), [])
        assert [server.ask(encoded())[0] for _ in range(3)] == [200, 200, 200]
    finally:
        process.kill()
        process.communicate()


def test_a_model_that_breaks_is_a_500_and_the_server_lives(server, model):
    model.breaks = True
    status, _, said = server.ask(encoded())
    assert status == 500 and said == {"detail": "The server failed; its log says why."}
    assert "as the model was told to" in server.log[-1]["error"]
    model.breaks = False
    assert server.ask(encoded())[0] == 200
    assert 'status="500"} 1' in server.ask(path="/metrics", method="GET")[2].decode()


# What it refuses


def png_of_size(width, height):
    """A PNG of a few bytes whose header promises much."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 100_000))
    return b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b"")


def many_scans():
    """A progressive JPEG whose scans are repeated: a few bytes each, a whole picture of work."""
    file = encoded(90, (64, 64), "JPEG", progressive=True)
    first = file.rindex(b"\xff\xda")
    return file[:first] + file[first:-2] * 500 + file[-2:]


HOSTILE = {
    "nothing": (b"", 415),
    "text": (b"GET / HTTP/1.1\r\n\r\n" * 20, 415),
    "zeros": (b"\0" * 5000, 415),
    "PostScript, which Pillow hands to another program": (b"%!PS-Adobe-3.0 EPSF-3.0\n", 415),
    "SVG with an entity": (b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><svg/>', 415),
    "TIFF": (encoded(kind="TIFF"), 415),
    "a page behind a GIF's first bytes": (b"GIF89a<html><script>alert(1)</script>", 422),
    "JPEG cut off": (encoded(kind="JPEG", size=(90, 90))[:-300], 422),
    "JPEG of its marker alone": (b"\xff\xd8\xff", 422),
    "PNG cut off": (encoded(size=(400, 400))[:-60], 422),
    "PNG with a wrong checksum": (encoded()[:40] + b"\1" + encoded()[41:], 422),
    "a PNG bomb of 4,096 megapixels": (png_of_size(64_000, 64_000), 413),
    "a PNG above the limit by a row": (png_of_size(1000, 1001), 413),
    "a PNG with missing rows": (png_of_size(999, 999), 422),
    "a JPEG of many scans": (many_scans(), 422),
    "WebP's first bytes": (b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\xff" * 50, 422),
    "BMP with a negative size": (b"BM" + struct.pack("<IIIIii", 99, 0, 54, 40, -5, -5), 422),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bodies(server, what):
    body, expected = HOSTILE[what]
    status, _, said = server.ask(body)
    assert status == expected, said
    assert list(said) == ["detail"] and len(said["detail"]) < 400
    assert server.ask(encoded())[0] == 200


def test_a_form_is_told_to_send_the_file_itself(server):
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    status, _, said = server.ask(head + encoded() + b"\r\n--b--\r\n")
    assert status == 415 and "curl --data-binary @" in said["detail"]
    assert "curl" not in server.ask(b"no picture")[2]["detail"]


def test_a_body_that_is_too_long(server):
    assert server.ask(encoded() + b"\0" * 200_000)[0] == 413
    status, _, _ = server.ask(iter([b"\x89PNG"] + [b"\0" * 50_000] * 5))  # chunked, length unknown
    assert status == 413


def speak(server, *parts):
    """Raw bytes to the server; what it says until it closes. TimeoutError if it does not."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as raw:
        said = b""
        try:
            for part in parts:
                raw.sendall(part)
            while more := raw.recv(65536):
                said += more
        except (BrokenPipeError, ConnectionResetError):
            pass
        return said


def test_a_slow_body(impatient):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    # Where the machine is so slow that the headers came late, it is hung up on at once.
    until(lambda: b" 408 " in speak(impatient, head, b"\x89PNG"), "408")
    until_answered(impatient)


def test_slow_headers_are_hung_up_on(impatient):
    assert speak(impatient, b"POST /predict HTTP/1.1\r\nHos") == b""


def is_answered(raw):
    """Whether one more request on this connection gets its whole answer."""
    raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    said = b""
    while not said.endswith(b'"alive"}'):
        if not (more := raw.recv(65536)):
            return False
        said += more
    return True


def test_slow_headers_after_an_answer_are_hung_up_on(impatient):
    """The connection is kept for the next request, and not for one that never comes whole."""

    def ends():
        with socket.create_connection(("127.0.0.1", impatient.port), timeout=PATIENCE_S) as raw:
            if not is_answered(raw):
                return False  # a machine so slow that the first headers came late
            raw.sendall(b"GET /health HTTP/1.1\r\nHos")
            return raw.recv(65536) == b""

    until(ends, "an answer before the end")


def test_idle_connections_are_kept_until_there_are_many(model):
    limits = Limits(max_waiting=1, body_s=PATIENCE_S)  # of 8 connections, 4 are not many
    with running("made up", limits) as server, contextlib.ExitStack() as open_until_the_end:

        def connected():
            address = ("127.0.0.1", server.port)
            raw = socket.create_connection(address, timeout=PATIENCE_S)
            open_until_the_end.enter_context(raw)
            assert is_answered(raw)
            return raw

        kept = [connected() for _ in range(4)]
        assert connected().recv(1) == b""  # the fifth is hung up on, and the earlier ones are not
        assert all(is_answered(raw) for raw in kept)


def test_headers_that_are_too_long(server):
    said = speak(server, b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n")
    assert said == b"" or b" 400 " in said or b" 431 " in said
    assert server.ask(encoded())[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "/page.js/../../server.py", "//etc/passwd",
     "/page.html", "/weights.safetensors", "/docs", "/%00"],
)  # fmt: skip
def test_nothing_but_the_routes_is_served(server, path):
    assert server.ask(path=path, method="GET")[0] == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "TRACE", "OPTIONS"])
def test_other_methods(server, method):
    assert server.ask(method=method)[0] == 405


def test_the_page_may_load_nothing_from_elsewhere(server):
    for path in ("/", "/page.js", "/page.css"):
        status, headers, content = server.ask(path=path, method="GET")
        assert status == 200 and not re.search(rb"(https?:)?//\w+\.\w", content)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_and_the_description_keep_to_where_a_proxy_puts_them(server):
    for path in ("/", "/page.js"):
        content = server.ask(path=path, method="GET")[2].decode()
        addresses = re.findall(r"""(?:href="|src="|fetch\([`"])([^"`?]*)""", content)
        assert addresses and not [one for one in addresses if one.startswith("/")]
    schema = server.ask(path="/openapi.json", method="GET")[2]
    assert schema["servers"] == [{"url": "."}]


def test_a_token(model):
    with running("made up", token="s3cret") as server:
        for wrong in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic s3cret"},
                      {"Authorization": "Bearer é".encode()}):  # fmt: skip
            status, headers, _ = server.ask(encoded(), headers=wrong)
            assert status == 401 and headers["www-authenticate"] == "Bearer"
            assert headers["connection"] == "close"  # its body is not read
        right = {"Authorization": "Bearer s3cret"}
        assert server.ask(encoded(), headers=right)[0] == 200
        for path, open_to_all in (("/", True), ("/health", True), ("/ready", True),
                                  ("/metrics", False), ("/model", False), ("/openapi.json", False)):  # fmt: skip
            assert (server.ask(path=path, method="GET")[0] == 200) is open_to_all
            assert server.ask(path=path, method="GET", headers=right)[0] == 200


def test_a_full_queue_turns_away_at_once(model):
    limits = Limits(max_waiting=3, max_batch=1, body_s=PATIENCE_S, answer_s=PATIENCE_S)
    with running("made up", limits) as server:
        model.go.clear()
        with ThreadPoolExecutor(3) as threads:
            waiting = [threads.submit(server.ask, encoded()) for _ in range(3)]
            until_waiting(server, 3)
            # The model has not answered anyone, so this came at once.
            status, headers, said = server.ask(encoded())
            assert status == 503 and headers["retry-after"] == "1" and "Too many" in said["detail"]
            assert server.ask(path="/ready", method="GET")[0] == 503
            assert server.ask(path="/health", method="GET")[0] == 200
            model.go.set()
            assert [one.result()[0] for one in waiting] == [200] * 3
        assert server.ask(encoded())[0] == 200


def test_an_answer_that_takes_too_long(model):
    with running("made up", Limits(answer_s=0.3, body_s=PATIENCE_S)) as server:
        model.go.clear()
        status, headers, said = server.ask(encoded())
        assert status == 503 and headers["retry-after"] and "within 0.3 s" in said["detail"]
        model.go.set()
        until_answered(server)


PICTURES = [encoded(90, (33, 21), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")] + [
    encoded(90, (33, 21), "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0")
]


@settings(max_examples=400)
@given(
    which=st.integers(0, len(PICTURES) - 1),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    keep=st.integers(1, 10**4),
    channels=st.sampled_from([1, 3]),
)
def test_any_damage_is_refused_or_decoded(which, changes, keep, channels):
    body = bytearray(PICTURES[which])
    for place, value in changes:
        body[place % len(body)] = value
    try:
        pixels = bounds.decode(bytes(body[:keep]), channels, Limits(max_pixels=100_000))
    except Refused as refusal:
        assert 400 <= refusal.status < 500
    else:
        assert pixels.dtype == np.uint8 and pixels.shape[2] == channels
        assert pixels.shape[0] * pixels.shape[1] <= 100_000


# Where it looked


def png_pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_where_it_looked(run, photos):
    file = photos / "val" / "left" / "0.jpg"
    predictor = deploy.load(run)
    with running(run) as server:
        assert server.ask(path="/model", method="GET")[2]["explains"] is True
        for label in ("left", "right"):
            status, headers, content = server.ask(file.read_bytes(), f"/explain?label={label}")
            assert status == 200 and headers["content-type"] == "image/png"
            wanted = overlay(predictor, predictor.pixels(file), label)
            np.testing.assert_array_equal(png_pixels(content), wanted)
        (answer,) = predictor([file])
        wanted = overlay(predictor, predictor.pixels(file), answer.label)
        content = server.ask(file.read_bytes(), "/explain")[2]
        np.testing.assert_array_equal(png_pixels(content), wanted)
        assert server.ask(file.read_bytes(), "/explain?label=middle")[0] == 422
        assert server.ask(b"no picture", "/explain")[0] == 415


def test_without_explanations(run, server, photos):
    body = (photos / "val" / "left" / "0.jpg").read_bytes()
    with running(run, explain=False) as quiet:
        reasons = ("without explanations", "cannot be looked into")  # turned off; only a program
        for one, reason in zip((quiet, server), reasons, strict=True):
            assert one.ask(path="/model", method="GET")[2]["explains"] is False
            status, _, said = one.ask(body, "/explain")
            assert status == 404 and reason in said["detail"]


def test_explanations_are_bounded_and_answers_do_not_wait_for_them(run, photos, monkeypatch):
    body = (photos / "val" / "left" / "0.jpg").read_bytes()
    go = threading.Event()

    def slow(*arguments):
        assert go.wait(PATIENCE_S)
        return overlay(*arguments)

    monkeypatch.setattr(explaining, "overlay", slow)
    limits = Limits(max_explaining=2, body_s=PATIENCE_S, answer_s=PATIENCE_S)
    with running(run, limits) as server, ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(server.ask, body, "/explain") for _ in range(3)]
        until(lambda: any(one.done() for one in asked), "the one turned away")
        assert server.ask(body)[0] == 200
        go.set()
        found = sorted(one.result()[0] for one in asked)
        assert found == [200, 200, 503]
        assert server.ask(body, "/explain")[0] == 200


# Batches


def test_batches_keep_to_their_bounds():
    model = Model()
    model.go.clear()
    predictor, other = model.predictor(), model.predictor("another")
    sizes = []

    async def scene():
        limits = Limits(max_batch=4, max_batch_pixels=100, max_delay_s=0, max_waiting=50)
        batcher = Batcher(limits, lambda images, _: sizes.append(images))
        batcher.start()
        small, large = np.zeros((2, 2, 3), np.uint8), np.zeros((30, 30, 3), np.uint8)
        plan = [(predictor, small)] * 7 + [(predictor, large)] * 2 + [(other, small)] * 2
        tasks = [asyncio.create_task(batcher.ask(*one)) for one in plan]
        await reached(lambda: model.asked == 1)
        model.go.set()
        await asyncio.gather(*tasks)
        await batcher.stop()

    asyncio.run(scene())
    assert sizes == [4, 3, 1, 1, 2]  # full; no room for the large one; each alone; another model


def test_a_batch_is_of_one_model():
    model, newer = Model(), Model()
    model.go.clear()

    async def scene():
        batcher = Batcher(Limits(max_delay_s=0))
        batcher.start()
        image = np.zeros((2, 2, 3), np.uint8)
        asked = [model.predictor()] * 3 + [newer.predictor()] * 2
        tasks = [asyncio.create_task(batcher.ask(one, image)) for one in asked]
        await reached(lambda: model.asked == 1)
        model.go.set()
        await asyncio.gather(*tasks)
        await batcher.stop()

    asyncio.run(scene())
    assert sum(model.batches) == 3 and newer.batches == [2]


def test_who_no_longer_waits_is_not_asked_about():
    model = Model()
    model.go.clear()

    async def scene():
        batcher = Batcher(Limits(max_batch=2, max_delay_s=0))
        batcher.start()
        image = np.zeros((2, 2, 3), np.uint8)
        first = asyncio.create_task(batcher.ask(model.predictor(), image))
        await reached(lambda: model.asked == 1)
        gone = [asyncio.create_task(batcher.ask(model.predictor(), image)) for _ in range(5)]
        await reached(lambda: len(batcher._queue) == 5)
        for task in gone:
            task.cancel()
        model.go.set()
        await first
        await reached(lambda: not batcher._queue)
        await batcher.stop()

    asyncio.run(scene())
    assert model.batches == [1]


def test_places_are_counted():
    batcher = Batcher(Limits(max_waiting=1))
    batcher.enter()
    with pytest.raises(Full):
        batcher.enter()
    batcher.leave()
    batcher.enter()


# A newer model


def test_a_newer_model_takes_over_and_no_request_is_lost(tmp_path, monkeypatch):
    file = tmp_path / "m.onnx"
    file.write_bytes(b"1")

    def load(source, device="cpu", trust=False):
        content = source.read_bytes()
        if content == b"damaged":
            raise ValueError("a damaged file")
        return Model(("old", "bright") if content == b"1" else ("new", "bright")).predictor(source)

    monkeypatch.setattr(reloading, "load", load)
    statuses, labels, stop = [], [], threading.Event()

    def keep_asking(server):
        while not stop.is_set():
            status, _, answer = server.ask(encoded(0))
            statuses.append(status)
            labels.append(answer.get("label"))

    with running(file, look_every_s=0.05) as server:
        asker = threading.Thread(target=keep_asking, args=(server,))
        asker.start()
        try:
            until(lambda: labels, "an answer")
            for content, wanted in ((b"22", "new"), (b"damaged", "new"), (b"1", "old")):
                aside = tmp_path / "aside"
                aside.write_bytes(content)
                aside.replace(file)
                if content == b"damaged":
                    until(lambda: "a damaged file" in str(server.log), "a look at the file")
                else:
                    until(lambda wanted=wanted: labels[-1] == wanted, wanted)
                count = len(labels)
                until(lambda count=count: len(labels) > count + 5, "more answers")
                assert set(labels[count:]) == {wanted}
        finally:
            stop.set()
            asker.join()
        text = server.ask(path="/metrics", method="GET")[2].decode()
    assert set(statuses) == {200}
    assert 'result="done"} 2\n' in text and 'result="failed"} 1\n' in text  # each file once
    assert any("a damaged file" in row.get("message", "") for row in server.log)


def test_models_are_left_out_of_garbage_collection_until_they_are_replaced(tmp_path, monkeypatch):
    file = tmp_path / "m.onnx"
    file.write_bytes(b"1")
    weights = []

    class Weights:
        """In a circle, so that only garbage collection frees it."""

        def __init__(self):
            self.circle = self

    def load(source, device="cpu", trust=False):
        made, held = Model(), Weights()
        weights.append(weakref.ref(held))
        predictor = made.predictor(source)
        return replace(predictor, ask=lambda images: (held, predictor.ask(images))[1])

    monkeypatch.setattr(reloading, "load", load)
    before = gc.get_freeze_count()
    with running(file, look_every_s=0.05) as server:
        assert gc.get_freeze_count() > before and weights[0]() is not None
        file.write_bytes(b"22")
        until(lambda: server.log and weights[0]() is None, "the end of the old model")
        assert server.ask(encoded())[0] == 200 and weights[1]() is not None
        assert gc.get_freeze_count() > before
    assert gc.get_freeze_count() == before


# The command


def start(*words):
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


PATIENT = f"""
import sys
from toque.deploy.serving.limits import Limits
from toque.deploy.serving.server import serve
serve(sys.argv[1], port=0, limits=Limits(body_s={PATIENCE_S}))
"""


def is_closed(port):
    """Whether nobody listens any more."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
    except OSError:
        return True
    return False


def test_sigterm_lets_requests_finish(run, photos):
    process = start("-c", PATIENT, run)
    try:
        line = process.stdout.readline()
        port = int(re.search(r":(\d+) ", line).group(1))
        server = Server(port, [])
        body = (photos / "val" / "left" / "0.jpg").read_bytes()
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as raw:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            raw.sendall(head.encode() + body[:50])
            until_waiting(server, 1)  # taken by the server, and not yet whole
            process.send_signal(signal.SIGTERM)
            until(lambda: is_closed(port), "the end")
            raw.sendall(body[50:])
            said = raw.recv(65536)
        assert b" 200 OK" in said and process.wait(PATIENCE_S) == 0
        rows = [json.loads(row) for row in process.stderr.read().splitlines()]
        assert [row["status"] for row in rows if row["path"] == "/predict"] == [200]
    finally:
        process.kill()
        process.communicate()


def test_mistakes_of_the_command_are_one_sentence(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("-m", "toque", "serve", run, "--port", port)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2 and stderr.count("\n") == 1
    assert f"must be free; got {port}" in stderr and "--port 0" in stderr
    process = start("-m", "toque", "serve", tmp_path / "nowhere", "--port", 0)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2 and stderr.count("\n") == 1 and "run folder" in stderr


def test_missing_packages_are_named(monkeypatch, run):
    from toque.deploy.serving.server import serve

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"pip install 'toque\[serve\]'"):
        serve(run)


def test_a_newer_run_in_its_folder(run, photos, tmp_path):
    """With real files: the weights of another training replaced while the server runs."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    body = (photos / "val" / "left" / "0.jpg").read_bytes()
    from safetensors import safe_open
    from safetensors.torch import save_file

    with running(folder, look_every_s=0.05) as server:
        before = server.ask(body)[2]["probabilities"]
        weights = folder / "weights.safetensors"
        with safe_open(weights, framework="pt") as opened:
            metadata = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        flipped = {n: -t if n.startswith("head") else t for n, t in tensors.items()}
        save_file(flipped, tmp_path / "aside", metadata=metadata)
        (tmp_path / "aside").replace(weights)
        until(lambda: server.ask(body)[2]["probabilities"] != before, "the newer model")
        after = server.ask(body)[2]["probabilities"]
    # Two classes and a head of the other sign: the probabilities change places.
    assert after["left"] == pytest.approx(before["right"], abs=1e-4)
