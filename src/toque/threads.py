"""Threads beside the one that computes: each does torch's operations alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def threads_beside(
    count: int, name: str, begin: Callable[[], None] | None = None
) -> ThreadPoolExecutor:
    """`count` threads whose torch operations do not spread over further threads.

    One operation that spreads from a thread of its own gives the process a second team of OpenMP
    threads. With more of them than cores, libgomp's barriers no longer spin but sleep, and a
    training step of some hundred operations on the CPU waits for some hundred wake-ups: a sixth of
    its time on two cores.

    Args:    name: of the threads, as debuggers show it
             begin: what each does first
    Example: >>> threads_beside(2, "decode").submit(torch.get_num_threads).result()
             1
    """
    everywhere = torch.get_num_threads()
    all_set = threading.Barrier(count + 1)

    def started() -> None:
        try:
            # Asked first: torch gives a thread the common number at its first operation.
            torch.get_num_threads()
            torch.set_num_threads(1)
            if begin is not None:
                begin()
        finally:
            with contextlib.suppress(threading.BrokenBarrierError):
                all_set.wait()

    pool = ThreadPoolExecutor(count, name, initializer=started)
    try:
        for _ in range(count):  # none is idle before all have started, so each starts one
            pool.submit(int)
        all_set.wait()
    except BaseException:
        all_set.abort()
        raise
    finally:
        # What a thread sets for itself, torch would give to those that begin later, too.
        torch.set_num_threads(everywhere)
    return pool
