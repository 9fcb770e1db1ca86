"""How a process finds the others: the environment that torchrun (or Slurm, or a person) sets.

`torchrun` restarts workers over the store of the run before, and torch's own rendezvous then meets
its old keys: with gloo the first restart fails (pytorch#135712). Here the ranks first agree on a
name that was never used, and everything that follows lies in the store below that name.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from toque import checks
from toque.train.distributed.world import ALONE, World

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Store, TCPStore

_POLL_S = 0.02
_SLACK_S = 1.0  # for torch to say itself that time is up


def is_one_of_several() -> bool:
    """Whether torchrun, or who else sets its environment, started this process."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def speaks() -> bool:
    """Whether this process is the one of its ranks that prints."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def joined(timeout_s: float) -> Iterator[World]:
    """The world that the environment describes, until the block ends; alone where there is none.

    A process group that the caller has made is used and left as it is.

    Args:   timeout_s: how long a rank waits for the others in any collective
    Raises: ValueError: the environment is incomplete, the port is in use, a rank does not come
    """
    if not is_one_of_several() or int(os.environ["WORLD_SIZE"]) == 1:
        yield ALONE
        return
    import torch.distributed as dist

    rank, size = _number("RANK"), _number("WORLD_SIZE")
    # Whoever starts one process a host may not say its number there.
    local_rank = int(os.environ.get("LOCAL_RANK", rank % max(1, torch.cuda.device_count())))
    timeout = timedelta(seconds=timeout_s)
    made = not dist.is_initialized()
    store = _store(rank, size, timeout, hosts=made)
    name = _agree_on_name(store, rank, size, timeout_s)
    store = dist.PrefixStore(name, store)
    if made:
        # Both in one group: NCCL carries what lies on a GPU, gloo the decisions.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank % torch.cuda.device_count())
        try:
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=timeout
            )
        except RuntimeError as error:
            said = checks.first_line(error, 1000).rstrip(".")
            raise checks.InvalidValue(
                f"rank {rank}: the {size} ranks must reach each other; {said}. "
                "Check that every host may connect to the others, and name the network with "
                "GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME)."
            ) from None
    try:
        # The world alone holds the group: without it the connections close, which others notice.
        yield World(rank, size, local_rank, name, _decisions(timeout))
    finally:
        if made and dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()


def _decisions(timeout: timedelta) -> ProcessGroup:
    import torch.distributed as dist

    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)
    return group


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdigit():
        raise checks.invalid(
            "distributed", name, "a number in the environment", repr(value),
            "Start the ranks with torchrun, or with toque train --devices N.",
        )  # fmt: skip
    return int(value)


def connect(timeout: timedelta) -> Store:
    """One more connection to the store that the ranks share, for a thread of its own."""
    import torch.distributed as dist

    host, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT")
    return dist.TCPStore(host, port, None, is_master=False, timeout=timeout)


def _store(rank: int, size: int, timeout: timedelta, *, hosts: bool) -> Store:
    """The store at MASTER_ADDR; rank 0 opens it, unless whoever started the ranks did."""
    import torch.distributed as dist

    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise checks.invalid(
                "distributed", name, "set where WORLD_SIZE is", "nothing",
                "Start the ranks with torchrun, or set the host and a free port of rank 0.",
            )  # fmt: skip
    # Under torchrun its agent keeps the store, and every worker is a guest.
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    host, port = os.environ["MASTER_ADDR"], _number("MASTER_PORT")

    def connect() -> TCPStore:
        return dist.TCPStore(
            host, port, size, is_master=rank == 0 and hosts and not hosted, timeout=timeout,
            wait_for_workers=False,
        )  # fmt: skip

    try:
        return _within(timeout, connect)
    except (RuntimeError, ValueError, TimeoutError) as error:
        text = checks.first_line(error, 1000).rstrip(".")
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            raise checks.invalid(
                "distributed", "MASTER_PORT", "free on rank 0's host", f"{port}, which is in use",
                "Choose another port, the same for all ranks.",
            ) from None  # fmt: skip
        raise checks.InvalidValue(
            f"rank {rank}: MASTER_ADDR and MASTER_PORT must lead to rank 0; got {host}:{port} "
            f"({text}). Start rank 0, or mend the address."
        ) from None


def _within(timeout: timedelta, connect: Callable[[], TCPStore]) -> TCPStore:
    """A store, or TimeoutError: torch waits for ever where something else answers at the port."""
    found: queue.SimpleQueue[TCPStore | Exception] = queue.SimpleQueue()

    def work() -> None:
        try:
            found.put(connect())
        except Exception as error:
            found.put(error)

    threading.Thread(target=work, name="toque-connect", daemon=True).start()
    try:
        store = found.get(timeout=timeout.total_seconds() + _SLACK_S)
    except queue.Empty:
        raise TimeoutError("no answer from a store there") from None
    if isinstance(store, Exception):
        raise store
    return store


def _agree_on_name(store: Store, rank: int, size: int, timeout_s: float) -> str:
    """A name for this start of the ranks, which no start before it has used.

    Rank 0 calls with a fresh name; the others answer with fresh names of their own until a list of
    them appears in which they stand. What an older start left can therefore never be taken for it.
    """
    mine = uuid.uuid4().hex
    deadline = time.monotonic() + timeout_s
    if rank == 0:
        store.set("toque/call", mine)
        answers = [f"toque/{mine}/answer/{other}" for other in range(1, size)]
        while not store.check(answers):
            missing = [n + 1 for n, answer in enumerate(answers) if not store.check([answer])]
            _wait(deadline, f"ranks {missing} of {size} did not come")
        names = [store.get(answer).decode() for answer in answers]
        store.set(f"toque/{mine}/go", " ".join(names))
        return f"toque/{mine}"
    answered = ""
    while True:
        if store.check(["toque/call"]):
            call = store.get("toque/call").decode()
            if call != answered:
                store.set(f"toque/{call}/answer/{rank}", mine)
                answered = call
            go = f"toque/{call}/go"
            if store.check([go]) and mine in store.get(go).decode().split():
                return f"toque/{call}"
        _wait(deadline, "rank 0 did not call")


def _wait(deadline: float, missing: str) -> None:
    if time.monotonic() > deadline:
        raise checks.InvalidValue(
            f"distributed: every rank must come within distributed.timeout_s; {missing}. "
            "Start all ranks at the same time, with the same MASTER_ADDR and MASTER_PORT."
        )
    time.sleep(_POLL_S)
