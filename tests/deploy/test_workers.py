"""Several processes on one port: each is watched, and none takes another's requests with it."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter

import pytest

from tests.deploy.serving import Server, encoded
from tests.deploy.test_production import Started
from tests.waiting import PATIENCE_S, until
from toque.deploy.serving import connections, workers
from toque.deploy.serving.limits import Limits
from toque.deploy.serving.metrics import Metrics, exposition
from toque.deploy.serving.settings import Settings
from toque.deploy.serving.workers import Workers

PATIENT = Limits(body_s=PATIENCE_S, answer_s=PATIENCE_S)


def counted(server, name):
    """The samples of a name in /metrics, by their labels."""
    text = server.ask(path="/metrics", method="GET")[2].decode()
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(number) for labels, number in found}


def waiting(server):
    """How many requests each worker holds, by its number."""
    found = counted(server, "toque_waiting_images")
    return {int(labels[8:-1]): int(number) for labels, number in found.items()}


def is_gone(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def half_sent(server, body):
    """A connection that has sent its headers and a part of its body."""
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    raw.sendall(head.encode() + body[:50])
    return raw


def rest_of(raw, body):
    """The status of a request once its body is whole; None where the connection is lost."""
    with raw:
        try:
            raw.sendall(body[50:])
            said = raw.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            return None
        return int(said.split()[1]) if said else None


def test_a_day_of_two_processes(run, photos, tmp_path):
    """Started, asked, one killed while it holds requests, signalled, and ended."""
    source = tmp_path / "m.safetensors"
    shutil.copy(run / "weights.safetensors", source)
    body = (photos / "val" / "left" / "0.jpg").read_bytes()
    with Started(tmp_path, source=str(source), workers=2) as started:
        server = started.server

        def ready():
            return [row for row in started.rows("worker") if row["message"].endswith("answers")]

        raws, found = [], {}

        def hold(count):
            """How many requests each worker holds, with so many more that are not whole yet."""
            raws.extend(half_sent(server, body) for _ in range(count))
            until(lambda: found.update(waiting(server)) or sum(found.values()) == len(raws), "them")
            return found

        until(lambda: len(ready()) == 2, "two processes")
        processes = {row["worker"]: row["process"] for row in ready()}
        assert set(processes) == {0, 1} and started.process.pid not in processes.values()
        alone = server.ask(body)[2]["probabilities"]

        # What is counted tells the processes apart, and their sum is what was asked.
        for _ in range(11):
            assert server.ask(body)[2]["probabilities"] == pytest.approx(alone, abs=1e-6)
        until(
            lambda: sum(counted(server, "toque_predict_seconds_count").values()) == 12, "the counts"
        )
        assert set(waiting(server)) == {0, 1}

        # Killed while both hold requests: those that it held are lost, and no other.
        # The system hands out connections as it likes: so each takes some while the other is stopped.
        for other, count in ((1, 3), (0, 5)):
            os.kill(processes[other], signal.SIGSTOP)
            hold(count)
            os.kill(processes[other], signal.SIGCONT)
        assert found == {0: 3, 1: 5}
        victim, lost = 1, found[1]
        os.kill(processes[victim], signal.SIGKILL)
        answered = Counter(rest_of(raw, body) for raw in raws)
        assert answered == {200: len(raws) - lost, None: lost}
        until(lambda: len(ready()) == 3, "another process")
        (ended,) = (row for row in started.rows("worker") if "SIGKILL" in row["message"])
        assert ended["worker"] == victim and ended["process"] == processes[victim]
        assert "started again" in ended["message"]
        starts = counted(server, "toque_worker_starts_total")
        assert starts == {f'worker="{n}"': 1 + (n == victim) for n in (0, 1)}
        processes[victim] = ready()[-1]["process"]

        # A new model for all.
        os.kill(started.process.pid, signal.SIGHUP)
        until(lambda: {row["worker"] for row in started.rows("reload")} == {0, 1}, "two reloads")
        assert all(row["done"] for row in started.rows("reload"))

        # The end: what was accepted is answered.
        raws.clear()
        found.clear()
        hold(8)
        started.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(server.port), "the end of listening")
        assert [rest_of(raw, body) for raw in raws] == [200] * 8
        assert started.process.wait(PATIENCE_S) == 0
        assert all(is_gone(process) for process in processes.values())


def refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
    except OSError:
        return True
    return False


def test_nobody_is_left_where_the_watching_process_is_gone(run, tmp_path):
    """One worker, whose watching process is this one; it answers what it holds, and ends."""
    ours, theirs = socket.socketpair()
    listening = connections.listen("127.0.0.1", 0)
    words = [sys.executable, "-m", "toque.deploy.serving.worker", theirs, listening]
    settings = Settings(str(run / "weights.safetensors"), worker=5, limits=PATIENT)
    with ours, theirs, listening:
        worker = subprocess.Popen(
            [one if isinstance(one, str) else str(one.fileno()) for one in words],
            pass_fds=(theirs.fileno(), listening.fileno()), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        theirs.close()
        port = listening.getsockname()[1]
        try:
            ours.settimeout(PATIENCE_S)
            ours.sendall(json.dumps(settings.as_dict()).encode() + b"\n")
            with ours.makefile("rb") as said:
                assert json.loads(said.readline())["ready"] is True
                body = encoded()
                raw = half_sent(Server(port, []), body)
                held = ["gauge", [["", "", "1"]]]
                until(lambda: json.loads(said.readline())["counts"]["toque_waiting_images"] == held)
            ours.close()
            listening.close()
            until(lambda: refuses(port), "the end of listening")
            assert rest_of(raw, body) == 200
            _, log = worker.communicate(timeout=PATIENCE_S)
            assert worker.returncode == 0
            assert json.loads(log.splitlines()[-1])["worker"] == 5
        finally:
            worker.kill()
            worker.communicate()


def test_what_is_wrong_with_the_model_is_told_once(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"damaged")
    words = [sys.executable, "-m", "toque", "serve", tmp_path / "m.safetensors", "--port", "0"]
    done = subprocess.run([*words, "--workers", "3"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("toque: ")
    assert "m.safetensors" in done.stderr and "Traceback" not in done.stderr


def test_counts_of_several_are_labelled_each():
    one, other = Metrics(), Metrics()
    one.answered("/predict", 200, 0.003)
    other.answered("/predict", 200, 0.3)
    other.answered("/explain", 503, 0.3)
    other.batch(4, 0.2)
    text = exposition({'worker="0"': one.families(2), 'worker="1"': other.families(0)})
    assert text.count("# TYPE toque_responses_total counter\n") == 1
    lines = text.splitlines()
    assert 'toque_responses_total{route="/predict",status="200",worker="0"} 1' in lines
    assert 'toque_responses_total{route="/predict",status="200",worker="1"} 1' in lines
    assert 'toque_waiting_images{worker="0"} 2' in lines
    assert 'toque_predict_seconds_bucket{le="0.005",worker="0"} 1' in lines
    assert 'toque_predict_seconds_bucket{le="0.005",worker="1"} 0' in lines
    assert 'toque_batch_images_sum{worker="1"} 4' in lines
    # All samples of a name stand together, behind its type, as the format asks.
    names = [re.match(r"(?:# TYPE )?(toque_\w+?)(?:_bucket|_sum|_count)?[ {]", x)[1] for x in lines]
    runs = [name for n, name in enumerate(names) if n == 0 or names[n - 1] != name]
    assert len(runs) == len(set(runs)) == 6


class Process:
    """A process that is only looked at."""

    pid, killed, returncode = 7, False, None

    def kill(self):
        self.killed = True


@pytest.mark.parametrize(("sign", "ready", "killed"), [(False, True, True), (True, True, False),
                                                       (False, False, False)])  # fmt: skip
def test_a_process_that_hangs_is_killed(sign, ready, killed):
    """One that never says a word; not one that speaks, nor one that still loads its model."""

    class Signs(workers._Worker):
        looks = 0

        @property
        def heard(self):
            self.looks += 1
            return sign

        @heard.setter
        def heard(self, _):
            pass

    log = []

    async def scene():
        watching = Workers(Settings("m"), None, 2, print, log=log.append, silent_s=0.02)
        worker = Signs(1, Process(), None, None, ready=ready)
        task = asyncio.create_task(watching._watch(worker))
        async with asyncio.timeout(PATIENCE_S):
            while worker.looks < 20 and not task.done():
                await asyncio.sleep(0.005)
        task.cancel()
        return worker

    worker = asyncio.run(scene())
    assert worker.process.killed is killed
    assert [row["message"] for row in log] == (
        ["worker 1 (process 7) gave no sign for 0.02 s and is killed"] if killed else []
    )


def test_a_process_that_dies_of_its_start_is_started_later_and_later(monkeypatch):
    """One that was steady is started at once; the numbers of the pauses are in the log."""
    log = []

    class Short(Workers):
        async def _start(self, number):
            if len(log) == 9:
                self._ending.set()
            return workers._Worker(number, Process(), None, None)

        async def _until_its_end(self, worker):
            worker.process.returncode = 1

    monkeypatch.setattr(workers, "_PAUSES_S", tuple(s / 1000 for s in workers._PAUSES_S))

    async def scene():
        made = Short(Settings("m"), None, 2, print, log=log.append)
        made._ending, made._first = asyncio.Event(), asyncio.get_running_loop().create_future()
        made._first.set_result(None)
        async with asyncio.timeout(PATIENCE_S):
            await made._keep(1)

    asyncio.run(scene())
    said = [row["message"].partition("again")[2] for row in log]
    seconds = [float(found[4:-2]) * 1000 if found else 0.0 for found in said]
    assert seconds == [0, 1, 2, 4, 8, 15, 30, 30, 30]
