"""Parity of masks: how those of a file differ from the model's.

Shape letters: B images of one batch, K classes, H W height and width of the images, h w of what the
network answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from toque.deploy.parity.comparing import Arrays, asked, largest
from toque.deploy.parity.tolerance import EXACT, Tolerance
from toque.train.tasks import segmentation


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
        changed = f"{self.changed} pixels changed" if self.changed else None
        return self.tolerance.refuses(
            self.probability, changed, "mean IoU", self.mean_iou, self.mean_iou_before
        )

    def __str__(self) -> str:
        text = (
            f"{asked(self.images, self.hard_cases)}: probabilities within {self.probability:.1e}, "
            f"{self.changed} of {self.pixels:,} pixels changed"
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
        self._confusions: np.ndarray | None = None  # [2, K, K]: of the file, of the model

    def add(self, ours: Arrays, theirs: Arrays, targets: Arrays | None) -> None:
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
            found = np.stack([
                segmentation.confusions(torch.from_numpy(one).long(), true, logits.shape[1]).sum(0)
                for one in (mask, mask_before)
            ])  # fmt: skip
            self._confusions = found + (0 if self._confusions is None else self._confusions)

    def parity(self, images: int, hard_cases: int) -> MasksParity:
        iou, iou_before = (
            None if counts is None else float(np.nanmean(segmentation.class_ious(counts)))
            for counts in (self._confusions if self._confusions is not None else (None, None))
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
