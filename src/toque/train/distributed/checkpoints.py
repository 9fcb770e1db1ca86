"""The checkpoints of a run on many ranks: how they are saved and restored, chosen at the start.

Alone a process writes one file. In a folder that all ranks see each writes its own, and reads what
it needs of them, however many had written. In a folder that only rank 0 sees it writes and reads
alone, and what the others need travels. All three continue what any of them has left.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from toque.models.ema import EMA
from toque.train.distributed import sharding
from toque.train.distributed.saving import Gathered, OneFileEach
from toque.train.distributed.world import World
from toque.train.settings.course import CheckpointSettings
from toque.train.state import checkpoint, formats, pieces
from toque.train.state.checkpoint import Checkpoint, Choice
from toque.train.state.saving import Medium, OneFile, Saver
from toque.train.state.snapshot import Place, filled, slots, with_slots

Restored = tuple[Checkpoint | None, Mapping[str, Any], list[str]]
"""A checkpoint, its state, a sentence for each damaged one passed over; alike on all ranks."""


class Checkpoints(Protocol):
    """Where the checkpoints of a run are, for all of its ranks.

    note: what a person should know of how they are saved, if anything
    """

    note: str | None

    def load(self, choose: Choice) -> Restored:
        """The first undamaged checkpoint that `choose` gives on rank 0."""
        raise NotImplementedError

    def saver(self, settings: CheckpointSettings, say: Callable[[str], None]) -> Saver:
        """What saves the state of this rank."""
        raise NotImplementedError


class Alone:
    """The checkpoints of a process alone."""

    note: str | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, choose: Choice) -> Restored:
        return checkpoint.load_chosen(self._folder, choose)

    def saver(self, settings: CheckpointSettings, say: Callable[[str], None]) -> Saver:
        return Saver(self._folder, settings, say)


class ByFirst:
    """Checkpoints in a folder that rank 0 alone touches."""

    def __init__(self, world: World, folder: Path, unseen: list[int]) -> None:
        self._world, self._folder = world, folder
        ranks = ", ".join(map(str, unseen[:8])) + (", …" if len(unseen) > 8 else "")
        self.note: str | None = (
            f"rank {ranks} cannot write where rank 0 saves ({folder}), so every checkpoint is "
            "gathered there and written by it alone; on a folder that all ranks share each "
            "would write its own part."
        )

    def load(self, choose: Choice) -> Restored:
        return self._world.first_does(
            lambda: checkpoint.load_chosen(self._folder, choose), "the checkpoint"
        )

    def saver(self, settings: CheckpointSettings, say: Callable[[str], None]) -> Saver:
        medium = OneFile(self._folder, settings) if self._world.first else None
        return Saver(self._folder, settings, say, Gathered(medium))


@dataclass(frozen=True)
class _Opened:
    """What rank 0 read of a checkpoint before any tensor, for all."""

    one: Checkpoint
    manifest: Mapping[str, Any]
    skeleton: Any
    table: pieces.Table


class ByAll:
    """Checkpoints in a folder that all ranks see: each writes and reads its own part.

    Args: parts, ema: the optimisers by name and the average, whose state is saved with the network
          timeout_s: how long one rank waits for another
    """

    note: str | None = None

    def __init__(
        self,
        world: World,
        folder: Path,
        network: torch.nn.Module,
        parts: Mapping[str, torch.optim.Optimizer],
        ema: EMA | None,
        timeout_s: float,
    ) -> None:
        self._world, self._folder, self._timeout_s = world, folder, timeout_s
        self._network, self._parts, self._ema = network, parts, ema

    def load(self, choose: Choice) -> Restored:
        world, warnings = self._world, list[str]()
        while True:
            opened = world.first_does(partial(self._open, choose), "the checkpoint")
            if opened is None:
                return None, {}, warnings
            damages = [opened] if isinstance(opened, str) else self._check(opened)
            if isinstance(opened, _Opened) and not damages:
                return opened.one, self._read(opened), warnings
            warnings.append(checkpoint.passed_over("; ".join(damages)))
            if isinstance(opened, _Opened) and world.first:
                checkpoint.set_aside(opened.one.path)

    def saver(self, settings: CheckpointSettings, say: Callable[[str], None]) -> Saver:
        names = (name for name, _ in self._network.named_parameters(remove_duplicate=False))
        medium: Medium = OneFileEach(
            self._world, self._folder, settings, frozenset(names), self._timeout_s
        )
        return Saver(self._folder, settings, say, medium)

    def _open(self, choose: Choice) -> _Opened | str | None:
        """On rank 0: the checkpoint chosen, or what is wrong with it."""
        one = choose(self._folder)
        if one is None:
            return None
        try:
            manifest = checkpoint.read_manifest(one.path)
            texts = [name for name in manifest["files"] if name.endswith(".json")]
            checkpoint.check(one.path, manifest, texts)
            if pieces.TABLE not in texts:  # its header alone says what is in it
                checkpoint.check(one.path, manifest, [pieces.WHOLE])
            table = checkpoint.read_table(one.path, manifest)
        except checkpoint.DamagedCheckpoint as damage:
            checkpoint.set_aside(one.path)
            return str(damage)
        skeleton = json.loads((one.path / checkpoint.STATE).read_text())
        return _Opened(one, manifest, skeleton, table)

    def _check(self, opened: _Opened) -> list[str]:
        """What any rank finds wrong; each reads through its share of the files."""
        names = [name for name in opened.manifest["files"] if name.endswith(".safetensors")]
        damage = None
        try:
            checkpoint.check(
                opened.one.path, opened.manifest, names[self._world.rank :: self._world.size]
            )
        except checkpoint.DamagedCheckpoint as found:
            damage = str(found)
        every = self._world.objects(damage, "the check of the checkpoint")
        return [one for one in every if one is not None]

    def _read(self, opened: _Opened) -> Mapping[str, Any]:
        """The state; of sharded tensors this rank's pieces, on their device, and nothing else."""
        state = formats.migrate(with_slots(opened.skeleton), opened.manifest["version"])
        cut = self._sharded()
        targets = {}
        for name, place in slots(state):
            stored, own = opened.table[name], cut.get(_without_moment(place))
            if own is None or tuple(own.shape) != stored.shape:
                targets[name] = stored.empty()
            else:
                with torch.no_grad():
                    targets[name] = torch.empty_like(own, dtype=stored.dtype)
        pieces.read(opened.one.path, opened.table, targets)
        whole: Mapping[str, Any] = filled(state, targets)
        return whole

    def _sharded(self) -> dict[Place, torch.Tensor]:
        """The sharded tensors of this rank by their place; what an optimiser keeps of a parameter
        is cut as the parameter is."""
        tensors: dict[Place, torch.Tensor] = {
            ("model", name): tensor for name, tensor in self._network.state_dict().items()
        }
        if self._ema is not None:
            tensors |= {("ema", name): tensor for name, tensor in self._ema.state_dict().items()}
        for part, optimizer in self._parts.items():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            tensors |= {
                ("optimizer", part, "state", number): parameter
                for number, parameter in enumerate(parameters)
            }
        return {place: tensor for place, tensor in tensors.items() if sharding.is_piece(tensor)}


def _without_moment(place: Place) -> Place:
    """The place of the parameter that an optimiser's tensor belongs to; any other as it is."""
    return place[:-1] if place[0] == "optimizer" else place


def who_cannot_write(world: World, folder: Path) -> list[int]:
    """The ranks that do not see or cannot write the folder in which rank 0 saves.

    Raises: OSError: on rank 0, if it cannot itself
    """
    probe = folder / f".writing-probe-{uuid.uuid4().hex}"
    what = "the look at the run folder"
    if world.first:
        probe.mkdir(parents=True)
    name = world.from_first(probe.name, what)
    with contextlib.suppress(OSError):
        (folder / name / str(world.rank)).touch()
    world.barrier(what)
    unseen: list[int] = []
    if world.first:
        unseen = [rank for rank in range(world.size) if not (probe / str(rank)).exists()]
        shutil.rmtree(probe, ignore_errors=True)
    return world.from_first(unseen, what)
