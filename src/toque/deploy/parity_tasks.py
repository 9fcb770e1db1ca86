"""Parity of numbers and masks: how a file's answers differ from the model's, in the task's terms.

Shape letters: B images of one batch, K classes, D numbers, H W height and width of the images, h w
of what the network answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from toque.deploy.outputs import Numbers
from toque.deploy.tolerance import EXACT, Tolerance, largest
from toque.train.tasks import segmentation


@dataclass(frozen=True)
class NumbersParity:
    """How a file's numbers differ from the model's.

    images, hard_cases: as of `Parity`
    number:    largest difference of one number, in standard deviations of the training numbers,
               relative to the number where that is larger than one
    changed:   images with a number beyond the tolerance
    mae, mae_before: mean absolute error on the validation images, in their units, of the file and
               of the model
    tolerance: what is accepted; where it is of the score, the error may grow by that share
    """

    images: int
    hard_cases: int
    number: float
    changed: int
    mae: float | None
    mae_before: float | None
    tolerance: Tolerance = EXACT

    @property
    def problem(self) -> str | None:
        """Why the file must not be kept, or None."""
        most = self.tolerance.probability
        if self.tolerance.accuracy is None:
            if self.number <= most:
                return None
            return f"a number differs by {self.number:.2g} standard deviations, more than {most:g}"
        grown = (self.mae or 0.0) / max(self.mae_before or 0.0, 1e-12) - 1
        if not grown <= self.tolerance.accuracy:
            return (
                f"a mean absolute error {100 * grown:.2f} % larger, more than "
                f"{100 * self.tolerance.accuracy:g} %"
            )
        return None

    def __str__(self) -> str:
        text = (
            f"{self.images} validation images and {self.hard_cases} hard cases: numbers within "
            f"{self.number:.1e} standard deviations, {self.changed} changed"
        )
        if self.mae is not None and self.mae_before is not None:
            text += f", MAE {self.mae_before:.5g} -> {self.mae:.5g}"
        return text

    @property
    def score(self) -> str:
        """How good the file is, in words."""
        return "unknown" if self.mae is None else f"MAE {self.mae:.5g}"


class ComparedNumbers:
    """Counts differences of numbers, batch by batch."""

    def __init__(self, outputs: Numbers, tolerance: Tolerance) -> None:
        self._mean, self._std = (part.numpy() for part in (outputs.mean, outputs.std))
        self._tolerance = tolerance
        self._number, self._changed = 0.0, 0
        self._error, self._error_before, self._count = 0.0, 0.0, 0

    def add(
        self,
        ours: Sequence[np.ndarray],
        theirs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray] | None,
    ) -> None:
        """Compare numbers [B, D]; of validation images also with what is right."""
        scale = np.maximum(np.abs(theirs[0] - self._mean) / self._std, 1.0) * self._std
        away = np.abs(ours[0] - theirs[0]) / scale
        self._number = largest(self._number, away)
        self._changed += int((~(away <= self._tolerance.probability)).any(1).sum())
        if targets is not None:
            true = np.stack(list(targets))
            self._error += float(np.abs(ours[0] - true).mean(1).sum())
            self._error_before += float(np.abs(theirs[0] - true).mean(1).sum())
            self._count += len(true)

    def parity(self, images: int, hard_cases: int) -> NumbersParity:
        count = self._count
        return NumbersParity(
            images, hard_cases, self._number, self._changed,
            self._error / count if count else None, self._error_before / count if count else None,
            self._tolerance,
        )  # fmt: skip


@dataclass(frozen=True)
class MasksParity:
    """How a file's masks differ from the model's.

    images, hard_cases: as of `Parity`
    pixels:      compared, at the images' own sizes
    changed:     of them, whose class is another one, ties within tolerance left out
    probability: largest difference of one probability, where the network answers
    mean_iou, mean_iou_before: on the validation images at their own sizes, of the file and of the
                 model
    tolerance:   what is accepted
    """

    images: int
    hard_cases: int
    pixels: int
    changed: int
    probability: float
    mean_iou: float | None
    mean_iou_before: float | None
    tolerance: Tolerance = EXACT

    @property
    def problem(self) -> str | None:
        """Why the file must not be kept, or None."""
        if self.tolerance.accuracy is None:
            most = self.tolerance.probability
            if not self.probability <= most:
                return f"a probability differs by {self.probability:.2g}, more than {most:g}"
            return f"{self.changed} pixels changed" if self.changed else None
        lost = (self.mean_iou_before or 0.0) - (self.mean_iou or 0.0)
        if not lost <= self.tolerance.accuracy:
            return (
                f"{100 * lost:.2f} points of mean IoU lost, more than "
                f"{100 * self.tolerance.accuracy:g}"
            )
        return None

    def __str__(self) -> str:
        text = (
            f"{self.images} validation images and {self.hard_cases} hard cases: probabilities "
            f"within {self.probability:.1e}, {self.changed} of {self.pixels:,} pixels changed"
        )
        if self.mean_iou is not None and self.mean_iou_before is not None:
            text += f", mean IoU {100 * self.mean_iou_before:.2f} -> {100 * self.mean_iou:.2f} %"
        return text

    @property
    def score(self) -> str:
        """How good the file is, in words."""
        return "unknown" if self.mean_iou is None else f"mean IoU {100 * self.mean_iou:.2f} %"


class ComparedMasks:
    """Counts differences of masks, batch by batch."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self._probability, self._pixels, self._changed = 0.0, 0, 0
        self._confusion: np.ndarray | None = None
        self._confusion_before: np.ndarray | None = None

    def add(
        self,
        ours: Sequence[np.ndarray],
        theirs: Sequence[np.ndarray],
        targets: Sequence[np.ndarray] | None,
    ) -> None:
        """Compare masks [B, H, W] and logits [B, K, h, w]; of validation images also with what is
        right."""
        (mask, logits), (mask_before, logits_before) = map(list, (ours, theirs))
        shares, before = (torch.from_numpy(part).softmax(1) for part in (logits, logits_before))
        self._probability = largest(self._probability, (shares - before).abs().numpy())
        self._pixels += mask.size
        for number in np.flatnonzero((mask != mask_before).any((1, 2))).tolist():
            lead = _lead(logits_before[number], mask[number], mask_before[number])
            self._changed += int((~(lead <= self._tolerance.tie)).sum())
        if targets is not None:
            true = torch.from_numpy(np.stack(list(targets)))
            num_classes = logits.shape[1]
            found, found_before = (
                segmentation.confusions(torch.from_numpy(one).long(), true, num_classes).sum(0)
                for one in (mask, mask_before)
            )
            self._confusion = found + (0 if self._confusion is None else self._confusion)
            self._confusion_before = found_before + (
                0 if self._confusion_before is None else self._confusion_before
            )

    def parity(self, images: int, hard_cases: int) -> MasksParity:
        iou, iou_before = (
            None if counts is None else float(np.nanmean(segmentation.class_ious(counts)))
            for counts in (self._confusion, self._confusion_before)
        )
        return MasksParity(
            images, hard_cases, self._pixels, self._changed, self._probability, iou, iou_before,
            self._tolerance,
        )  # fmt: skip


def _lead(logits: np.ndarray, mask: np.ndarray, mask_before: np.ndarray) -> np.ndarray:
    """By how much the model prefers its own class to the file's, at the pixels where they differ.

    Shape: logits [K, h, w], masks [H, W] -> [number of pixels that differ]
    """
    rows, columns = np.nonzero(mask != mask_before)
    large = F.interpolate(
        torch.from_numpy(logits[None]), size=mask.shape, mode="bilinear", align_corners=False
    )
    shares = large[0, :, torch.from_numpy(rows), torch.from_numpy(columns)].softmax(0).numpy()
    place = np.arange(len(rows))
    own, other = mask_before[rows, columns], mask[rows, columns]
    return np.asarray(shares[own, place] - shares[other, place])
