"""Two hosts, one lost, two again, by torchrun: the run goes on each time and ends in the same bits.

    python -m tests.train.distributed.test_elastic FOLDER

is what torchrun starts: one rank of the run, which waits at two places for what the test does.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.distributed import ranks

LIMIT_S = 200
ALONE, WAITS = "alone", "waits"  # files: one host trains on alone; and now waits for the other


class Lives:
    """A loss that notes which rank of how many hosts asks for it, and waits:

    of two, the second host in its fourth step, to be killed there; one alone after three steps, to
    be stopped because the other is back. Two that come after one alone wait for nothing.
    """

    def __init__(self, folder):
        self.folder, self.calls = folder, 0
        self.hosts, self.name = int(os.environ["WORLD_SIZE"]), os.environ["HOST_NAME"]
        self.again = (folder / ALONE).exists() and self.hosts == 2
        with (folder / "lives").open("a") as file:
            file.write(f"{self.name} of {self.hosts}\n")
        if self.hosts == 1:
            (folder / ALONE).touch()
        self.signals, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)

    def __call__(self, outputs, targets):
        from torch.nn.functional import cross_entropy

        self.calls += 1
        shards = 4 // self.hosts  # each asks once in a step
        if not self.again and self.calls == 3 * shards + 1:
            if self.hosts == 1:
                (self.folder / WAITS).touch()
            if self.hosts == 1 or self.name == "b":
                select.select([self.signals], [], [], LIMIT_S)
        return cross_entropy(outputs, targets)


def train(out, loss):
    """21 steps, in the bits of any number of ranks."""
    import toque
    from tests.train.distributed.test_ranks_of_fit import VIRTUAL, batch_normed
    from tests.train.runs import images

    run = toque.Run(
        out=str(out), epochs=3.2, batch_size=16, augment="light", threads=1,
        log={"tensorboard": False}, checkpoint={"every_s": 0.001, "background": False},
        distributed={**VIRTUAL, "timeout_s": LIMIT_S},
    )  # fmt: skip
    toque.fit(
        run, train=images(100), val=images(37, start=1000), model=batch_normed, loss=loss,
        show="quiet",
    )  # fmt: skip


@contextlib.contextmanager
def host(name, port, folder):
    """torchrun on a host that may lose the other; it ends with all that it started."""
    conf = f"is_host={int(name == 'a')},last_call_timeout=1,keep_alive_interval=1"
    words = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "1:2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-id", "elastic", "--rdzv-conf", conf,
        "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1", "--max-restarts", "3",
        "-m", __name__, str(folder),
    ]  # fmt: skip
    environment = {
        **os.environ, "HOST_NAME": name, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "TORCH_CPP_LOG_LEVEL": "ERROR",
    }  # fmt: skip
    with (folder / f"{name}.log").open("a") as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=log, env=environment,
            cwd=Path(__file__).parents[3],
        )  # fmt: skip
    try:
        yield process
    finally:
        kill(process, name, folder)


def kill(process, name, folder):
    """The host is gone: torchrun and its ranks, which are in a session of their own."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            of_host = f"HOST_NAME={name}\0".encode() in (entry / "environ").read_bytes()
            if of_host and str(folder).encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
    process.wait()


def until(condition, folder):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            logs = {path.name: path.read_text()[-3000:] for path in folder.glob("*.log")}
            raise TimeoutError(f"{logs}")
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_host_is_lost_and_comes_back_and_the_run_ends_in_the_bits_of_none_lost(tmp_path):
    from torch.nn.functional import cross_entropy

    from tests.train.distributed.test_ranks_of_fit import outcome

    port, out = ranks.free_port(), tmp_path / "run"
    with host("a", port, tmp_path) as first:
        with host("b", port, tmp_path):
            until(lambda: list((out / "checkpoints").glob("images-*")), tmp_path)
        until((tmp_path / WAITS).exists, tmp_path)
        with host("b", port, tmp_path) as second:
            until(lambda: None not in (first.poll(), second.poll()), tmp_path)
            assert (first.returncode, second.returncode) == (0, 0)
    lives = (tmp_path / "lives").read_text().split("\n")[:-1]
    assert sorted(lives[:2]) == sorted(lives[3:]) == ["a of 2", "b of 2"]
    assert lives[2] == "a of 1"
    train(tmp_path / "never lost", cross_entropy)
    assert outcome(out) == outcome(tmp_path / "never lost")


if __name__ == "__main__":
    train(Path(sys.argv[1]) / "run", Lives(Path(sys.argv[1])))
