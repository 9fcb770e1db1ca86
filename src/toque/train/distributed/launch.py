"""Starting one process for each device of this machine, by torch's own elastic launcher."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence

from toque import checks

_PARENT = "TOQUE_LAUNCHER"  # the process that ends with its workers, and they with it
_PR_SET_PDEATHSIG = 1


def local(devices: int, command: Sequence[str], *, restarts: int = 0) -> int:
    """Run `command` in `devices` processes of this machine that train together; the exit code.

    SIGTERM and SIGINT are passed on: the ranks save and leave, and the code is 143 or 130. Where a
    rank dies all are started again, up to `restarts` times, and continue from the last checkpoint.

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
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # torch reports every worker's end with a traceback; rank 0 has said it in a sentence.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // devices)))
    # A store of its own for the workers of every start, so that none meets the keys of another.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    # Warnings about a closed connection, which the ranks put into words themselves.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # After SIGTERM: a checkpoint of a large model takes longer than torch's 30 s.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ[_PARENT] = str(os.getpid())
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=f"toque-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=restarts,
    )
    try:
        elastic_launch(config, sys.executable)(*command)
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as failed:
        codes = [failure.exitcode for failure in failed.failures.values()]
        # Killed from outside (a negative code) tells less than a code of toque's own.
        return max([code for code in codes if code > 0], default=1)
    return 0


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
