"""One rank fails: all end, for the reason it gives, and rank 0 says it once.

The rank that fails leaves its sentence in the store and lets go of its connections. The others
meet a broken connection in their next collective, look for the sentence, and end with it; a thread
beside each sees to it where no collective comes. A rank that says nothing (killed, hung) is found
by the signs of life that each leaves in the store: what it does, and whether it only waits.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from toque import checks
from toque.train.distributed import joining, presence, recorder
from toque.train.distributed.world import World
from toque.train.stop import Stopped

if TYPE_CHECKING:
    from torch.distributed import Store

_BEAT_S = 0.5
_SILENT_S = 5.0  # without a sign of life for so long, a process is not running
_GRACE_S = 5.0  # in which a rank ends by itself once another has failed
_TELL_S = 0.5  # for a failure to be read: it is left before the connections are let go
_HEAR_S = 2.0  # for the others to learn that rank 0 has spoken
_OUT_OF_MEMORY = (
    "fit: a rank's part of a batch must fit into its memory; got none left. Start more ranks, or "
    'set distributed.strategy = "fsdp": the run then continues. Or set memory.micro_batch or a '
    "lower batch_size for a new run, with another --out."
)
_PLACE = re.compile(r"\[\S*/\S+:\d+\]\s*")
FAILURE, _SAID, _ASKED = "failure", "said", "asked"


def beat(rank: int) -> str:
    """The key under which a rank leaves its signs of life."""
    return f"beat/{rank}"


class LostRank(Exception):
    """A rank was killed, hangs, or is out of reach; the message names it and what it did last."""


class Elsewhere(SystemExit):
    """Ends a rank other than 0 without a word: rank 0 says what happened."""


@contextlib.contextmanager
def together(world: World) -> Iterator[None]:
    """End on every rank when one fails in this block: rank 0 with its sentence, others silently.

    Raises: UserMistake: on rank 0, what any rank raised of that kind
            LostRank: on rank 0, a rank that vanished or hangs
            Elsewhere: on the other ranks
    """
    if world.alone:
        yield
        return
    watch = _Watch(world)
    try:
        yield
    except Stopped as stop:
        if world.first:
            raise
        raise Elsewhere(stop.code) from None
    except Exception as error:
        raise _told(world, watch, error) from (None if _is_plain(world, error) else error)
    finally:
        watch.end()


def _is_plain(world: World, error: Exception) -> bool:
    return isinstance(error, checks.UserMistake) or _is_collective(world, error)


def _is_collective(world: World, error: Exception) -> bool:
    import torch.distributed as dist

    if isinstance(error, checks.UserMistake) or _is_out_of_memory(error):
        return False
    text = str(error)
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in text or "NCCL" in text or "Socket" in text)
    )


def _is_out_of_memory(error: Exception) -> bool:
    from toque.train.steps import memory  # here: steps are built on this room

    return memory.is_out_of_memory(error)


def _told(world: World, watch: _Watch, error: Exception) -> BaseException:
    """What to raise on this rank."""
    if _is_collective(world, error):
        failure = watch.failure_of_another(wait_s=_TELL_S)
        if failure is None:
            # Who does not speak need not ask: the store may end with rank 0 at any moment.
            sentence = watch.lost_sentence(error) if world.first else ""
            failure = _Failure(-1, "lost", sentence)
    else:
        kind, sentence = "bug", f"{type(error).__name__}: {error}"
        if isinstance(error, checks.UserMistake):
            kind, sentence = "mistake", str(error)
        elif _is_out_of_memory(error):
            kind, sentence = "mistake", _OUT_OF_MEMORY
        failure = watch.post(_Failure(world.rank, kind, sentence))
    if failure.rank == world.rank or (failure.rank < 0 and world.first):
        _tell_torchrun(failure.sentence)
    _let_go(world, error, are_others=watch.are_others())
    watch.end()
    if world.first:
        watch.say()
        if failure.rank == 0 and failure.kind == "bug":
            return error
        if failure.sentence == str(error):
            return error  # a mistake that every rank meets: another one was only quicker
        return failure.error()
    if failure.kind == "bug" and failure.rank == world.rank:
        return error  # with its traceback, which only this rank has
    watch.wait_until_said()
    return Elsewhere(failure.code)


def leave(code: int) -> NoReturn:
    """End this process at once, with what it said written.

    To take down an interpreter in which torch has run takes a second or more, and the launcher,
    which would start all ranks again, waits for it. What the run has opened is closed by then.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _let_go(world: World, error: Exception, *, are_others: bool) -> None:
    """Close the connections, so that those who wait for this rank do not go on waiting.

    gloo closes them when nobody holds the group any more: not the world, and no local variable of
    the functions that the error has left.
    """
    import torch.distributed as dist

    world.group = None
    traceback.clear_frames(error.__traceback__)
    if dist.is_initialized():
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
    if are_others:
        gc.collect()


def _tell_torchrun(sentence: str) -> None:
    """Leave the sentence where torchrun's agent, where there is one, looks for what went wrong.

    torchrun prints it as the root cause, below a traceback of its own that nobody can turn off.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        with contextlib.suppress(OSError):
            text = json.dumps({"message": sentence, "timestamp": int(time.time())})
            Path(path).write_text(text, encoding="utf-8")


def _reason(error: Exception) -> str:
    """torch's words, without the place in its sources and its guess at a cause."""
    first = str(error).strip().partition("\n")[0]
    return _PLACE.sub("", first).partition(". This is")[0][:200]


class _Failure:
    """Why the run ends: the rank, "mistake", "bug" or "lost", and the sentence."""

    def __init__(self, rank: int, kind: str, sentence: str) -> None:
        self.rank, self.kind, self.sentence = rank, kind, sentence

    @property
    def code(self) -> int:
        return 2 if self.kind == "mistake" else 1

    def error(self) -> Exception:
        if self.kind == "lost":
            return LostRank(self.sentence)
        where = "" if self.rank == 0 else f"rank {self.rank}: "
        if self.kind == "mistake":
            return checks.InvalidValue(where + self.sentence)
        return LostRank(f"{where}{self.sentence}. Its traceback stands in that rank's own output.")

    def text(self) -> str:
        return json.dumps([self.rank, self.kind, self.sentence])

    @staticmethod
    def read(text: bytes) -> _Failure:
        return _Failure(*json.loads(text))


class _Watch:
    """The thread beside a rank: leaves its signs of life, and looks for the failure of another."""

    def __init__(self, world: World) -> None:
        import torch.distributed as dist

        self._world = world
        # Two connections of its own: one that waits would hold the other thread up.
        patience = timedelta(seconds=10)
        self._store: Store = dist.PrefixStore(world.name, joining.connect(patience))
        self._beats: Store = dist.PrefixStore(world.name, joining.connect(patience))
        presence.leave(self._store, world.rank)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="toque-watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(10 * _BEAT_S)

    def post(self, failure: _Failure) -> _Failure:
        """Leave a failure, unless there is one; the one that counts."""
        with contextlib.suppress(RuntimeError):
            first = self._store.compare_set(FAILURE, "", failure.text())
            return _Failure.read(first)
        return failure

    def failure_of_another(self, wait_s: float) -> _Failure | None:
        """What another rank left, waiting a little; None where one has ended without a word."""
        deadline = time.monotonic() + wait_s
        num_others = self._world.size - 1
        while True:
            is_late = time.monotonic() > deadline
            with contextlib.suppress(RuntimeError):
                # Before the look: who fails leaves its sentence first, and then ends.
                is_late = is_late or len(self._others()) < num_others
                if self._store.check([FAILURE]):
                    return _Failure.read(self._store.get(FAILURE))
            if is_late:
                return None
            time.sleep(0.05)

    def say(self) -> None:
        """Note that rank 0 speaks, and let the others hear it: the store may end with rank 0."""
        deadline = time.monotonic() + _HEAR_S
        with contextlib.suppress(RuntimeError):
            self._store.set(_SAID, "1")
            others = [f"heard/{rank}" for rank in self._others()]
            while others and not self._store.check(others) and time.monotonic() < deadline:
                time.sleep(0.02)

    def wait_until_said(self) -> None:
        """Let rank 0 speak before this process ends, because its end makes torchrun end rank 0."""
        deadline = time.monotonic() + 2 * _GRACE_S
        while time.monotonic() < deadline:
            try:
                if self._store.check([_SAID]):
                    self._store.set(f"heard/{self._world.rank}", "1")
                    return
                if self._is_gone(0):
                    return
            except RuntimeError:
                return
            time.sleep(0.05)

    def lost_sentence(self, error: Exception) -> str:
        """Who did not answer, and what each did last, from the signs of life."""
        doing = self._world.doing.what
        last_of = self._ask_all()
        told, missing = [], []
        ranks = [rank for rank in range(self._world.size) if rank != self._world.rank]
        gone = [rank for rank in ranks if self._is_gone(rank)]
        # An end explains all, and the last signs of the others may be old.
        for rank in gone or ranks:
            when, what, waiting = self._sign_of(rank)
            silent_s = time.time() - when
            if rank in gone or silent_s > _SILENT_S or not waiting:
                state = f"no sign of life for {silent_s:.0f} s" if silent_s > _SILENT_S else "alive"
                state = state if when else "no sign of life ever"
                state = "its process has ended" if rank in gone else state
                missing.append(str(rank))
                last = f", last collective {last_of[rank]}" if last_of.get(rank) else ""
                told.append(f"rank {rank} in {what}, {state}{last}")
        who = f"rank {', '.join(missing)}" if missing else "another rank"
        reason = _reason(error)
        mine = recorder.last_collective()
        if mine and told:
            told.append(f"rank {self._world.rank} waits in {mine}")
        last = "; ".join(told) or "all are alive and wait: a connection broke"
        return (
            f"{who} did not answer in {doing} ({last}; {reason}). The last checkpoint is whole: "
            "the same command continues from it."
        )

    def _ask_all(self) -> dict[int, str]:
        """The last collective of each rank that still runs, also where its main thread hangs."""
        deadline = time.monotonic() + 3 * _BEAT_S
        with contextlib.suppress(RuntimeError):
            self._store.set(_ASKED, "1")
            answers = {rank: f"{_ASKED}/{rank}" for rank in self._others()}
            while (
                answers
                and not self._store.check([*answers.values()])
                and time.monotonic() < deadline
            ):
                time.sleep(0.05)
            return {
                rank: self._store.get(answer).decode()
                for rank, answer in answers.items()
                if self._store.check([answer])
            }
        return {}

    def are_others(self) -> bool:
        """Whether any other rank may still run."""
        with contextlib.suppress(RuntimeError):
            return bool(self._others())
        return True

    def _others(self) -> list[int]:
        """The other ranks, but for those that are known to have ended."""
        others = (rank for rank in range(self._world.size) if rank != self._world.rank)
        return [rank for rank in others if not presence.is_gone(self._store, rank)]

    def _is_gone(self, rank: int) -> bool:
        with contextlib.suppress(RuntimeError):
            return presence.is_gone(self._store, rank)
        return False

    def _sign_of(self, rank: int) -> tuple[float, str, bool]:
        with contextlib.suppress(RuntimeError):
            if self._store.check([beat(rank)]):
                when, what, waiting = json.loads(self._store.get(beat(rank)))
                return when, what, waiting
        return 0.0, "the start", False

    def _run(self) -> None:
        seen_at, answered = None, False
        ended = False
        while not ended:  # the first sign at once: a rank may be asked after at any moment
            doing = self._world.doing
            sign = json.dumps([time.time(), doing.what, doing.waiting])
            try:
                self._beats.set(beat(self._world.rank), sign)
                if not answered and self._beats.check([_ASKED]):
                    answered = True
                    self._beats.set(f"{_ASKED}/{self._world.rank}", recorder.last_collective())
                if seen_at is None and self._beats.check([FAILURE]):
                    seen_at = time.monotonic()
                for look in self._world.looks:
                    look()
            except RuntimeError:
                return  # the store is gone, and with it whoever kept it
            if seen_at is not None and time.monotonic() - seen_at > _GRACE_S:
                self._end_process()
            ended = self._ended.wait(_BEAT_S)

    def _end_process(self) -> None:
        """End a rank whose main thread hangs in a collective that cannot come to its end."""
        failure = _Failure.read(self._beats.get(FAILURE))
        if self._world.first:
            self._beats.set(_SAID, "1")
            print(f"toque: {failure.error()}", file=sys.stderr, flush=True)
        os._exit(failure.code)
