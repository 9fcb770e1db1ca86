"""Real ranks for the tests: one program imports torch once and forks a process for each rank.

    python -m tests.train.distributed.ranks MODULE FUNCTION FOLDER [JSON arguments]

calls MODULE.FUNCTION(folder, *arguments), which calls `run` as often as it likes and returns what is
printed as JSON. The parent process must not have used torch's threads when it forks.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

LIMIT_S = 240  # what takes a third of a minute took two on a busy machine


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(ranks, function, *arguments, rank_environment=None):
    """Fork `ranks` processes that call function(*arguments); {process id: (rank, reading end)}."""
    port = free_port()
    children = {}
    for rank in range(ranks):
        reading, writing = os.pipe()
        child = os.fork()
        if child:
            os.close(writing)
            children[child] = (rank, reading)
            continue
        os.close(reading)
        code = 1
        try:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks),
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo",
            )  # fmt: skip
            os.environ.update(rank_environment(rank) if rank_environment else {})
            if ranks == 1:
                del os.environ["RANK"]
            import torch

            torch.set_num_threads(1)
            answer = pickle.dumps(function(*arguments))
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(answer)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            if os.environ.get("TRACE"):
                traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return children


def wait(children, limit_s=LIMIT_S):
    """([answer or None], [exit code, negative for a signal]) of every rank, in their order."""
    deadline = time.monotonic() + limit_s
    answers, codes = [None] * len(children), [None] * len(children)
    for _, reading in children.values():
        os.set_blocking(reading, False)
    bytes_of = {rank: b"" for rank, _ in children.values()}
    left = dict(children)
    try:
        while left:
            for child, (rank, reading) in list(left.items()):
                done, status = os.waitpid(child, os.WNOHANG)
                with contextlib.suppress(BlockingIOError):
                    while some := os.read(reading, 1 << 20):
                        bytes_of[rank] += some
                if done:
                    codes[rank] = os.waitstatus_to_exitcode(status)
                    os.close(reading)
                    del left[child]
            if time.monotonic() > deadline:
                raise TimeoutError(f"ranks {[rank for rank, _ in left.values()]} did not end")
            time.sleep(0.005)
    finally:
        for child in left:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    for rank, content in bytes_of.items():
        if content:
            answers[rank] = pickle.loads(content)
    return answers, codes


def run(ranks, function, *arguments, **options):
    """What function(*arguments) gives on each of so many ranks; all must end well."""
    answers, codes = wait(start(ranks, function, *arguments, **options))
    assert codes == [0] * ranks, codes
    return answers


def program(module, function, folder, *arguments, limit_s=LIMIT_S, **environment):
    """Call it in a fresh process, for a test: (what it returned, its stderr)."""
    command = [sys.executable, "-m", __name__, module, function, str(folder), json.dumps(arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=limit_s,
        cwd=Path(__file__).parents[3], env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


if __name__ == "__main__":
    # What every rank would import for itself, in more than a second: optimisers import the first.
    for shared in ("torch._dynamo", "torch.nn.parallel", "toque.train.reporting", "toque.cli"):
        importlib.import_module(shared)
    module_name, function_name, where, given = sys.argv[1:]
    called = getattr(importlib.import_module(module_name), function_name)
    print(json.dumps(called(Path(where), *json.loads(given))))
