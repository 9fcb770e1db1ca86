"""MixUp and CutMix in training: which of the two a batch gets, by its key."""

from __future__ import annotations

import torch
from torch import Tensor

from toque import checks
from toque.augment import CutMix, MixUp
from toque.data import Batch
from toque.random import Key
from toque.train.settings.images import MixSettings


class Mixing:
    """Mixes the images of a batch and their labels; with both kinds on, half of the batches each.

    Args:    num_classes: K of the soft targets
             seed: of the draws
    Raises:  ValueError: fewer than two classes
    Example: >>> mixing = Mixing(MixSettings(mixup=0.2, cutmix=1.0), num_classes=10, seed=0)
             >>> images, targets = mixing(images, targets, batch)
    """

    def __init__(self, settings: MixSettings, num_classes: int, seed: int) -> None:
        if num_classes < 2:
            raise checks.invalid(
                "run.toml [mix]", "mixup and cutmix", "off without classes", num_classes,
                "Set both to 0.",
            )  # fmt: skip
        self._seed = seed
        self._kinds: list[MixUp | CutMix] = []
        if settings.mixup:
            self._kinds.append(MixUp(num_classes, settings.mixup))
        if settings.cutmix:
            self._kinds.append(CutMix(num_classes, settings.cutmix))

    def in_shards(
        self, images: Tensor, targets: Tensor, batch: Batch, shards: int
    ) -> tuple[Tensor, Tensor]:
        """Mix each of several equal parts of a batch by itself, as `__call__` does the whole."""
        if shards == 1:
            return self(images, targets, batch)
        size = len(images) // shards
        mixed = []
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            some = Batch(images[part], targets[part], batch.indices[part], batch.epoch[part])
            mixed.append(self(some.images, some.targets, some))
        every_images, every_targets = zip(*mixed, strict=True)
        return torch.cat(every_images), torch.cat(every_targets)

    def __call__(self, images: Tensor, targets: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Shape: images [B, C, H, W], targets [B] -> images [B, C, H, W], targets [B, K]"""
        key = Key(self._seed, batch.epoch, batch.indices)
        chosen = int(float(key.uniforms({"mix": 1})["mix"][0, 0]) * len(self._kinds))
        return self._kinds[chosen](images, targets, key=key)
