"""What a classifier said of each validation image, small enough to keep with the run.

Shape letters: N images, K classes, M of the most probable classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from toque import checks, durable

FILE = "answers.safetensors"
_MOST = 5
_ARRAYS = ("indices", "targets", "top_classes", "top_probabilities", "target_probabilities")
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, eq=False)
class Answers:
    """The M most probable classes of N images: 60 bytes an image, whatever K is.

    num_classes:          K
    indices:              [N] int64, the images in their source; each once
    targets:              [N] int64
    top_classes:          [N, M] int32, the most probable first; M is 5, or K if that is less
    top_probabilities:    [N, M] float32
    target_probabilities: [N] float32, of the class that the label names
    """

    num_classes: int
    indices: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    top_classes: npt.NDArray[np.int32]
    top_probabilities: npt.NDArray[np.float32]
    target_probabilities: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        """The most probable class; the first of equals: [N]."""
        return self.top_classes[:, 0].astype(np.int64)

    @property
    def confidences(self) -> npt.NDArray[np.float32]:
        """The probability of the prediction: [N]."""
        return self.top_probabilities[:, 0]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether the prediction is the label: [N]."""
        return np.asarray(self.predictions == self.targets)

    @property
    def in_top(self) -> npt.NDArray[np.bool_]:
        """Whether the label is among the M most probable classes: [N]."""
        return np.asarray((self.top_classes == self.targets[:, None]).any(1))

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """Minus the log of the label's probability, in nats: [N]."""
        return -np.log(np.maximum(self.target_probabilities, _TINY).astype(np.float64))

    def confusion(self, num_classes: int) -> npt.NDArray[np.int64]:
        """Counts over the first classes: rows are the true ones, columns the predicted.

        A model may have more outputs than there are classes; an answer there counts nowhere.
        """
        known = self.predictions < num_classes
        cells = self.targets[known] * num_classes + self.predictions[known]
        counts = np.bincount(cells, minlength=num_classes**2)
        return counts.reshape(num_classes, num_classes).astype(np.int64)


def answers_of(
    indices: npt.NDArray[np.int64],
    targets: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
) -> Answers:
    """The answers among all probabilities.

    Shape:  indices [N], targets [N] in 0 .. K - 1, probabilities [N, K]
    Raises: ValueError: shapes that disagree, a target that is no class, an image given twice
    """
    n, k = probabilities.shape
    if indices.shape != (n,) or targets.shape != (n,) or n == 0:
        raise checks.invalid(
            "answers_of", "indices, targets and probabilities", "of shapes [N], [N] and [N, K]",
            [list(a.shape) for a in (indices, targets, probabilities)], "Give one row an image.",
        )  # fmt: skip
    if int(targets.min()) < 0 or int(targets.max()) >= k:
        raise checks.invalid(
            "answers_of", "targets", f"in 0 .. {k - 1}", (int(targets.min()), int(targets.max())),
            "Give the model one output for each class.",
        )  # fmt: skip
    if len(np.unique(indices)) != n:
        raise checks.invalid(
            "answers_of", "indices", "of each image once", f"{n - len(np.unique(indices))} twice",
            "Measure every image once.",
        )  # fmt: skip
    left = probabilities.astype(np.float32, copy=True)
    rows = np.arange(n)
    classes, shares = [], []
    for _ in range(min(_MOST, k)):  # a few passes cost less than sorting, and ties stay in order
        best = left.argmax(1)
        classes.append(best.astype(np.int32))
        shares.append(left[rows, best])
        left[rows, best] = -1.0
    return Answers(
        k,
        indices.astype(np.int64),
        targets.astype(np.int64),
        np.stack(classes, 1),
        np.stack(shares, 1),
        probabilities[rows, targets].astype(np.float32),
    )


def write(folder: Path, answers: Answers, data_fingerprint: str) -> None:
    """Keep the answers in a run folder, with the data they are about."""
    arrays = {name: np.ascontiguousarray(getattr(answers, name)) for name in _ARRAYS}
    about = {"num_classes": answers.num_classes, "data_fingerprint": data_fingerprint}
    durable.write(folder / FILE, to_bytes(arrays, metadata={"toque": json.dumps(about)}))


def read(folder: Path) -> tuple[Answers, str] | None:
    """The answers of a run folder and the fingerprint of their data; None if none of classes.

    Raises: ValueError: a file that is damaged, or not of this kind
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="np") as opened:
            about: dict[str, Any] = json.loads((opened.metadata() or {})["toque"])
            if "task" in about:  # of labels, numbers or masks: see run_folder/kept.py
                return None
            arrays = {name: opened.get_tensor(name) for name in _ARRAYS}
        answers = Answers(int(about["num_classes"]), **arrays)
        fingerprint = str(about["data_fingerprint"])
        n, m = answers.top_classes.shape
        if any(len(arrays[name]) != n for name in _ARRAYS) or m != min(_MOST, answers.num_classes):
            raise ValueError("arrays of different lengths")
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise checks.invalid(
            "report", str(file), "the answers of a run", f"an error ({error})",
            "Delete it and measure the run again: toque evaluate RUN.",
        ) from None  # fmt: skip
    return answers, fingerprint
