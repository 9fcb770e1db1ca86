"""A checkpoint that all ranks write at once, each a file with what it alone holds.

    begin   rank 0 makes a folder under a name that was never used, and tells it
    wrote   every rank tells the bytes and the hash of its file, once it is on the disk
    end     rank 0 writes what the files mean, the manifest last, renames the folder, and tells it
    heard   every rank tells that it knows, and may leave

A rank, or all of them, killed anywhere in between leaves a folder without a name: the checkpoints
before are untouched. What every rank holds (the weights under DDP) is written once, shared out
among them. All of it but the copy is done by a thread beside the training.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file

from toque import durable
from toque.train.distributed import sharding
from toque.train.distributed.messages import Messages
from toque.train.distributed.world import World
from toque.train.settings.course import CheckpointSettings
from toque.train.state import checkpoint, pieces
from toque.train.state.snapshot import Camera, Place, Snapshot, slots, take_tensors, with_slots


class OneFileEach:
    """How the state of many ranks gets onto a disk that all of them see: see the module.

    Args: folder: of the checkpoints
          weights: names of the parameters, which are alike on all ranks or pieces
          timeout_s: how long one rank waits for another
    """

    def __init__(
        self,
        world: World,
        folder: Path,
        settings: CheckpointSettings,
        weights: frozenset[str],
        timeout_s: float,
    ) -> None:
        self._world, self._folder, self._settings = world, folder, settings
        self._weights = weights
        self._messages = Messages(world, timeout_s)
        # Half a second of imports, before the first step rather than in the first save.
        importlib.import_module("torch.distributed.checkpoint")
        self._kept = Camera() if settings.background else None
        self._count = 0
        self._planned: list[tuple[str, torch.dtype, torch.Size]] = []
        self._numbers: list[str] = []
        self._table: pieces.Table = {}
        self._own: pieces.Table = {}

    def take(self, state: Mapping[str, Any]) -> Snapshot:
        """Copy what this rank writes. All ranks call it at the same step."""
        live: dict[str, torch.Tensor] = {}
        skeleton = take_tensors(state, live)
        places = dict(slots(with_slots(skeleton)))
        of_all: dict[str, torch.Tensor] = {}
        own: dict[str, torch.Tensor] = {}
        for name, tensor in live.items():
            everywhere = sharding.is_piece(tensor) or is_alike(places[name], self._weights)
            (of_all if everywhere else own)[name] = tensor
        self._plan(of_all)
        written = {name: sharding.piece(of_all[name]) for name in self._numbers}
        if self._world.first:
            # Only rank 0's count: running statistics, for one, are each rank's own.
            written |= own
            self._own = pieces.whole(own, pieces.file_of(0, self._world.size))
        return Snapshot(skeleton, (self._kept or Camera()).copy(written))

    def write(self, snapshot: Snapshot, images_seen: int, score: float | None) -> None:
        """Write this rank's file, and wait until the checkpoint is whole.

        Raises: OSError: on every rank, what prevented it on one
                DistError: a rank is gone
        """
        self._count += 1
        world = self._world
        with contextlib.ExitStack() as told:
            if not self._settings.background:  # else it is not what this rank does
                told.enter_context(world.waiting("the checkpoint"))
            failure = None
            try:
                if world.first:
                    self._lead(snapshot, images_seen, score)
                else:
                    self._follow(snapshot)
            except OSError as error:
                failure = error
            self._part()
            if failure is not None:
                raise failure

    def give_up(self) -> None:
        self._messages.give_up()

    def _plan(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Share out what is written, when it is not what was written last."""
        asked = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
        if asked == self._planned:
            return
        what = "the plan of the checkpoint"
        offers = self._world.to_first(pieces.offered(tensors), what)
        numbers, self._table = pieces.divided(offers) if self._world.first else ([], {})
        self._numbers = self._world.from_first(numbers, what)[self._world.rank]
        self._planned = asked

    def _key(self, what: str, count: int | None = None) -> str:
        return f"checkpoint/{self._count if count is None else count}/{what}"

    def _lead(self, snapshot: Snapshot, images_seen: int, score: float | None) -> None:
        """Rank 0's part."""
        messages, others = self._messages, range(1, self._world.size)
        of_ranks = [f"{what}/{rank}" for what in ("wrote", "heard") for rank in others]
        for what in ("begin", "end", *of_ranks):
            messages.forget(self._key(what, self._count - 1))  # which all have heard
        if checkpoint.is_there(self._folder, images_seen, score):
            messages.tell(self._key("begin"), {"there": True})
            return
        # No rank of an older start, whose writer may still live, knows this name.
        name = f".writing-{checkpoint.name_of(images_seen)}-{uuid.uuid4().hex[:12]}"
        aside = self._folder / name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            durable.remove_leftovers(self._folder)
            aside.mkdir()
        except OSError as error:
            messages.tell(self._key("begin"), {"error": str(error)})
            raise
        messages.tell(self._key("begin"), {"folder": name})
        answers = [
            self._own_file(aside, snapshot),
            *messages.heard({rank: self._key(f"wrote/{rank}") for rank in others}),
        ]
        try:
            errors = [answer["error"] for answer in answers if "error" in answer]
            if errors:
                raise OSError("; ".join(errors))
            files = {name: told for answer in answers for name, told in answer.items()}
            (aside / pieces.TABLE).write_text(pieces.table_text(self._table | self._own))
            (aside / checkpoint.STATE).write_text(json.dumps(snapshot.skeleton))
            for name in (pieces.TABLE, checkpoint.STATE):
                files[name] = checkpoint.written(aside / name)
            checkpoint.complete(aside, files, images_seen=images_seen, score=score)
            checkpoint.prune(self._folder, self._settings.keep)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            messages.tell(self._key("end"), {"error": str(error)})
            raise
        messages.tell(self._key("end"), {})

    def _part(self) -> None:
        """All have heard how it ended: rank 0, whose process may keep the store, waits for them."""
        if self._world.first:
            others = range(1, self._world.size)
            self._messages.heard({rank: self._key(f"heard/{rank}") for rank in others})
        else:
            self._messages.tell(self._key(f"heard/{self._world.rank}"), {})

    def _follow(self, snapshot: Snapshot) -> None:
        """Every other rank's part."""
        messages = self._messages
        (begin,) = messages.heard({0: self._key("begin")})
        if "error" in begin:
            raise OSError(begin["error"])
        if "there" in begin:
            return
        answer = self._own_file(self._folder / begin["folder"], snapshot)
        messages.tell(self._key(f"wrote/{self._world.rank}"), answer)
        (end,) = messages.heard({0: self._key("end")})
        if "error" in end:
            raise OSError(end["error"])

    def _own_file(self, aside: Path, snapshot: Snapshot) -> dict[str, Any]:
        """Write this rank's tensors: the manifest's entry, or what went wrong."""
        if not snapshot.tensors:
            return {}
        file = aside / pieces.file_of(self._world.rank, self._world.size)
        try:
            save_file(snapshot.tensors, file)
            return {file.name: checkpoint.written(file)}
        except (OSError, safetensors.SafetensorError) as error:
            return {"error": f"rank {self._world.rank}: {error}"}


class Gathered:
    """How it gets onto a disk that rank 0 alone sees: every tensor is gathered, rank 0 writes all.

    Args: medium: how rank 0 writes; None on the others
    """

    def __init__(self, medium: Any) -> None:
        self._medium = medium

    def take(self, state: Mapping[str, Any]) -> Snapshot:
        """All ranks call it at the same step."""
        whole = sharding.gathered(state, keep=self._medium is not None)
        return Snapshot(None, {}) if self._medium is None else self._medium.take(whole)

    def write(self, snapshot: Snapshot, images_seen: int, score: float | None) -> None:
        if self._medium is not None:
            self._medium.write(snapshot, images_seen, score)

    def give_up(self) -> None:
        pass


def is_alike(place: Place, weights: frozenset[str]) -> bool:
    """Whether a tensor of a run's state is the same on all ranks: not so running statistics."""
    kind, name = place[0], place[-1]
    if kind == "model":
        return name in weights
    if kind == "ema":
        return isinstance(name, str) and name.startswith("parameters.")
    return kind == "optimizer"
