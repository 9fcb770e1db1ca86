"""Settings of which images are seen, at what size, and what is made of a batch of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from toque.train.settings.section import Section


class TableSettings(Section):
    """Which column of a table means what; unset: by the usual names."""

    path: str | None = Field(None, description="the image's file")
    label: str | list[str] | None = Field(
        None, description="a class, labels (a|b), a number, a mask's file; or several columns"
    )
    split: str | None = Field(None, description="train or val")
    weight: str | None = Field(None, description="how much an image counts")


class SamplingSettings(Section):
    """Which training images are seen, and how often."""

    name: Literal["shuffle", "balanced", "weighted"] = Field(
        "shuffle", description="balanced: classes equally often; weighted: by the data's weights"
    )
    repeats: int = Field(
        1, ge=1, description="each image so many times in a row, each time augmented anew"
    )
    class_weights: Literal["equal"] | dict[str, float] | None = Field(
        None, description='weighted: {rare = 4}, times the data\'s weights; or "equal"'
    )


class ResizeSettings(Section):
    """Training images that grow in the course of the run; validation is always at image_size."""

    from_px: int | None = Field(
        None, ge=1, description="size of the training images at first; unset: always image_size"
    )
    to_px: int | None = Field(
        None, ge=1, description="their size at the end, at most image_size; unset: image_size"
    )
    begin_epoch: float = Field(0.0, ge=0, description="they begin to grow here")
    until_epoch: float | None = Field(
        None, ge=0, description="they have their last size from here; unset: 0.8 of epochs"
    )
    step_px: int = Field(32, ge=1, description="the sizes in between are multiples of this")


class MixSettings(Section):
    """Images and labels of a batch joined; both on: half of the batches each."""

    mixup: float = Field(0.0, ge=0, description="alpha of MixUp; 0: off, 0.2 is usual")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix; 0: off, 1.0 is usual")
