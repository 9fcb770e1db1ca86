"""Two "hosts" on one machine: network namespaces with an address each, and a cable that is pulled.

    python benchmarks/hosts.py            # about two minutes; needs root on Linux and iproute2

Each host has a torchrun agent of its own (`--nnodes 1:2`) and one rank; they train one run over the
cable. Then: the cable is pulled in mid-run -> the host that stays says who is gone, and goes on
alone from the last checkpoint; the cable is mended and the other host's agent started again -> both
train on; and the run ends. Prints how long each took. Add --record to append it to RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

LIMIT_S = 120
TIMEOUT_S = 15
HOSTS = {"toque-a": "10.77.0.1", "toque-b": "10.77.0.2"}
CABLE = {"toque-a": "toque-a0", "toque-b": "toque-b0"}


def why_not() -> str | None:
    """What keeps this machine from having namespaces; None if nothing does."""
    if sys.platform != "linux" or not shutil.which("ip"):
        return "needs Linux and iproute2"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    tried = subprocess.run(["ip", "netns", "add", "toque-try"], capture_output=True, check=False)
    if tried.returncode:
        return f"network namespaces are not permitted here ({tried.stderr.decode().strip()})"
    ip("netns", "del", "toque-try")
    return None


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def hosts() -> Iterator[None]:
    """Two namespaces joined by a pair of virtual Ethernet devices."""
    try:
        for name in HOSTS:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        one, other = CABLE.values()
        ip("link", "add", one, "type", "veth", "peer", "name", other)
        for name, address in HOSTS.items():
            ip("link", "set", CABLE[name], "netns", name)
            ip("-n", name, "address", "add", f"{address}/24", "dev", CABLE[name])
            ip("-n", name, "link", "set", CABLE[name], "up")
        yield
    finally:
        for name in HOSTS:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def cable(state: str) -> None:
    ip("-n", "toque-a", "link", "set", CABLE["toque-a"], state)


def agent(host: str, out: Path, log: IO[str], epochs: int) -> subprocess.Popen[str]:
    """torchrun on a host, joined to the rendezvous that host a keeps."""
    # torchrun asks the machine's name whether it is the one that keeps the rendezvous.
    conf = f"is_host={int(host == 'toque-a')},last_call_timeout=5,keep_alive_interval=1"
    words = [
        "ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run",
        "--nnodes", "1:2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "hosts",
        "--rdzv-endpoint", f"{HOSTS['toque-a']}:29400", "--local-addr", HOSTS[host],
        "--max-restarts", "5", "--rdzv-conf", conf,
        "-m", "toque", "train", "fashion", "--out", str(out), "--set", f"epochs={epochs}",
        "--set", f"distributed.timeout_s={TIMEOUT_S}", "--set", "checkpoint.every_s=0.5",
        "--set", "log.every_images=2000", "--set", "model=resnet10_small",
    ]  # fmt: skip
    environment = {
        **os.environ, "GLOO_SOCKET_IFNAME": CABLE[host], "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "TORCH_CPP_LOG_LEVEL": "ERROR",
    }  # fmt: skip
    return subprocess.Popen(
        words, stdout=log, stderr=log, text=True, env=environment, start_new_session=True
    )


def until(condition: Callable[[], object], what: str) -> float:
    """Seconds until a condition holds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > LIMIT_S:
            raise SystemExit(f"not within {LIMIT_S} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - began


def end(process: subprocess.Popen[str]) -> None:
    """End an agent and the workers of its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def pulled_and_mended(folder: Path) -> str:
    out = folder / "run"
    logs = {name: (folder / f"{name}.log").open("w+") for name in (*HOSTS, "again")}

    def said(name: str, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, Path(logs[name].name).read_text())

    def saved() -> set[str]:
        return {path.name for path in (out / "checkpoints").glob("images-*")}

    running = [agent(host, out, logs[host], 1000) for host in HOSTS]
    try:
        started_s = until(saved, "the first checkpoint of two hosts")
        cable("down")
        named = r"rank 1 did not answer in [^\n]*"
        noticed_s = until(lambda: said("toque-a", named), "the lost host is named")
        sentence = said("toque-a", named)
        assert sentence is not None
        alone_s = until(
            lambda: said("toque-a", r"ranks was 2, is (1|not known)"), "host a goes on alone"
        )
        before = saved()
        until(lambda: saved() - before, "a checkpoint of host a alone")
        end(running[1])
        cable("up")
        running.append(agent("toque-b", out, logs["again"], 1000))
        both = r"ranks was (1|not known), is 2"
        joined_s = until(lambda: said("toque-a", both), "both hosts train again")
        before = saved()
        until(lambda: saved() - before, "a checkpoint of both again")
    except SystemExit:
        for log in logs.values():
            print(f"== {log.name}\n{Path(log.name).read_text()[-3000:]}", file=sys.stderr)
        raise
    finally:
        for process in running:
            end(process)
    return (
        f"two network namespaces, one rank each: first checkpoint after {started_s:.0f} s; cable "
        f"pulled: named after {noticed_s:.0f} s (distributed.timeout_s={TIMEOUT_S}) as "
        f'"{sentence[0][:160]}…"; the other host trains on alone {alone_s:.0f} s later; cable '
        f"mended and agent started: both train after {joined_s:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    if reason := why_not():
        raise SystemExit(f"skipped: {reason}")
    with tempfile.TemporaryDirectory() as folder, hosts():
        told = pulled_and_mended(Path(folder))
    print(told)
    if options.record:
        from record import append

        append("Many processes", told)


if __name__ == "__main__":
    main()
