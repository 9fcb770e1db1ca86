"""The images of a replayed step on one picture, as the model saw them, the worst first.

Shape letters: B images, C channels, h x w pixels.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
import torch

from toque.train.report.images import denormalise
from toque.train.studies.replaying import Replayed

if TYPE_CHECKING:
    from PIL import Image

_CELL_PX, _LINES, _LINE_PX, _GAP_PX, _COLUMNS = 160, 4, 12, 8, 8


def by_loss(step: Replayed) -> list[int]:
    """Positions in the batch, the largest loss first, what is no number before all."""
    if not step.losses:
        return list(range(len(step.names)))
    losses = np.nan_to_num(np.array(step.losses), nan=np.inf)
    return [int(position) for position in np.argsort(-losses, kind="stable")]


def answer(step: Replayed, position: int) -> tuple[str, str]:
    """The target and what the model answered, in words: ("cat", "dog 83 %"); empty if unknown."""
    outputs, targets = step.outputs, step.targets
    known = outputs.ndim == 2 and outputs.shape[1] == len(step.classes)
    if not known or not isinstance(targets, torch.Tensor):
        return "", ""
    row = outputs[position].float().softmax(0)
    said = f"{step.classes[int(row.argmax())]} {100 * float(row.max()):.0f} %"
    if targets.ndim == 1 and not targets.is_floating_point():
        return step.classes[int(targets[position])], said
    if targets.shape == outputs.shape:
        return step.classes[int(targets[position].argmax())], said
    return "", said


def sheet(step: Replayed) -> Image.Image:
    """A contact sheet: under each image its name, its target, the answer and its loss."""
    from PIL import Image, ImageDraw

    pictures = denormalise(step.images.float(), step.mean, step.std)
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    row_px = _CELL_PX + _LINES * _LINE_PX + _GAP_PX
    page = Image.new("RGB", (columns * (_CELL_PX + _GAP_PX), rows * row_px), "white")
    pen = ImageDraw.Draw(page)
    for place, position in enumerate(by_loss(step)):
        left, top = place % columns * (_CELL_PX + _GAP_PX), place // columns * row_px
        picture = Image.fromarray(pictures[position]).convert("RGB")
        scale = _CELL_PX / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        tiny = min(picture.size) < _CELL_PX // 3
        page.paste(
            picture.resize(size, Image.Resampling.NEAREST if tiny else Image.Resampling.BOX),
            (left, top),
        )
        target, said = answer(step, position)
        lines = textwrap.wrap(step.names[position], 26)[-2:]
        lines.append(f"{target}: {said}" if target else said)
        if step.losses:
            lines.append(f"loss {step.losses[position]:.4g}")
        for line, text in enumerate(lines[:_LINES]):
            pen.text((left, top + _CELL_PX + line * _LINE_PX), text, fill="black")
    return page
