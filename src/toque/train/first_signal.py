"""signal.json: what reached the end of the network before the first step, and what came back.

Looked at once, when a run begins, and kept with it, so that a run that was continued still has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from toque import augment, durable, random
from toque.data import Source
from toque.models.signal import Signal, Watched
from toque.models.signal import signal as look
from toque.random import Key
from toque.train.run import Run
from toque.train.run_folder.folder import SIGNAL

# Enough for the similarity of different images; a fraction of one step's work.
_IMAGES, _FEWEST = 16, 8


def write(
    folder: Path,
    run: Run,
    source: Source,
    pipeline: augment.Compose | None,
    network: nn.Module,
    device: torch.device,
    warn: Callable[[str], None],
    at_a_time: int | None = None,
) -> None:
    """Look at the signal in a copy of the network with the run's first images, and keep it.

    With no more of them than go through the model `at_a_time`, so that it fits where a step does. A
    model that cannot be looked at (an output that is no tensor, say) is trained all the same.
    """
    if (folder / SIGNAL).exists():
        return
    size = len(source)
    few = min(_IMAGES, max(_FEWEST, at_a_time or _IMAGES), size)
    indices = random.permutation(run.seed, 0, size, 0, few)
    images = [source.read(int(index)) for index in indices]
    batch = pipeline(images, key=Key(run.seed, 0, indices)) if pipeline else torch.stack(images)
    try:
        seen = look(network, batch.to(device))
    except Exception as error:
        warn(f"no signal report: the model could not be looked at ({error})")
        return
    durable.write(folder / SIGNAL, json.dumps(asdict(seen)) + "\n")


def read(folder: Path) -> Signal | None:
    """The signal of a run folder; None where there is none that can be read."""
    try:
        tree = json.loads((folder / SIGNAL).read_text("utf-8"))
        layers = tuple(Watched(**layer) for layer in tree["layers"])
        return Signal(layers, tuple(tree["faults"]), tuple(tree["remarks"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
