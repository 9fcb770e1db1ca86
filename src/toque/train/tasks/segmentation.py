"""A class for each pixel.

Shape letters: B images, K classes, h w size of the outputs, H W size of the masks.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from toque import checks, losses
from toque.augment import Compose
from toque.data import Source, Splits
from toque.data.targets import IGNORE_INDEX
from toque.models.answers import Softmax
from toque.train.metrics import Doubt
from toque.train.metrics.doubts import STANDS_OUT, outlyingness
from toque.train.metrics.intervals import Statistic
from toque.train.metrics.resampled import of_masks
from toque.train.metrics.shown import Metric, Table, percent
from toque.train.optimisation.optimise import SMALL_IMAGE_PX
from toque.train.tasks.pictures import coloured, errors, seen
from toque.train.tasks.task import Evaluation, Loss, Tally, Task

if TYPE_CHECKING:
    from toque.train.report import Picture

_WORST = 24  # images whose answers are kept for the report
_COMPARED = 8  # of them, beside their masks where there are more than two classes
_IGNORING = ("cross_entropy", "focal", "dice", "generalised_dice", "tversky", "lovasz")


class Segmentation(Task):
    """Cross-entropy of each pixel, those marked 255 left out; the mean IoU decides.

    Losses may be joined by name: "cross_entropy+dice" is their sum. Logits smaller than the masks
    are enlarged, as `upsample_cross_entropy` does it.
    """

    name = "segmentation"
    metrics = (
        Metric("mean_iou", "mean IoU"),
        Metric("pixel_accuracy", "pixel accuracy"),
    )
    loss_name = "cross_entropy"
    evaluation_preset = "whole"
    doubted = "whose mask agrees with the answer far less than is usual"
    doubted_learnt = (
        "whose mask agrees with the answer far less than is usual of validation images, although "
        "the model learnt from it"
    )
    # Every pixel is a target, and data sets of masks are small: more steps, not larger ones.
    batch_size = 16

    def model_name(self, image_size: int) -> str:
        return "unet_small" if image_size <= 2 * SMALL_IMAGE_PX else "unet"

    def image_size(self, short_px: int) -> int:
        """A multiple of 32, which every U-Net of the catalogue takes."""
        return max(32, min(256, round(short_px / 32) * 32))

    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(2, self.num_outputs, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)

    def loss(self, name: str, smoothing: float, arguments: Mapping[str, Any] | None = None) -> Loss:
        return PixelLoss(name.split("+"), smoothing, self.num_outputs, arguments)

    def answer(self) -> nn.Module:
        return Softmax()

    def tally(self) -> Tally:
        return _Tally(self.num_outputs)

    def labelled(
        self, source: Source, index: int, pipeline: Compose | None
    ) -> npt.NDArray[np.uint8]:
        image = seen(source, index, pipeline)
        return coloured(image, image.mask, self.num_outputs)

    @classmethod
    def evaluation_of(
        cls, kept: Mapping[str, npt.NDArray[Any]], loss: float, metrics: Mapping[str, float]
    ) -> MaskEvaluation:
        worst = zip(
            kept["worst_indices"].tolist(), kept["worst_ious"].tolist(), kept["worst_masks"],
            strict=True,
        )  # fmt: skip
        return MaskEvaluation(
            loss, metrics, cls.metrics, kept["indices"], kept["pixels"], kept["ious"],
            kept["overlaps"], [Worst(*one) for one in worst],
        )  # fmt: skip


class PixelLoss:
    """The sum of losses over the pixels that are not marked 255, logits enlarged where need be.

    Shape: outputs [B, K, h, w], targets [B, H, W] -> []
    Args:  names: of toque.losses, at least one
           smoothing: label smoothing of the cross-entropy among them
           num_classes: K
           arguments: each goes to the losses that have it
    """

    def __init__(
        self,
        names: Sequence[str],
        smoothing: float,
        num_classes: int,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._num_classes = num_classes
        own = [_settings(name.strip(), arguments or {}) for name in names]
        self._parts = [
            _part(name.strip(), smoothing, settings)
            for name, settings in zip(names, own, strict=True)
        ]
        self._weights = next((one["class_weights"] for one in own if "class_weights" in one), None)

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        check_maps(outputs, targets, self._num_classes)
        numbers = targets.long()
        values = [part(outputs, numbers) for part in self._parts]
        return values[0] if len(values) == 1 else torch.stack(values).sum()

    def num_targets(self, targets: torch.Tensor) -> torch.Tensor:
        """How many pixels count, by their class weights: what the mean over a part weighs."""
        counted = targets != IGNORE_INDEX
        if self._weights is None:
            return counted.sum()
        weights: torch.Tensor = self._weights[targets.clamp(0, len(self._weights) - 1).long()]
        return (weights * counted).sum()


def _settings(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments among these that a loss has, and which pixels it leaves out."""
    known = losses.catalog.arguments(name)
    own = {key: value for key, value in arguments.items() if known is None or key in known}
    return own | ({"ignore_index": IGNORE_INDEX} if name in _IGNORING else {})


def _part(name: str, smoothing: float, settings: Mapping[str, Any]) -> Loss:
    if name != "cross_entropy":
        usual = losses.create(name, settings)
        return lambda outputs, targets: usual(enlarged(outputs, targets), targets)
    usual = losses.create(name, settings, label_smoothing=smoothing)
    plain = not smoothing and settings.keys() == {"ignore_index"}
    banded = losses.create("upsample_cross_entropy", {"ignore_index": IGNORE_INDEX})

    def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if outputs.shape[2:] == targets.shape[1:] or not plain:
            value: torch.Tensor = usual(enlarged(outputs, targets), targets)
        else:
            value = banded(outputs, targets)
        return value

    return cross_entropy


def enlarged(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Logits [B, K, h, w] at the size of the masks [B, H, W]."""
    if outputs.shape[2:] == targets.shape[1:]:
        return outputs
    return F.interpolate(outputs, size=targets.shape[1:], mode="bilinear", align_corners=False)


def check_maps(outputs: torch.Tensor, targets: torch.Tensor, num_classes: int) -> None:
    """Raise ValueError unless a model gives a map of logits for each class."""
    if outputs.ndim != 4 or outputs.shape[1] != num_classes or len(outputs) != len(targets):
        raise checks.invalid(
            "fit", "the outputs of the model", f"maps [B, {num_classes}, h, w] for segmentation",
            list(outputs.shape), "Choose a model for it, such as unet, or toque/fpn+timm/NAME.",
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Worst:
    """An image that was answered badly: its IoU, and the class of each pixel, uint8 [H, W]."""

    index: int
    iou: float
    mask: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class MaskEvaluation(Evaluation):
    """What a model answers on the pixels of N images of K classes, at the size the model sees.

    pixels: [K, K] int64, pixels by true class (rows) and answer (columns), 255 left out
    ious:   [N] float32, of each image by itself: the mean over the classes it has or was given
    overlaps: [N, 3, K] int64, for each image and class the pixels that have it and were given it,
            that have it, that were given it
    worst:  the images of lowest IoU, the lowest first
    """

    pixels: npt.NDArray[np.int64]
    ious: npt.NDArray[np.float32]
    overlaps: npt.NDArray[np.int64]
    worst: Sequence[Worst]

    def statistic(self) -> Statistic:
        return of_masks(self.overlaps[np.argsort(self.indices)])

    def kept(self) -> dict[str, npt.NDArray[Any]]:
        masks = [one.mask for one in self.worst]
        return {
            "indices": self.indices,
            "pixels": self.pixels,
            "ious": self.ious,
            "overlaps": self.overlaps,
            "worst_indices": np.array([one.index for one in self.worst], np.int64),
            "worst_ious": np.array([one.iou for one in self.worst], np.float64),
            "worst_masks": np.stack(masks) if masks else np.empty((0, 1, 1), np.uint8),
        }

    def rows(self) -> Sequence[npt.NDArray[Any]]:
        return self.ious, self.overlaps

    def per_class(self) -> list[tuple[int, float]]:
        """For each class: how many pixels have it, and its IoU."""
        return list(zip(self.pixels.sum(1).tolist(), class_ious(self.pixels).tolist(), strict=True))

    def worst_pictures(self, splits: Splits, pipeline: Compose | None) -> list[Picture]:
        from toque.train.report import Picture

        num_classes, shown = len(splits.classes), []
        for number, one in enumerate(self.worst):
            image = seen(splits.val, one.index, pipeline)
            says = f"IoU {percent(one.iou)}"
            canvases = {says: errors(image, one.mask)}
            if num_classes > 2 and number < _COMPARED:
                canvases = {
                    "label": coloured(image, image.mask, num_classes),
                    "answer": coloured(image, one.mask, num_classes),
                    **canvases,
                }
            name = splits.val.name(one.index)
            shown += [Picture(image=c, name=name, caption=text) for text, c in canvases.items()]
        return shown

    def doubts(self, names: Sequence[str], validation: Evaluation | None = None) -> list[Doubt]:
        """Images whose IoU lies so far below that of validation images that it stands out."""
        asked = validation if isinstance(validation, MaskEvaluation) else self
        lead = outlyingness(-self.ious, -asked.ious)
        usual = float(np.nanmedian(asked.ious)) if (~np.isnan(asked.ious)).any() else np.nan
        found = [
            Doubt(
                int(self.indices[row]), "its mask",
                f"IoU {percent(float(self.ious[row]))}, usual are {percent(usual)}",
                float(lead[row]),
            )
            for row in np.flatnonzero(lead > STANDS_OUT).tolist()
        ]  # fmt: skip
        return sorted(found, key=lambda one: -one.lead)

    def table(self, names: Sequence[str]) -> Table:
        total = max(1, int(self.pixels.sum()))
        return Table(
            ("class", "share of pixels", "IoU"),
            [
                (name, percent(count / total), percent(iou))
                for name, (count, iou) in zip(names, self.per_class(), strict=True)
            ],
        )


class _Tally(Tally):
    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._pixels = np.zeros((num_classes, num_classes), np.int64)
        self._indices: list[npt.NDArray[np.int64]] = []
        self._ious: list[npt.NDArray[np.float64]] = []
        self._overlaps: list[npt.NDArray[np.int64]] = []
        self._worst: list[tuple[float, int, npt.NDArray[np.uint8]]] = []

    def add(
        self, outputs: torch.Tensor, targets: torch.Tensor, indices: npt.NDArray[np.int64]
    ) -> None:
        check_maps(outputs, targets, self._num_classes)
        answers = enlarged(outputs.float(), targets).argmax(1)
        counts = confusions(answers, targets, self._num_classes)
        self._pixels += counts.sum(0)
        ious = np.array([_mean(class_ious(one), none=np.nan) for one in counts])
        self._indices.append(indices)
        self._ious.append(ious)
        each = (counts.diagonal(axis1=1, axis2=2), counts.sum(2), counts.sum(1))
        self._overlaps.append(np.stack(each, axis=1))
        for number, (index, iou) in enumerate(zip(indices.tolist(), ious.tolist(), strict=True)):
            # The lowest stay: the heap gives up its largest, which the sign turns into its least.
            if np.isnan(iou):  # every pixel is marked 255
                continue
            self._remember((-iou, -index, answers[number].to(torch.uint8).cpu().numpy()))

    def _remember(self, one: tuple[float, int, npt.NDArray[np.uint8]]) -> None:
        if len(self._worst) < _WORST:
            heapq.heappush(self._worst, one)
        elif one[:2] > self._worst[0][:2]:
            heapq.heapreplace(self._worst, one)

    def counted(self) -> tuple[Any, ...]:
        return self._pixels, self._indices, self._ious, self._overlaps, self._worst

    def put(self, counted: Sequence[tuple[Any, ...]]) -> None:
        pixels, indices, ious, overlaps, worst = zip(*counted, strict=True)
        self._pixels = np.sum(pixels, axis=0)
        self._indices, self._ious, self._overlaps = (
            list(chain.from_iterable(part)) for part in (indices, ious, overlaps)
        )
        self._worst = []
        for one in list(chain.from_iterable(worst)):
            self._remember(one)

    def evaluation(self, loss: float) -> MaskEvaluation:
        right, total = int(np.trace(self._pixels)), int(self._pixels.sum())
        worst = sorted(self._worst, key=lambda one: (-one[0], -one[1]))
        return MaskEvaluation(
            loss=loss,
            metrics={
                "mean_iou": _mean(class_ious(self._pixels)),
                "pixel_accuracy": right / max(1, total),
            },
            shown=Segmentation.metrics,
            indices=np.concatenate(self._indices),
            pixels=self._pixels,
            ious=np.concatenate(self._ious).astype(np.float32),
            overlaps=np.concatenate(self._overlaps),
            worst=[Worst(-index, -iou, mask) for iou, index, mask in worst],
        )


def confusions(
    answers: torch.Tensor, targets: torch.Tensor, num_classes: int
) -> npt.NDArray[np.int64]:
    """Pixels of each image by true class (rows) and answer (columns), 255 left out.

    Shape: answers, targets [B, H, W] -> [B, K, K]
    """
    size = num_classes**2
    which = torch.arange(len(targets), device=targets.device)[:, None, None].expand(targets.shape)
    numbers = targets.long()
    kept = numbers != IGNORE_INDEX
    cells = (which * size + numbers * num_classes + answers)[kept]
    counts = torch.bincount(cells, minlength=len(targets) * size)
    return counts.cpu().numpy().reshape(len(targets), num_classes, num_classes)


def class_ious(pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Intersection over union of each class; not a number for one that is nowhere.

    Shape: pixels [K, K], true classes in rows -> [K]
    """
    both = np.diag(pixels).astype(np.float64)
    either = pixels.sum(0) + pixels.sum(1) - both
    with np.errstate(invalid="ignore"):
        return np.asarray(both / either)


def _mean(values: npt.NDArray[np.float64], none: float = 0.0) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else none
