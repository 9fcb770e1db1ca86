"""What a model says of an image, task by task: classes and labels, numbers, a mask.

Shape letters: K classes or labels, H W height and width.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toque import durable
from toque.data.masks import palette
from toque.deploy.predictions import Prediction


@dataclass(frozen=True, eq=False)
class NumbersAnswer:
    """The numbers of an image, by name, in the units that they were trained in."""

    image: str
    numbers: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return {"image": self.image, "numbers": self.numbers}


@dataclass(frozen=True, eq=False)
class MaskAnswer:
    """The class of each pixel of an image: uint8 [H, W] of the image's own size."""

    image: str
    names: tuple[str, ...]
    mask: npt.NDArray[np.uint8]

    @property
    def shares(self) -> dict[str, float]:
        """The share of the pixels that each class has."""
        counts = np.bincount(self.mask.reshape(-1), minlength=len(self.names))
        return dict(zip(self.names, (counts / self.mask.size).tolist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        return {"image": self.image, "shares": self.shares}

    def png(self) -> bytes:
        """A PNG of the class numbers, with a palette that makes them visible."""
        from PIL import Image

        picture = Image.fromarray(self.mask)
        picture.putpalette(palette(len(self.names)).reshape(-1).tolist())
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        return stream.getvalue()

    def write(self, file: Path) -> None:
        """Write `png` to a file, whole or not at all."""
        durable.write(file, self.png())


Answer = Prediction | NumbersAnswer | MaskAnswer
