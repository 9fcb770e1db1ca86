"""The program that is exported: raw uint8 images in, what the task answers out."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from toque import checks
from toque.deploy.outputs import Outputs, Shares
from toque.deploy.preprocess import Preprocess
from toque.layers.running import modules_running
from toque.random import Key

_MAX_BATCH, _MAX_SIDE_PX = 65_535, 65_535
# Nothing an exported size may coincide with, so that no two dimensions are taken for one.
_EXAMPLE = (2, 37, 53)


class Program(nn.Module):
    """Preprocessing and model as one function.

    Shape: uint8 [B, H, W, C] -> what `outputs` gives, such as probabilities and logits [B, K]
    Args:  outputs: how what the model says is read
           temperature: what the logits are divided by
    """

    def __init__(
        self,
        preprocess: Preprocess,
        model: nn.Module,
        outputs: Outputs | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.model = model
        self.outputs = outputs or Shares()
        self.temperature = temperature

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = self.model(self.preprocess(images)).float()
        if self.temperature != 1:
            logits = logits / self.temperature
        found: tuple[torch.Tensor, ...] = self.outputs(logits, images.shape[1], images.shape[2])
        return found


def trace(program: Program, channels: int, size: tuple[int, int] | None = None) -> ExportedProgram:
    """The program as a graph, for batches of any number of images, of any size or of one.

    Args:   size: height and width in pixels, if all images have the same
    Raises: ValueError: a model that is no graph, or that answers with something else than the task
            asks for; the message names the module
    """
    batch, height, width = _EXAMPLE
    example = noise(batch, *(size or (height, width)), channels)
    dimensions = {0: Dim("batch", min=1, max=_MAX_BATCH)}
    if size is None:
        dimensions[1] = Dim("height", min=1, max=_MAX_SIDE_PX)
        dimensions[2] = Dim("width", min=1, max=_MAX_SIDE_PX)
    _check_outputs(program, example)
    tracked = modules_running(program.named_modules(), lambda path, *_: path)
    with tracked as inside, _silent(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of third-party modules about themselves, when traced
        try:
            return torch.export.export(program, (example,), dynamic_shapes=(dimensions,))
        except Exception as error:  # the tracer meets a model's own code: anything may come
            if fixed := re.search(r"You marked (\w+) as dynamic but", str(error)):
                raise checks.invalid(
                    "export", "the model", "one for images of any number and size",
                    f"a model whose code fixes the {fixed.group(1)}",
                    "Take sizes from the tensor, as in x.flatten(1), not from a number; if it is "
                    "the height or width, give --size.",
                ) from error  # fmt: skip
            where = inside[-1] if inside else ""
            raise checks.invalid(
                "export", "the model", "one graph of tensor operations",
                f"{_place(where, program)} ({type(error).__name__}: {checks.first_line(error)})",
                "Replace what depends on tensor values or on Python state there by torch.where or "
                "a fixed choice, or deploy the weights alone with --to safetensors.",
            ) from error  # fmt: skip


def noise(batch: int, height: int, width: int, channels: int) -> torch.Tensor:
    """Images of uniform noise, uint8 [B, H, W, C], always the same."""
    key = Key(0, 0, np.arange(batch))
    numbers = key.uniform("export/noise", height * width * channels)
    return (numbers * 256).to(torch.uint8).view(batch, height, width, channels)


def _check_outputs(program: Program, example: torch.Tensor) -> None:
    with torch.no_grad():
        outputs = program.model(program.preprocess(example))
    if not isinstance(outputs, torch.Tensor) or not program.outputs.fit(outputs):
        shown = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise checks.invalid(
            "export", "the model", f"one that answers with {program.outputs.shape}", shown,
            "Export other models from Python with torch.export.",
        )  # fmt: skip


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the tracer from telling the whole graph it failed at: the error says what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _place(path: str, program: nn.Module) -> str:
    if not path:
        return "something else"
    kind = type(program.get_submodule(path)).__name__
    return f"{path.removeprefix('model.')}, a {kind}"
