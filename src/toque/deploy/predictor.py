"""A model that answers: the run folder or exported file it came from no longer matters.

Shape letters: N images, B images of one batch, K classes, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from toque import augment, checks, data
from toque.deploy.details import CLASSIFICATION, MULTILABEL
from toque.deploy.predictions import Predictions
from toque.random import Key

Pixels = npt.NDArray[np.uint8]
"""One image, uint8 [H, W, C]."""

Ask = Callable[[Sequence[Pixels]], npt.NDArray[np.float32]]
"""Images of any sizes -> probabilities float32 [B, K]; called from one thread at a time."""


Details = dict[str, Any]
"""What a run or a file says about itself: plain values, as JSON has them."""


@dataclass(frozen=True, eq=False)
class Network:
    """A PyTorch network with the pipeline that it was validated with, which draws nothing.

    temperature: what its logits are divided by
    """

    module: nn.Module
    pipeline: augment.Compose
    device: str = "cpu"
    task: str = CLASSIFICATION
    temperature: float = 1.0

    def answers(self, images: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities and logits, float32 [B, K] on the CPU, of images uint8 [C, H, W]."""
        key = Key(0, 0, np.arange(len(images)))  # the validation pipeline draws nothing from it
        with torch.inference_mode():
            outputs = self.module(self.pipeline(images, key=key).to(self.device))
            logits = outputs.float().cpu() / self.temperature
        return probabilities_of(logits, self.task), logits


def probabilities_of(logits: torch.Tensor, task: str) -> torch.Tensor:
    """Of each label by itself, or of the classes together: [B, K] -> [B, K]."""
    return logits.sigmoid() if task == MULTILABEL else logits.softmax(1)


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
             task: classification or multilabel
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
    task: str = CLASSIFICATION

    def __call__(
        self,
        images: Sequence[str | Path | bytes | Pixels],
        *,
        names: Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> Predictions:
        if names is None:
            names = [
                str(image) if isinstance(image, (str, Path)) else f"image {number}"
                for number, image in enumerate(images)
            ]
        shares: list[npt.NDArray[np.float32]] = [np.empty((0, len(self.labels)), np.float32)]
        # Decoding leaves Python's lock, so threads read files at once.
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            for start in range(0, len(images), batch_size):
                batch = images[start : start + batch_size]
                shares.append(self.ask(list(threads.map(self.pixels, batch))))
        return self.predictions(tuple(names), np.concatenate(shares))

    def predictions(
        self, names: tuple[str, ...], probabilities: npt.NDArray[np.float32]
    ) -> Predictions:
        """What probabilities [N, K] of this model say."""
        return Predictions(names, self.labels, probabilities, self.task == MULTILABEL)

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


def of_network(
    network: Network, *, source: str, labels: tuple[str, ...], channels: int, details: Details
) -> Predictor:
    """A predictor of a PyTorch network."""

    def ask(images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
        shares: npt.NDArray[np.float32] = network.answers(tensors)[0].numpy()
        return shares

    return Predictor(source, labels, channels, ask, details, network, task=network.task)


def both_ways(predictor: Predictor) -> Predictor:
    """A predictor that answers with the mean over an image and its mirror image."""

    def ask(images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
        return (predictor.ask(images) + predictor.ask(mirrored)) * np.float32(0.5)

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

    def ask(images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        raised = predictor.ask(images).astype(np.float64) ** (1 / temperature)
        shares: npt.NDArray[np.float32] = (raised / raised.sum(1, keepdims=True)).astype(np.float32)
        return shares

    return replace(predictor, ask=ask, details={**predictor.details, "calibrated": True})
