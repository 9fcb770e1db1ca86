"""Made-up images that break preprocessing where it can break."""

from __future__ import annotations

import numpy as np

from toque.deploy.program import noise

_SIZES_PX = ((1, 1), (1, 19), (2, 3), (5, 400), (400, 5), (63, 65), (480, 640), (1200, 1600))


def hard_cases(channels: int, size: tuple[int, int] | None = None) -> list[np.ndarray]:
    """Batches of noise, black, white, stripes and ramps, of many sizes or of one.

    Shape: a list of uint8 [B, H, W, C]
    """
    sizes = _SIZES_PX if size is None else (size,)
    batches = [noise(1, height, width, channels).numpy() for height, width in sizes]
    batches.append(noise(5, *(size or (37, 53)), channels).numpy())
    height, width = size or (375, 500)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    drawn = [
        np.zeros((height, width)), np.full((height, width), 255), 255 * ((rows + columns) % 2),
        255 * (columns % 2) + 0 * rows, 255 * rows / height + 0 * columns,
    ]  # fmt: skip
    batches.append(np.repeat(np.stack(drawn).astype(np.uint8)[..., None], channels, axis=3))
    return batches
