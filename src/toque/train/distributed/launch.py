"""Starting one process for each device of this machine, by torch's own elastic launcher."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence

from toque import checks, cores

_PARENT = "TOQUE_LAUNCHER"  # the process that ends with its workers, and they with it
_PR_SET_PDEATHSIG = 1
_MISTAKE = 2  # exit codes: a user's mistake, and what a signal's number is added to
_SIGNAL = 128
_KILLED = "was killed by"


def local(devices: int, command: Sequence[str], *, restarts: int = 0) -> int:
    """Run `command` in `devices` processes of this machine that train together; the exit code.

    SIGTERM and SIGINT are passed on: the ranks save and leave, and the code is 143 or 130. Where a
    rank dies all are started again, up to `restarts` times, and continue from the last checkpoint;
    not after a user's mistake, which would only be met again.

    Args:   command: arguments after the Python interpreter, as ["-m", "toque", "train", …]
    Raises: ValueError: devices < 1, or more than there are GPUs
    """
    if devices < 1:
        raise checks.invalid("train", "--devices", ">= 1", devices, "Give a number of processes.")
    import torch

    if torch.cuda.is_available() and devices > torch.cuda.device_count():
        raise checks.invalid(
            "train", "--devices", f"at most the {torch.cuda.device_count()} GPUs of this machine",
            devices, 'Lower it, or train on the CPU with --set device="cpu".',
        )  # fmt: skip
    from torch.distributed.elastic.multiprocessing.api import SignalException

    _prepare(devices)
    with _Heard() as heard:
        try:
            for left in range(restarts, -1, -1):
                code, died = _run(devices, command)
                if number := heard.number():
                    return _SIGNAL + number
                if code in (0, _MISTAKE) or code > _SIGNAL:
                    break
                if left:
                    then = f"all are started again, {left - 1} restarts are left"
                elif _KILLED in died:
                    then = "the same command continues from the last checkpoint"
                else:  # it has told its own end
                    break
                print(f"toque: {died}; {then}.", file=sys.stderr)
        except SignalException as stopped:  # between two starts
            return _SIGNAL + int(stopped.sigval)
    return code


class _Heard:
    """Remembers a SIGTERM or SIGINT of this process, whatever handler there is.

    torch's handler raises an exception. While objects are taken down, as those of a start whose
    ranks have ended, Python prints an exception and goes on: the signal would be lost.
    """

    def __enter__(self) -> _Heard:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._reading)
        os.close(self._writing)

    def number(self) -> int | None:
        """The first one that came, if any."""
        try:
            numbers = os.read(self._reading, 4096)
        except BlockingIOError:
            return None
        return next((one for one in numbers if one in (signal.SIGTERM, signal.SIGINT)), None)


def _prepare(devices: int) -> None:
    """The environment of the workers, and torch's own reports silenced."""
    import torch.distributed.launcher.api

    assert torch.distributed.launcher.api  # makes the loggers that are silenced here
    # Each with a level of its own. They tell every worker's end; rank 0 has said it in a sentence.
    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed."):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores.usable() // devices)))
    # Warnings about a closed connection, which the ranks put into words themselves.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # After SIGTERM: a checkpoint of a large model takes longer than torch's 30 s.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ[_PARENT] = str(os.getpid())


def _run(devices: int, command: Sequence[str]) -> tuple[int, str]:
    """One start of all ranks: the exit code, and which rank ended first and how."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=f"toque-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,  # here, because torch would restart after a mistake too
    )
    try:
        elastic_launch(config, sys.executable)(*command)
    except SignalException as stopped:
        return _SIGNAL + int(stopped.sigval), ""
    except ChildFailedError as failed:
        # Others end within moments of a killed one, with sentences that torch takes for earlier.
        killed = [
            (rank, failure)
            for rank, failure in failed.failures.items()
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
        ]
        rank, first = killed[0] if killed else failed.get_first_failure()
        how = f"ended with {first.exitcode}"
        if first.exitcode < 0:
            how = f"{_KILLED} {first.signal_name()}"
        codes = [failure.exitcode for failure in failed.failures.values()]
        # Killed from outside (a negative code) tells less than a code of toque's own.
        code = max([code for code in codes if code > 0], default=1)
        return code, f"rank {rank} {how}"
    return 0, ""


def die_with_launcher() -> None:
    """Ask the kernel to send SIGTERM to this process when the one that launched it dies.

    Without it a SIGKILL of the launcher leaves its workers training. Only Linux has it.
    """
    launcher = os.environ.get(_PARENT)
    if sys.platform != "linux" or launcher is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(launcher):  # it died before it was asked
        os.kill(os.getpid(), signal.SIGTERM)
