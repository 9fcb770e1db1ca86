"""answers.safetensors of a run on labels, numbers or masks: what the kept weights answered.

A run on classes keeps less, see toque.train.metrics.answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from toque import checks, durable
from toque.train import tasks
from toque.train.metrics.answers import FILE
from toque.train.tasks import Evaluation

_MOST_BYTES = 2**28


def write(path: Path, task: str, evaluation: Evaluation, data_fingerprint: str) -> bool:
    """Keep what an evaluation holds in a run folder; False where that is nothing, or too much."""
    arrays = {name: np.ascontiguousarray(one) for name, one in evaluation.kept().items()}
    if not arrays or sum(one.nbytes for one in arrays.values()) > _MOST_BYTES:
        (path / FILE).unlink(missing_ok=True)  # those of an older end would tell another story
        return False
    about = {"task": task, "data_fingerprint": data_fingerprint}
    durable.write(path / FILE, to_bytes(arrays, metadata={"toque": json.dumps(about)}))
    return True


def read(path: Path, metrics: Mapping[str, float], loss: float) -> tuple[Evaluation, str] | None:
    """What a run folder keeps, and the fingerprint of its data; None where it keeps nothing, or
    classes.

    Args:   metrics, loss: of result.json
    Raises: ValueError: a damaged file
    """
    file = path / FILE
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="np") as opened:
            about: dict[str, Any] = json.loads((opened.metadata() or {})["toque"])
            task = about.get("task")
            if task is None:
                return None
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        found = tasks.kind(task).evaluation_of(arrays, loss, metrics)
        fingerprint = str(about["data_fingerprint"])
        if found is None or len({len(found), *map(len, found.rows())}) != 1:
            raise ValueError("arrays of different lengths")
    except (SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
        raise checks.invalid(
            "report", str(file), "the answers of a run", f"an error ({error})",
            "Delete it, and run the training command again: it is written anew.",
        ) from None  # fmt: skip
    return found, fingerprint
