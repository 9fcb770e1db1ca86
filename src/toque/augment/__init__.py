"""Augmentation of whole batches: a draw of its own for every image, in one pass over the pixels.

    >>> pipeline = augment.Compose([augment.RandomResizedCrop(224), augment.RandomHorizontalFlip()])
    >>> batch = pipeline(images, key=toque.random.Key(seed=0, epoch=0, indices=indices))

Names, arguments, defaults and meaning are those of torchvision.transforms.v2 where it has the
transform; the guide lists every difference with its size.
"""

from typing import TYPE_CHECKING, NoReturn

from toque import checks
from toque.augment.choice import RandomApply, RandomChoice
from toque.augment.color import (
    ColorJitter,
    Normalize,
    RandomGrayscale,
    RandomInvert,
    RandomPosterize,
    RandomSolarize,
    ToDtype,
)
from toque.augment.compose import Compose
from toque.augment.crop import CenterCrop, PadTo, RandomCrop, RandomResizedCrop, Resize
from toque.augment.erase import Cutout, RandomErasing
from toque.augment.filters import (
    GaussianBlur,
    GaussianNoise,
    Lambda,
    RandomAdjustSharpness,
    RandomAutocontrast,
    RandomEqualize,
)
from toque.augment.flip import AlternatingFlip, RandomHorizontalFlip, RandomVerticalFlip
from toque.augment.mix import CutMix, MixUp
from toque.augment.parameters import Parameters
from toque.augment.policy import AugMix, AutoAugment, RandAugment, TrivialAugmentWide
from toque.augment.presets import preset
from toque.augment.sheet import contact_sheet
from toque.augment.targets import Augmented
from toque.augment.warp import RandomAffine, RandomPerspective, RandomRotation

__all__ = [
    "AlternatingFlip",
    "AugMix",
    "Augmented",
    "AutoAugment",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "CutMix",
    "Cutout",
    "GaussianBlur",
    "GaussianNoise",
    "Lambda",
    "MixUp",
    "Normalize",
    "PadTo",
    "Parameters",
    "RandAugment",
    "RandomAdjustSharpness",
    "RandomAffine",
    "RandomApply",
    "RandomAutocontrast",
    "RandomChoice",
    "RandomCrop",
    "RandomEqualize",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSolarize",
    "RandomVerticalFlip",
    "Resize",
    "ToDtype",
    "TrivialAugmentWide",
    "contact_sheet",
    "preset",
]

_ELSEWHERE = {
    "ToTensor": "Leave it out: images go in as uint8 tensors and come out as float.",
    "ToImage": "Leave it out: images go in as uint8 tensors [B, C, H, W].",
    "PILToTensor": "Leave it out: images go in as uint8 tensors [B, C, H, W].",
    "ConvertImageDtype": "Leave it out: Compose(..., dtype=torch.float32) says what comes out.",
    "RandomResize": "RandomResizedCrop and Resize give a batch of one size.",
    "RandomShortestSize": "RandomResizedCrop and Resize give a batch of one size.",
    "RandomIoUCrop": "RandomResizedCrop crops; boxes that keep less than min_area are left out.",
}
"""Names of torchvision's that have no twin here, and what to do instead."""

if not TYPE_CHECKING:  # else any name would be one for mypy

    def __getattr__(name: str) -> NoReturn:
        fix = _ELSEWHERE.get(name) or checks.nearest(name, __all__)
        raise AttributeError(f"toque.augment has no {name}. {fix}")
