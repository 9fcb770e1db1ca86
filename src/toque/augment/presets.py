"""Pipelines by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from toque import checks
from toque.augment.color import ColorJitter, Normalize
from toque.augment.compose import Compose
from toque.augment.crop import CenterCrop, RandomCrop, RandomResizedCrop, Resize
from toque.augment.erase import Cutout, RandomErasing
from toque.augment.flip import RandomHorizontalFlip
from toque.augment.plan import Transform

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRESETS = ("imagenet", "light", "cifar", "none", "whole")


def preset(
    name: str,
    size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: int = 3,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Compose:
    """A pipeline by name, from uint8 images of any size to normalised [B, C, size, size].

    "light"     mild: at least 35 % of the image, and flips; for small folders and first runs. Up to
                64 pixels it shifts by a sixteenth instead: small pictures fill their frame
    "imagenet"  RandomResizedCrop from 8 % of the area, flip, colour jitter, erasing
    "cifar"     a shift by an eighth of the size, flip, a cut-out square of a quarter of it
    "none"      for validation: resized to the size / 0.875, the middle cut out; up to 64 pixels the
                whole image
    "whole"     resized to the size, nothing cut off: for numbers and masks, which must not lose any

    Args:    mean, std: of values in 0 .. 1; ImageNet's by default, 0.5 and 0.5 unless channels is 3
    Raises:  ValueError: an unknown name, a size < 1
    Example: >>> train, valid = preset("light", 224), preset("none", 224)
    """
    if name not in PRESETS:
        raise checks.invalid(
            "preset", "name", f"one of {', '.join(PRESETS)}", name, checks.nearest(name, PRESETS)
        )
    if size < 1:
        raise checks.invalid("preset", "size", ">= 1", size, "Give the side of the result.")
    known = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,), (0.5,))
    normalize = Normalize(known[0] if mean is None else mean, known[1] if std is None else std)
    small = size <= 64
    whole = Resize((size, size))

    def shifted(most: int) -> list[Transform]:
        return [whole, RandomCrop(size, padding=max(1, most)), RandomHorizontalFlip()]

    steps: dict[str, list[Transform]] = {
        "light": [
            *(
                shifted(size // 16)
                if small
                else [RandomResizedCrop(size, scale=(0.35, 1.0)), RandomHorizontalFlip()]
            ),
            normalize,
        ],
        "imagenet": [
            RandomResizedCrop(size),
            RandomHorizontalFlip(),
            *([ColorJitter(0.4, 0.4, 0.4, 0.1)] if channels in (1, 3) else []),
            normalize,
            RandomErasing(p=0.25),
        ],
        "cifar": [*shifted(size // 8), normalize, Cutout(max(1, size // 4))],
        "none": [
            *([whole] if small else [Resize(round(size / 0.875)), CenterCrop(size)]),
            normalize,
        ],
        "whole": [whole, normalize],
    }
    return Compose(steps[name], dtype=dtype, channels_last=channels_last)
