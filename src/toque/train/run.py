"""Run: the frozen settings of one training run, and their TOML.

A run is data. Everything that can change its result stands here, is checked before anything is
written, and is stored fully resolved beside the result.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from toque import checks


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class OptimizerSettings(_Section):
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


class ScheduleSettings(_Section):
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


class RuleSettings(_Section):
    """What the parameters that match get, in place of the defaults."""

    match: str = Field(description="names of parameters: head.*, *.bias")
    lr_scale: float | None = Field(None, ge=0, description="multiplies the learning rate")
    weight_decay: float | None = Field(None, ge=0, description="in place of optimizer's")
    frozen: bool = Field(False, description="never learns")
    frozen_epochs: float = Field(0.0, ge=0, description="learns after so many epochs")
    optimizer: OptimizerSettings | None = Field(None, description="takes these parameters")


class LossSettings(_Section):
    """What is minimised."""

    name: str | None = Field(
        None, description="a name of toque.losses, or several joined by +; unset: by the task"
    )
    label_smoothing: float | None = Field(
        None, ge=0, lt=1, description="share of the target spread over the classes; unset: by task"
    )


class MixSettings(_Section):
    """Images and labels of a batch joined; both on: half of the batches each."""

    mixup: float = Field(0.0, ge=0, description="alpha of MixUp; 0: off, 0.2 is usual")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix; 0: off, 1.0 is usual")


class StopSettings(_Section):
    """When a run ends before its last epoch."""

    patience_epochs: int | None = Field(
        None, ge=1, description="stop after so many validations without a better one; unset: never"
    )
    least_gain: float = Field(0.0, ge=0, description="what counts as better than the best before")


class NonFiniteSettings(_Section):
    """What happens when a loss or a gradient is no finite number: the step is skipped, and ..."""

    limit: int = Field(3, ge=1, description="so many in a row end the run, or set it back")
    then: Literal["stop", "roll_back"] = Field(
        "stop", description="stop, or roll_back to the last epoch before, at a lower rate"
    )
    rate_factor: float = Field(0.5, gt=0, lt=1, description="roll_back: what the rate is cut to")


class ClipSettings(_Section):
    """How large the gradients of a step may be."""

    norm: float | None = Field(
        None, gt=0, description="the length of all gradients together is cut to this"
    )
    value: float | None = Field(None, gt=0, description="each number is cut to -value .. value")


class MemorySettings(_Section):
    """How much memory a step may take."""

    micro_batch: int | None = Field(
        None, ge=1, description="images at a time through the model (accumulation); unset: all"
    )
    limit: str | None = Field(
        None, description='"6GiB": choose micro_batch and save_memory so that a step stays below'
    )


class TableSettings(_Section):
    """Which column of a table means what; unset: by the usual names."""

    path: str | None = Field(None, description="the image's file")
    label: str | list[str] | None = Field(
        None, description="a class, labels (a|b), a number, a mask's file; or several columns"
    )
    split: str | None = Field(None, description="train or val")
    weight: str | None = Field(None, description="how much an image counts")


class EMASettings(_Section):
    """A moving average of the weights, evaluated and kept instead of the last weights."""

    half_life_epochs: float = Field(
        0.0, ge=0, description="0: off; else the average forgets half in this time"
    )


class CheckpointSettings(_Section):
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


LogName = Literal["tensorboard", "wandb", "mlflow"]


class LogSettings(_Section):
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


class DistributedSettings(_Section):
    """Many processes; how many there are is said by whoever starts them, not by a setting."""

    strategy: Literal["ddp", "fsdp", "hsdp"] = Field(
        "ddp", description="ddp: every rank has the model; fsdp: a piece; hsdp: a piece per host"
    )
    virtual_shards: int | None = Field(
        None, ge=1, description="V: the same bits on every number of ranks that divides V (2, 4, …)"
    )
    sync_batch_norm: bool = Field(
        False, description="BatchNorm over the images of all ranks, not over each rank's own"
    )
    unused_parameters: bool = Field(
        False, description="allow parameters that take no part in a step's loss; costs a search"
    )
    timeout_s: float = Field(
        600.0, gt=0, description="how long a rank waits for the others before the run ends"
    )


class ResizeSettings(_Section):
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


class SamplingSettings(_Section):
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


class Run(_Section):
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
    pretrained: bool = Field(False, description="start from published weights (timm, torchvision)")
    epochs: float = Field(12, gt=0, description="how often each image is seen")
    seed: int = Field(0, description="with the settings and the data it decides every bit")
    batch_size: int = Field(64, ge=1, description="images a step; unset: 64, for masks 16")
    image_size: int | None = Field(
        None, ge=1, description="height and width in pixels that the model sees"
    )
    augment: str | None = Field(
        None, description="imagenet, light, cifar or none: see toque.augment.preset"
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
            raise checks.InvalidValue(_explain(error)) from None

    def changed(self, **settings: Any) -> Run:
        """A copy with some settings replaced, checked again."""
        return Run(**{**self.as_dict(), **settings})

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values; what is unset (None) is left out."""
        return self.model_dump(exclude_none=True)

    def as_toml(self) -> str:
        """The settings as TOML with a comment for each; unset ones stand there commented out."""
        return "\n".join(_toml_lines(self)) + "\n"


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
    tree: dict[str, Any] = read(source) if source else {}
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
        table[key] = _parse(text)
    try:
        return Run(**tree)
    except checks.InvalidValue as error:
        where = source.name if source else "--set" if overrides else "Run"
        raise checks.InvalidValue(where + str(error).removeprefix("Run")) from None


def read(source: Path) -> dict[str, Any]:
    """The tables of a TOML file, unchecked.

    Raises: FileNotFoundError: no such file
            ValueError: not TOML
    """
    if not source.is_file():
        raise checks.MissingFile(
            f"--config: {source} must be a file of settings; there is none. "
            f"Write one with: toque new {source}"
        )
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise checks.invalid(
            source.name, "the file", "TOML", f"an error: {error}", "Mend that line."
        ) from None


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _settings_of(sections: list[str]) -> type[BaseModel]:
    section: type[BaseModel] = Run
    for name in sections:
        if not name.isdigit():  # the place in a list
            section = _inside(section.model_fields[name].annotation)
    return section


def _inside(annotation: Any) -> type[BaseModel]:
    """The settings in an annotation: X, X | None, tuple[X, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [part for part in get_args(annotation) if part not in (type(None), Ellipsis)]
    return _inside(found[0])


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    *sections, key = map(str, problem["loc"])
    where = f"Run [{'.'.join(sections)}]" if sections else "Run"
    if problem["type"] == "extra_forbidden":
        known = _settings_of(sections).model_fields
        return f"{where}: {key} is not a setting. {checks.nearest(key, known)}"
    rule = problem["msg"].removeprefix("Input should be ")
    value = "a table" if isinstance(problem["input"], Mapping) else repr(problem["input"])
    return checks.sentence(where, key, rule, value, "Mend it, or leave it out.")


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_none=True, exclude_defaults=True)
    if isinstance(value, Mapping):
        pairs = (f"{_toml_key(key)} = {_toml_value(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    # TOML's basic strings are JSON's, but for DEL, which must be escaped too.
    escaped = "".join(
        f"\\u{ord(letter):04X}" if ord(letter) < 32 or ord(letter) == 127 else letter
        for letter in str(value).replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{escaped}"'


def _toml_key(key: str) -> str:
    plain = key.replace("-", "").replace("_", "")
    return key if plain.isascii() and plain.isalnum() else _toml_value(key)


def _toml_lines(section: BaseModel, name: str = "") -> Iterator[str]:
    if name:
        yield ""
        yield f"[{name}]"
    fields = type(section).model_fields
    values = {key: getattr(section, key) for key in fields} | (section.model_extra or {})
    for key, value in values.items():
        if isinstance(value, BaseModel):
            continue
        description = fields[key].description if key in fields else None
        line = f"# {key} =" if value is None else f"{_toml_key(key)} = {_toml_value(value)}"
        yield f"{line:<32}  # {description}" if description else line
    for key, value in values.items():
        if isinstance(value, BaseModel):
            yield from _toml_lines(value, key)


def table(name: str, values: Mapping[str, Any]) -> str:
    """One TOML table of plain values, nested tables included; None is left out."""
    lines = [f"[{name}]"]
    lines += [
        f"{_toml_key(key)} = {_toml_value(value)}"
        for key, value in values.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    nested = [
        table(f"{name}.{_toml_key(key)}", value)
        for key, value in values.items()
        if isinstance(value, Mapping)
    ]
    return "\n".join(lines) + "\n" + "".join("\n" + part for part in nested)
