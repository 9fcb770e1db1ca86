"""A contact sheet: originals and their draws side by side, what was drawn in words under each.

Shape letters: B images, C channels, H W source height and width, h w result height and width,
D draws of each image, N boxes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from toque.augment.color import Normalize
from toque.augment.compose import Compose
from toque.augment.targets import Augmented, Masks
from toque.random import Key

if TYPE_CHECKING:
    from PIL import Image

_CELL_PX = 192
_LINES = 4
_LINE_PX = 12
_GAP_PX = 6
# The font that Pillow brings along may lack these.
_PLAIN = str.maketrans({"×": "x", "°": " deg", "→": ">", "…": "..."})
_MASK_COLORS = ((255, 64, 64), (64, 160, 255), (64, 220, 96), (255, 200, 0), (200, 96, 255))


def contact_sheet(
    pipeline: Compose,
    images: Sequence[torch.Tensor],
    *,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    num_draws: int = 4,
    names: Sequence[str] | None = None,
    masks: Masks | None = None,
    boxes: Sequence[torch.Tensor] | None = None,
    ignore_index: int = 255,
) -> Image.Image:
    """One row for each image: itself, then its draws of the first epochs, described in words.

    Pictures are shown before Normalize; masks are drawn over them (0 and ignore_index left out) and
    boxes around.

    Shape:   images uint8 [C, H, W] each, masks [H, W], boxes [N, 4] -> an RGB picture of Pillow
    Args:    seed, indices: of the key; the first images in order unless given
             num_draws: D, epochs 0 .. D - 1
    Raises:  ValueError: what the pipeline raises
    Example: >>> contact_sheet(preset("light", 224), images).save("grid.png")
    """
    from PIL import Image, ImageDraw

    shown = Compose(
        [
            Normalize((0.0,), (1.0,)) if isinstance(transform, Normalize) else transform
            for transform in pipeline.transforms
        ]
    )
    numbers = list(range(len(images)) if indices is None else indices)
    sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
    row_px = _CELL_PX + _LINES * _LINE_PX + _GAP_PX
    sheet = Image.new(
        "RGB", ((num_draws + 1) * (_CELL_PX + _GAP_PX), len(images) * row_px), "white"
    )
    pen = ImageDraw.Draw(sheet)

    def place(row: int, column: int, picture: Image.Image, words: str) -> None:
        left, top = column * (_CELL_PX + _GAP_PX), row * row_px
        enlarged = min(picture.size) < _CELL_PX // 3
        filter_ = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
        scale = _CELL_PX / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        sheet.paste(picture.resize(size, filter_), (left, top))
        for line, text in enumerate(textwrap.wrap(words, 34)[:_LINES]):
            plain = text.translate(_PLAIN)
            pen.text((left, top + _CELL_PX + line * _LINE_PX), plain, fill="black")

    for row, image in enumerate(images):
        name = str(numbers[row]) if names is None else names[row]
        mask = None if masks is None else masks[row]
        box = None if boxes is None else boxes[row]
        place(row, 0, _picture(image, mask, box, ignore_index), name)
    for epoch in range(num_draws):
        key = Key(seed, epoch, numbers)
        words = shown.describe(shown.draw(key), sizes)
        if masks is None and boxes is None:
            result = Augmented(shown(images, key=key))
        else:
            result = shown(images, key=key, masks=masks, boxes=boxes, ignore_index=ignore_index)
        for row, picture in enumerate(result.images):
            mask = None if result.masks is None else result.masks[row]
            box = None if result.boxes is None else result.boxes[row]
            place(row, epoch + 1, _picture(picture, mask, box, ignore_index), words[row])
    return sheet


def _picture(
    image: torch.Tensor, mask: torch.Tensor | None, boxes: torch.Tensor | None, ignore_index: int
) -> Image.Image:
    """An image as Pillow has it, with its mask over it and its boxes around."""
    from PIL import Image, ImageDraw

    if image.dtype != torch.uint8:
        image = image.float().mul(255).round().clamp(0, 255).to(torch.uint8)
    channels = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    pixels = channels.permute(1, 2, 0).cpu().numpy().astype(np.float32)
    if mask is not None:
        values = mask.cpu().numpy().reshape(-1, *mask.shape[-2:])[0]
        colors = np.array(_MASK_COLORS, dtype=np.float32)[(values.astype(np.int64) - 1) % 5]
        drawn = ((values != 0) & (values != ignore_index))[:, :, None]
        pixels = np.where(drawn, 0.55 * pixels + 0.45 * colors, pixels)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    if boxes is not None:
        pen = ImageDraw.Draw(picture)
        for left, top, right, bottom in boxes.tolist():
            pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline="red")
    return picture
