"""Settings of the course of a run: what it writes, what it does about bad steps, when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from toque.train.settings.section import Section

LogName = Literal["tensorboard", "wandb", "mlflow"]


class StopSettings(Section):
    """When a run ends before its last epoch."""

    patience_epochs: int | None = Field(
        None, ge=1, description="stop after so many validations without a better one; unset: never"
    )
    least_gain: float = Field(0.0, ge=0, description="what counts as better than the best before")


class NonFiniteSettings(Section):
    """What happens when a loss or a gradient is no finite number: the step is skipped, and ..."""

    limit: int = Field(3, ge=1, description="so many in a row end the run, or set it back")
    then: Literal["stop", "roll_back"] = Field(
        "stop", description="stop, or roll_back to the last epoch before, at a lower rate"
    )
    rate_factor: float = Field(0.5, gt=0, lt=1, description="roll_back: what the rate is cut to")


class CheckpointSettings(Section):
    """When the state is saved besides the end of every epoch, and what stays."""

    every_s: float = Field(
        300.0, gt=0, description="also save when this many seconds passed since the last save"
    )
    keep: int = Field(2, ge=1, description="how many of the newest stay; the best always stays")
    background: bool = Field(
        True,
        description="written by a thread from a copy in memory; false: no copy, training halts",
    )
    weights: Literal["best", "last"] = Field(
        "best", description="which weights become weights.safetensors: best accuracy, or last"
    )


class LogSettings(Section):
    """What is written while training."""

    every_images: int | None = Field(
        None, ge=1, description="images in one training row; unset: 20 rows an epoch"
    )
    to: tuple[LogName, ...] = Field(
        ("tensorboard",), description="besides metrics.jsonl: tensorboard, wandb, mlflow"
    )

    @model_validator(mode="before")
    @classmethod
    def _tensorboard(cls, given: Any) -> Any:
        """`tensorboard = false`, as it was before there were other loggers: to = []."""
        if not isinstance(given, Mapping) or "tensorboard" not in given:
            return given
        rest = {key: value for key, value in given.items() if key != "tensorboard"}
        if given["tensorboard"] not in (True, False):
            return given
        others = [name for name in rest.get("to", ()) if name != "tensorboard"]
        return {**rest, "to": (["tensorboard"] if given["tensorboard"] else []) + others}
