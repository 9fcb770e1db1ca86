"""The end of a run: the kept weights, and the sentences that say how it went."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from safetensors.torch import save as to_bytes
from torch import nn

from toque import durable
from toque.data import Splits
from toque.models import weights
from toque.train.distributed import sharding
from toque.train.distributed.checkpoints import Checkpoints
from toque.train.distributed.world import ALONE, World
from toque.train.logs import clock
from toque.train.logs.log import Row
from toque.train.run import Run
from toque.train.run_folder.folder import RunFolder
from toque.train.state import checkpoint
from toque.train.steps.step import Step
from toque.train.tasks import Metric, Task


def keep_weights(
    run: Run,
    out: RunFolder,
    checkpoints: Checkpoints,
    step: Step,
    splits: Splits,
    task: Task,
    warn: Callable[[str], None],
    world: World = ALONE,
) -> tuple[nn.Module, int]:
    """Write weights.safetensors from the best (or last) checkpoint.

    Returns the model holding them, and the count of images that it had seen.

    The file holds plain tensors and, as metadata, what it takes to use them: the model's name,
    classes, channels and image size. Nothing in it depends on the time or the machine, so two runs
    with the same bits give the same file.
    """
    state = _kept_state(run, out, checkpoints, warn)
    kept = step.kept(state)
    kept.eval()
    tensors = sharding.gathered(kept.state_dict(), keep=world.first)
    if world.first:
        plain = {name: weights.plain(value) for name, value in tensors.items()}
        durable.write(out.weights, to_bytes(plain, metadata=_metadata(run, splits, task)))
    return kept, state["images_seen"]


def _kept_state(
    run: Run, out: RunFolder, checkpoints: Checkpoints, warn: Callable[[str], None]
) -> Mapping[str, Any]:
    best = run.checkpoint.weights == "best"
    found, state, damages = checkpoints.load(
        checkpoint.best_or_newest if best else checkpoint.newest
    )
    for sentence in damages:
        warn(sentence)
    if found is None:
        raise OSError(f"no whole checkpoint is left in {out.checkpoints}: train again")
    return state


def _metadata(run: Run, splits: Splits, task: Task) -> dict[str, str]:
    # One entry, because safetensors writes several in another order every time.
    described = {
        "model": run.model,
        "classes": splits.classes,
        "in_channels": splits.channels,
        "image_size": run.image_size,
        **task.details(),
    }
    return {"toque": json.dumps(described, ensure_ascii=False)}


def epoch_sentence(row: Row, rows: list[Row], main: Metric) -> str:
    """ "epoch 3  loss 0.41 (train 0.52)  accuracy 91.2 % (best 91.4 %)" for a validation row."""
    text = f"epoch {row['epoch']:.4g}  loss {row['loss']:.4f}"
    train = [before for before in rows if before["split"] == "train"]
    if train:
        text += f" (train {train[-1]['loss']:.4f})"
    if main.key in row:
        values = [before[main.key] for before in rows if before["split"] == "val"]
        top = max(values) if main.higher else min(values)
        text += f"  {main.label} {main.text(row[main.key])} (best {main.text(top)})"
    text += f"  {row['time_s']:.0f} s"
    where = clock.remark(row)
    return f"{text}  {where}" if where else text


def stop_sentence(saved: bool, images_seen: int) -> str:
    """What a person who stopped a run needs to know."""
    if saved:
        return f"stopped and saved at image {images_seen}; the same command continues there"
    return "stopped; this state could not be saved, the same command continues from the one before"
