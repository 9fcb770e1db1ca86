"""toque train --devices: real launchers and workers, killed and stopped."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException

from tests.conftest import write_photos
from toque.train.distributed import launch

LIMIT_S = 240
SETTINGS = (
    "model=resnet10_small", "epochs=6", "batch_size=8", "threads=1", "image_size=16",
    "checkpoint.every_s=0.01", "checkpoint.background=false", "log.tensorboard=false",
    "distributed.timeout_s=60",
)  # fmt: skip


def command(photos, out, *more):
    words = [sys.executable, "-m", "toque", "train", str(photos), "--out", str(out), "--quiet"]
    return [*words, *(word for one in SETTINGS for word in ("--set", one)), *more]


def environment():
    clean = {name: text for name, text in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return {**clean, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}


@contextlib.contextmanager
def started(words, **options):
    """A running command; whatever it leaves behind is ended."""
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        **options,
    )  # fmt: skip
    workers = []
    try:
        yield process, workers
    finally:
        for pid in (*workers, process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=LIMIT_S)


def until(condition, process=None):
    deadline = time.monotonic() + LIMIT_S
    while not (value := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def children(parent):
    """The process ids of the workers of a launcher."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after = entry.read_text().rpartition(")")[2].split()
            if int(after[1]) == parent and after[0] != "Z":
                found.append(int(entry.parent.name))
    return found


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def told(errors):
    """The beginnings of what was said, without what is told of every run with BatchNorm."""
    lines = [line for line in errors.splitlines() if line]
    return [
        line.partition(" image ")[0] + " image" * (" image " in line)
        for line in lines
        if not line.startswith("warning: batch normalisation")
    ]


def rank_of(pid):
    with contextlib.suppress(OSError):
        for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if item.startswith(b"RANK="):
                return int(item[5:])
    return None


def saved(out, least=1):
    return len(list((out / "checkpoints").glob("images-*"))) >= least


def outcome(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [(row["split"], row["images_seen"], row["loss"]) for row in rows]
    return hashlib.sha256((out / "weights.safetensors").read_bytes()).hexdigest(), rows


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("launch") / "photos"
    write_photos(root, {"left": 12, "right": 12}, part="train")
    return write_photos(root, {"left": 4, "right": 4}, part="val")


@linux
def test_a_killed_rank_and_a_stopped_launcher_end_in_the_bits_of_neither(photos, tmp_path):
    """One run by torchrun; one stopped by SIGTERM, whose rank is then killed and started again."""
    plain, troubled = tmp_path / "plain", tmp_path / "troubled"
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--no-python",
    ]
    done = subprocess.run(
        [*torchrun, *command(photos, plain)], capture_output=True, text=True, check=False,
        timeout=LIMIT_S, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    with started(command(photos, troubled, "--devices", "2")) as (process, workers):
        until(lambda: saved(troubled), process)
        workers += children(process.pid)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 143, errors
    assert told(errors) == ["toque: stopped and saved at image"]
    assert not any(alive(pid) for pid in workers)

    before = {path.name for path in (troubled / "checkpoints").iterdir()}
    with started(command(photos, troubled, "--devices", "2", "--restarts", "1")) as (
        process,
        workers,
    ):
        until(lambda: {p.name for p in (troubled / "checkpoints").iterdir()} - before, process)
        workers += children(process.pid)
        victim = next(pid for pid in workers if rank_of(pid) == 1)
        os.kill(victim, signal.SIGKILL)
        until(lambda: process.poll() is not None)
        workers += children(process.pid)
        _, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    # What rank 0 says of it before the launcher ends it depends on who is quicker.
    assert told(errors)[-1] == (
        "toque: rank 1 was killed by SIGKILL; all are started again, 0 restarts are left."
    )
    assert outcome(troubled) == outcome(plain)


@linux
def test_workers_end_with_their_launcher(photos, tmp_path):
    """After Ctrl-C, which a terminal sends to the launcher and to whom it started, and SIGKILL."""
    words = command(photos, tmp_path / "stopped", "--devices", "2", "--set", "epochs=2000")
    with started(words, start_new_session=True) as (process, workers):
        until(lambda: saved(tmp_path / "stopped"), process)
        workers += children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 130, errors
        assert told(errors) == ["toque: stopped and saved at image"]
        assert len(workers) == 2 and not any(alive(pid) for pid in workers)
    with started(command(photos, tmp_path / "run", "--devices", "2", "--set", "epochs=2000")) as (
        process,
        workers,
    ):
        until(lambda: saved(tmp_path / "run"), process)
        workers += children(process.pid)
        assert len(workers) == 2
        process.kill()
        until(lambda: not any(alive(pid) for pid in workers))


def test_a_mistake_is_one_sentence_and_not_made_again(photos, tmp_path):
    words = command(photos, tmp_path / "run", "--devices", "2", "--set", "batch_size=1")
    done = subprocess.run(
        [*words, "--restarts", "2"],
        capture_output=True, text=True, check=False, timeout=LIMIT_S, env=environment(),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "toque: data: batch_size must be at least one image for each of the 2 ranks; got 1. "
        "Raise it, or start fewer ranks."
    ]
    assert not (tmp_path / "run").exists()


def test_a_signal_that_comes_between_two_starts_is_not_lost(monkeypatch):
    """Where torch's handler raises in a place at which Python drops exceptions, and where not."""
    starts = []

    def dies(devices, words):
        starts.append(words)
        os.kill(os.getpid(), signal.SIGTERM)
        return 1, "rank 1 was killed by SIGKILL"

    def raising(number, frame):
        raise SignalException("stopped", sigval=signal.Signals(number))

    monkeypatch.setattr(launch, "_run", dies)
    monkeypatch.setattr(launch, "_prepare", lambda devices: None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        for handler in (lambda number, frame: None, raising):
            signal.signal(signal.SIGTERM, handler)
            assert launch.local(2, ["-m", "nothing"], restarts=3) == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(starts) == 2


def test_restarts_without_a_launcher_are_refused(toque, photos):
    code, _, errors = toque("train", str(photos), "--restarts", "2")
    assert code == 2
    assert errors.startswith("toque: train: --restarts must be given with --devices; got 2.")


def test_the_killed_rank_is_named_though_another_had_told_its_end_before(monkeypatch, tmp_path):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
    from torch.distributed.launcher import api

    told = tmp_path / "error.json"
    told.write_text(json.dumps({"message": "rank 1 did not answer", "timestamp": 1}))
    failures = {
        0: ProcessFailure(local_rank=0, pid=10, exitcode=1, error_file=str(told)),
        1: ProcessFailure(local_rank=1, pid=11, exitcode=-signal.SIGKILL, error_file="none"),
        2: ProcessFailure(local_rank=2, pid=12, exitcode=-signal.SIGTERM, error_file="none"),
    }

    def ending(*_):
        raise ChildFailedError("toque", failures)

    monkeypatch.setattr(api, "elastic_launch", lambda *_: ending)
    assert launch._run(3, ["-m", "toque"]) == (1, "rank 1 was killed by SIGKILL")
    del failures[1]
    assert launch._run(3, ["-m", "toque"]) == (1, "rank 0 ended with 1")
