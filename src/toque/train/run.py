"""Run: the frozen settings of one training run; its sections lie in settings/.

A run is data. Everything that can change its result stands here, is checked before anything is
written, and is stored fully resolved beside the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from toque import checks
from toque.train.settings import toml
from toque.train.settings.course import (
    CheckpointSettings,
    LogSettings,
    NonFiniteSettings,
    StopSettings,
)
from toque.train.settings.images import (
    MixSettings,
    ResizeSettings,
    SamplingSettings,
    TableSettings,
)
from toque.train.settings.machines import DistributedSettings, MemorySettings
from toque.train.settings.optimisation import (
    ClipSettings,
    EMASettings,
    LossSettings,
    OptimizerSettings,
    RuleSettings,
    ScheduleSettings,
)
from toque.train.settings.refusal import explain
from toque.train.settings.section import Section


class Run(Section):
    """The settings of one training run; frozen, checked, and the same from Python, TOML and CLI.

    Unset values (None) are chosen from the data when training starts and stored in run.toml.

    Raises:  ValueError: an unknown setting (the nearest name is suggested) or a value out of range
    Example: >>> run = Run(data="photos/", model="resnet18", epochs=10)
    """

    data: str = Field(
        "fashion", description="fashion, nuclei, a folder, table, arrays, shards or a URL"
    )
    out: str | None = Field(None, description="the run folder; unset: runs/NAME of the data")
    task: Literal["auto", "classification", "multilabel", "regression", "segmentation"] = Field(
        "auto", description="what is learnt; auto: what the targets of the data are"
    )
    model: str | None = Field(
        None, description="resnet18, timm/NAME, torchvision/NAME, package.module:function"
    )
    pretrained: bool | str = Field(
        False,
        description="start from published weights (timm, torchvision), or from those of a file",
    )
    epochs: float = Field(12, gt=0, description="how often each image is seen")
    seed: int = Field(0, description="with the settings and the data it decides every bit")
    batch_size: int = Field(64, ge=1, description="images a step; unset: 64, for masks 16")
    image_size: int | None = Field(
        None, ge=1, description="height and width in pixels that the model sees"
    )
    augment: str | None = Field(
        None, description="imagenet, light, cifar or none: see toque.augment.preset"
    )
    augment_on: Literal["auto", "host", "device"] = Field(
        "auto", description="on a GPU: augment there, or in threads of the host; auto: there"
    )
    channels_last: bool = Field(
        True, description="memory format of images and weights; the faster one for convolutions"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1")
    compile: bool = Field(False, description="torch.compile the model")
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = Field(
        "auto", description="auto: bfloat16 on a GPU that has it, else float32; tf32, float16"
    )
    val_fraction: float = Field(
        0.2, gt=0, lt=1, description="share of a folder without train/ and val/ kept to validate"
    )
    split_seed: int | None = Field(
        None, description="of that share; give it to compare seeds on the same images; unset: seed"
    )
    on_bad: Literal["raise", "skip"] = Field(
        "raise", description="unreadable images: stop and name them, or leave them out and say so"
    )
    threads: int | None = Field(
        None, ge=1, description="threads that decode and augment; unset: one per core"
    )
    workers: int = Field(
        0, ge=0, description="processes that read a dataset of your own, if its Python is slow"
    )
    scaled_decoding: bool = Field(
        True, description="training: decode large JPEGs at 1/2, 1/4 or 1/8 where the crop allows it"
    )
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    rules: tuple[RuleSettings, ...] = Field(
        (), description="[[rules]] match, lr_scale, weight_decay, frozen, frozen_epochs, optimizer"
    )
    sampling: SamplingSettings = Field(default_factory=SamplingSettings)
    resize: ResizeSettings = Field(default_factory=ResizeSettings)
    table: TableSettings = Field(default_factory=TableSettings)
    loss: LossSettings = Field(default_factory=LossSettings)
    mix: MixSettings = Field(default_factory=MixSettings)
    clip: ClipSettings = Field(default_factory=ClipSettings)
    nonfinite: NonFiniteSettings = Field(default_factory=NonFiniteSettings)
    stop: StopSettings = Field(default_factory=StopSettings)
    memory: MemorySettings = Field(default_factory=MemorySettings)
    ema: EMASettings = Field(default_factory=EMASettings)
    checkpoint: CheckpointSettings = Field(default_factory=CheckpointSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    distributed: DistributedSettings = Field(default_factory=DistributedSettings)

    def __init__(self, /, **settings: Any) -> None:
        if isinstance(settings.get("data"), Path):
            settings["data"] = str(settings["data"])
        if isinstance(settings.get("out"), Path):
            settings["out"] = str(settings["out"])
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise checks.InvalidValue(explain(error, Run)) from None

    def changed(self, **settings: Any) -> Run:
        """A copy with some settings replaced, checked again."""
        return Run(**{**self.as_dict(), **settings})

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values; what is unset (None) is left out."""
        return self.model_dump(exclude_none=True)

    def as_toml(self) -> str:
        """The settings as TOML with a comment for each; unset ones stand there commented out."""
        return "\n".join(toml.lines(self)) + "\n"


# What may differ between two commands that continue the same run: nothing of it changes the bits
# (device and threads of torch are in the fingerprint of the environment instead, and whether the
# data is the same its own fingerprint says: it may lie in another place).
NOT_IDENTITY = frozenset({"out", "data", "device", "threads", "workers"})
_NOT_IDENTITY_SECTIONS = (
    "log.", "checkpoint.every_s", "checkpoint.keep", "checkpoint.background",
    "distributed.strategy", "distributed.timeout_s", "distributed.unused_parameters",
)  # fmt: skip


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: {"optimizer": {"name": "sgd"}} -> {"optimizer.name": "sgd"}."""
    items: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            items.update(flat(value, f"{prefix}{key}."))
        else:
            items[prefix + key] = value
    return items


def identity(run: Run) -> dict[str, Any]:
    """The settings, flat, that decide the bits of a run: equal wherever it is continued."""
    return {
        key: value
        for key, value in flat(run.as_dict()).items()
        if key not in NOT_IDENTITY and not key.startswith(_NOT_IDENTITY_SECTIONS)
    }


def differences(stored: Run, asked: Run) -> list[str]:
    """What separates two runs that cannot be the same: ["epochs: 10 there, 20 here", ...]."""
    there, here = identity(stored), identity(asked)
    return [
        f"{key}: {there.get(key, 'unset')} there, {here.get(key, 'unset')} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]


def load(
    source: Path | None = None, overrides: Mapping[str, str] | None = None, **settings: Any
) -> Run:
    """Settings from a TOML file, then single settings, then dotted overrides ("optimizer.name").

    The override values are read as TOML ("true", "3", "[0.9, 0.95]"), else as a string.

    Raises: FileNotFoundError: no such file
            ValueError: not TOML, an unknown setting, a value out of range
    """
    tree: dict[str, Any] = toml.read(source) if source else {}
    if source and tree.pop("environment", None) is not None:
        tree["out"] = str(source.parent)  # the settings of a run folder, which may have been moved
    tree.update({key: value for key, value in settings.items() if value is not None})
    for path, text in (overrides or {}).items():
        *sections, key = path.split(".")
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise checks.invalid("--set", path, "a setting", text, f"{section} has no parts.")
        table[key] = toml.parse(text)
    try:
        return Run(**tree)
    except checks.InvalidValue as error:
        where = source.name if source else "--set" if overrides else "Run"
        raise checks.InvalidValue(where + str(error).removeprefix("Run")) from None
