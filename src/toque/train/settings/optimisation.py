"""Settings of what is minimised, and of how the weights follow it."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from toque.train.settings.section import Section


class LossSettings(Section):
    """What is minimised, and its arguments by the names they have in toque.losses or torch.nn."""

    # Further keys are arguments of the loss; tasks/loss.py checks them by its signature.
    model_config = ConfigDict(frozen=True, extra="allow")

    name: str | None = Field(
        None, description="a name of toque.losses, or several joined by +; unset: by the task"
    )
    label_smoothing: float | None = Field(
        None, ge=0, lt=1, description="share of the target spread over the classes; unset: by task"
    )


class OptimizerSettings(Section):
    """Which torch.optim class, and its arguments by their torch names."""

    # Further keys are arguments of the torch.optim class; optimise.py checks them by its signature.
    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(
        "sgd", description="any of torch.optim (sgd, adamw, muon), lion, soap, timm/NAME, ..."
    )
    learning_rate: float | None = Field(
        None, gt=0, description="peak rate; unset: 0.001; sgd 0.1 per 256 images, per 64 small ones"
    )
    weight_decay: float = Field(
        5e-4, ge=0, description="not applied to biases and normalisation parameters"
    )
    for_batch_size: int | None = Field(
        None, ge=1, description="learning_rate is meant for this batch_size: scale it to the real"
    )
    sam: float = Field(
        0.0, ge=0, description="radius of sharpness-aware minimisation; 0: off, 0.05 is usual"
    )
    lookahead: int = Field(0, ge=0, description="steps between two of Lookahead; 0: off")


class ScheduleSettings(Section):
    """The learning rate as a function of images seen."""

    name: Literal[
        "cosine", "linear", "constant", "step", "one_cycle", "trapezoid", "polynomial"
    ] = Field("linear", description="cosine, linear, constant, step, one_cycle, trapezoid, ...")
    warmup_fraction: float = Field(
        0.2, ge=0, lt=1, description="share of the run in which the rate rises from 0 to its peak"
    )
    final_fraction: float = Field(
        0.0, ge=0, le=1, description="the rate at the end, as a fraction of the peak"
    )
    every_epochs: float = Field(30.0, gt=0, description="step: epochs between two falls")
    factor: float = Field(0.1, gt=0, le=1, description="step: what a fall multiplies by")
    power: float = Field(2.0, gt=0, description="polynomial: the exponent")
    cooldown_fraction: float = Field(
        0.2, ge=0, le=1, description="trapezoid: share of the run in which the rate falls"
    )


class RuleSettings(Section):
    """What the parameters that match get, in place of the defaults."""

    match: str = Field(description="names of parameters: head.*, *.bias")
    lr_scale: float | None = Field(None, ge=0, description="multiplies the learning rate")
    weight_decay: float | None = Field(None, ge=0, description="in place of optimizer's")
    frozen: bool | None = Field(None, description="never learns; false: an earlier rule is undone")
    frozen_epochs: float | None = Field(
        None, ge=0, description="learns after so many epochs; 0: an earlier rule is undone"
    )
    optimizer: OptimizerSettings | None = Field(None, description="takes these parameters")


class ClipSettings(Section):
    """How large the gradients of a step may be."""

    norm: float | None = Field(
        None, gt=0, description="the length of all gradients together is cut to this"
    )
    value: float | None = Field(None, gt=0, description="each number is cut to -value .. value")


class EMASettings(Section):
    """A moving average of the weights, evaluated and kept instead of the last weights."""

    half_life_epochs: float = Field(
        0.0, ge=0, description="0: off; else the average forgets half in this time"
    )
