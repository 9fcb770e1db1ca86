"""A model that answers: the run folder or exported file it came from no longer matters.

Shape letters: N images, B images of one batch, K classes, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toque import augment, checks, data
from toque.deploy.answers import Answer
from toque.deploy.details import CLASSIFICATION, MULTILABEL
from toque.deploy.outputs import Outputs, Raw, Shares
from toque.deploy.predictions import Predictions
from toque.random import Key
from toque.threads import threads_beside

Pixels = npt.NDArray[np.uint8]
"""One image, uint8 [H, W, C]."""

Ask = Callable[[Sequence[Pixels]], Raw]
"""Images of any sizes -> what the task's Outputs read, float32 with the batch first, such as
probabilities [B, K]; called from one thread at a time."""


Details = dict[str, Any]
"""What a run or a file says about itself: plain values, as JSON has them."""


@dataclass(frozen=True, eq=False)
class Network:
    """A PyTorch network with the pipeline that it was validated with, which draws nothing.

    outputs:     how its outputs are read
    temperature: what its logits are divided by
    """

    module: nn.Module
    pipeline: augment.Compose
    device: str = "cpu"
    outputs: Outputs = field(default_factory=Shares)
    temperature: float = 1.0

    def logits(self, images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Its outputs, float32 on the CPU, on images uint8 [C, H, W]."""
        key = Key(0, 0, np.arange(len(images)))  # the validation pipeline draws nothing from it
        with torch.inference_mode():
            outputs = self.module(self.pipeline(images, key=key).to(self.device))
            found: torch.Tensor = outputs.float().cpu() / self.temperature
        return found


@dataclass(frozen=True, eq=False)
class Predictor:
    """A loaded model: call it with images.

    Shape:   image files, their bytes, or uint8 arrays [H, W, C] or [H, W] -> Predictions of [N, K]
             names: what to call the images; their paths, or numbers, if unset
    Args:    source: what it was loaded from
             labels: the names of the classes
             channels: C, 1 (gray) or 3 (RGB); files are converted, arrays must fit
             ask: the model itself, from pixels to probabilities
             details: what the source says about itself
             network: the network in PyTorch, where the source has it
             size: height and width of the only images it takes; None is any
             outputs: how what the model says is read
    Raises:  FileNotFoundError, ValueError: a file that is not there or no image
             TypeError, ValueError: an array of another dtype, rank or number of channels
    Example: >>> toque.deploy.load("model.onnx")(["garden.jpg"])[0].label
    """

    source: str
    labels: tuple[str, ...]
    channels: int
    ask: Ask
    details: Details
    network: Network | None = None
    size: tuple[int, int] | None = None
    outputs: Outputs = field(default_factory=Shares)

    @property
    def task(self) -> str:
        """classification, multilabel, regression or segmentation."""
        return self.outputs.task

    def __call__(
        self,
        images: Sequence[str | Path | bytes | Pixels],
        *,
        names: Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> Predictions:
        if self.task not in (CLASSIFICATION, MULTILABEL):
            raise checks.invalid(
                "Predictor", "the model", "of classes or labels, to be called", self.task,
                "Use .answers(images), which answers for every task.",
            )  # fmt: skip
        shares: list[Raw] = [np.empty((0, len(self.labels)), np.float32)]
        shares += [raw for _, raw in self._asked(images, batch_size)]
        return self.predictions(tuple(names or _named(images)), np.concatenate(shares))

    def answers(
        self,
        images: Sequence[str | Path | bytes | Pixels],
        *,
        names: Sequence[str] | None = None,
        batch_size: int = 16,
    ) -> Iterator[Answer]:
        """What it says of each image, whatever its task: a Prediction of classes or labels, a
        NumbersAnswer, or a MaskAnswer at the image's own size. Batch by batch, as they are taken.

        Example: >>> next(toque.deploy.load("areas.onnx").answers(["cell.png"])).numbers["area"]
        """
        given = iter(names or _named(images))
        for pixels, raw in self._asked(images, batch_size):
            for image, one in zip(pixels, raw, strict=True):
                height, width = image.shape[:2]
                yield self.outputs.answer(next(given), self.labels, one, (height, width))

    def _asked(
        self, images: Sequence[str | Path | bytes | Pixels], batch_size: int
    ) -> Iterator[tuple[list[Pixels], Raw]]:
        # Decoding leaves Python's lock, so threads read files at once.
        with threads_beside(torch.get_num_threads(), "decode") as threads:
            for start in range(0, len(images), batch_size):
                pixels = list(threads.map(self.pixels, images[start : start + batch_size]))
                yield pixels, self.ask(pixels)

    def predictions(
        self, names: tuple[str, ...], probabilities: npt.NDArray[np.float32]
    ) -> Predictions:
        """What probabilities [N, K] of this model say."""
        least = self.outputs.thresholds if isinstance(self.outputs, Shares) else ()
        return Predictions(names, self.labels, probabilities, self.task == MULTILABEL, least)

    def pixels(self, image: str | Path | bytes | Pixels) -> Pixels:
        """An image as the model takes it, uint8 [H, W, C]; files are decoded as in training."""
        if not isinstance(image, np.ndarray):
            decoded = data.decode(image, channels=self.channels)
            pixels: Pixels = decoded.permute(1, 2, 0).numpy()
            self._check_size(pixels)
            return pixels
        given = image[:, :, None] if image.ndim == 2 else image
        if given.dtype != np.uint8:
            raise checks.invalid_type(
                "Predictor", "an array", "uint8 in 0 .. 255", given.dtype,
                "Convert it with (array * 255).round().astype('uint8') if it lies in 0 .. 1.",
            )  # fmt: skip
        if given.ndim != 3 or given.shape[2] != self.channels or 0 in given.shape:
            raise checks.invalid(
                "Predictor", "an array", f"of shape [H, W, {self.channels}]", list(image.shape),
                "Give one image, with its channels last.",
            )  # fmt: skip
        self._check_size(given)
        # PyTorch takes no memory that may not be written, such as an array over a Pillow image.
        return given if given.flags.writeable else given.copy()

    def _check_size(self, pixels: Pixels) -> None:
        if self.size is not None and pixels.shape[:2] != self.size:
            raise checks.invalid(
                "Predictor", "an image", f"of {self.size[0]} x {self.size[1]} pixels (H x W)",
                f"{pixels.shape[0]} x {pixels.shape[1]}",
                "Resize it, or export a file for any size, without --size.",
            )  # fmt: skip


def _named(images: Sequence[str | Path | bytes | Pixels]) -> list[str]:
    return [
        str(image) if isinstance(image, (str, Path)) else f"image {number}"
        for number, image in enumerate(images)
    ]


def of_network(
    network: Network, *, source: str, labels: tuple[str, ...], channels: int, details: Details
) -> Predictor:
    """A predictor of a PyTorch network."""

    def ask(images: Sequence[Pixels]) -> Raw:
        tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
        raw: Raw = network.outputs.read(network.logits(tensors)).numpy()
        return raw

    return Predictor(source, labels, channels, ask, details, network, outputs=network.outputs)


def both_ways(predictor: Predictor) -> Predictor:
    """A predictor that answers with the mean over an image and its mirror image."""

    def ask(images: Sequence[Pixels]) -> Raw:
        mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
        return predictor.outputs.both_ways(predictor.ask(images), predictor.ask(mirrored))

    return replace(predictor, ask=ask)


def calibrated(predictor: Predictor) -> Predictor:
    """A predictor whose confidence is that of the temperature its run was calibrated with.

    No prediction changes. A file that was exported calibrated is returned as it is.

    Raises: ValueError: no temperature is known
    Source: Guo 2017, arXiv:1706.04599, section 4.2: softmax(z / T), which is p^(1/T), scaled
    """
    if predictor.details.get("calibrated"):
        return predictor
    temperature = predictor.details.get("temperature")
    if temperature is None:
        raise checks.invalid(
            "calibrated", "the model", "one whose run knows its temperature", predictor.source,
            "Runs of classification write it to result.json when they end; export again to have "
            "it in the file.",
        )  # fmt: skip

    def ask(images: Sequence[Pixels]) -> Raw:
        raised = predictor.ask(images).astype(np.float64) ** (1 / temperature)
        shares: Raw = (raised / raised.sum(1, keepdims=True)).astype(np.float32)
        return shares

    return replace(predictor, ask=ask, details={**predictor.details, "calibrated": True})
