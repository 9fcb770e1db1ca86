"""Why settings are refused, in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from toque import checks

# What pydantic calls a type, in the words of whoever writes settings.
_TYPES = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "a text",
    "tuple": "a list", "list": "a list", "dict": "a table",
}  # fmt: skip

# Settings by the names that they have elsewhere.
_ELSEWHERE = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "momentum": "optimizer.momentum",
    "betas": "optimizer.betas",
    "bs": "batch_size",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "num_workers": "threads",
    "img_size": "image_size",
    "imgsz": "image_size",
    "resolution": "image_size",
    "amp": "precision",
    "fp16": "precision",
    "patience": "stop.patience_epochs",
    "early_stopping": "stop.patience_epochs",
    "warmup": "schedule.warmup_fraction",
    "lr_scheduler": "schedule.name",
    "scheduler": "schedule.name",
    "grad_clip": "clip.norm",
    "accumulate": "memory.micro_batch",
    "augmentation": "augment",
    "weights": "pretrained",
    "arch": "model",
    "val_split": "val_fraction",
    "output": "out",
    "gamma": "loss.gamma",
    "smoothing": "loss.label_smoothing",
    "tensorboard": "log.to",
    "logger": "log.to",
    "save_top_k": "checkpoint.keep",
    "folds": "split_seed",
    "kfold": "split_seed",
    "k_folds": "split_seed",
    "freeze": "rules",
    "freeze_epochs": "rules",
    "layer_decay": "rules",
    "finetune": "pretrained",
    "init_from": "pretrained",
    "load_from": "pretrained",
    "ckpt_path": "pretrained",
    "ema_decay": "ema.half_life_epochs",
    "accelerator": "device",
    "gpus": "device",
}

# Values by the names that they have elsewhere.
_VALUES = {
    "bf16": "bfloat16", "bf16-mixed": "bfloat16", "amp": "bfloat16", "fp16": "float16",
    "half": "float16", "16-mixed": "float16", "fp32": "float32", "32": "float32",
}  # fmt: skip


def explain(error: ValidationError, settings: type[BaseModel]) -> str:
    """The first thing that pydantic has against these settings, in the house's sentence."""
    problem = error.errors()[0]
    section, sections, key = _place(settings, list(map(str, problem["loc"])))
    where = f"Run [{'.'.join(sections)}]" if sections else "Run"
    if problem["type"] == "extra_forbidden":
        return f"{where}: {key} is not a setting. {_suggestion(key, sections, section, settings)}"
    field = section.model_fields.get(key)
    about = f"; {key}: {field.description}." if field is not None and field.description else "."
    if problem["type"] == "missing":
        return checks.sentence(where, key, "given", "none", f"Add it{about}")
    value = "a table" if isinstance(problem["input"], Mapping) else repr(problem["input"])
    rule = problem["msg"].removeprefix("Input should be ")
    kind, _, what = problem["type"].partition("_")  # as in int_type, int_parsing, int_from_float
    if what == "type" and field is not None and (parts := _parts(field.annotation)):
        given = problem["input"] if isinstance(problem["input"], str) else "…"
        written = f"{'.'.join([*sections, key])}.{next(iter(parts))}={given}"
        fix = f"Its parts are {', '.join(parts)}: write {written}."
        return checks.sentence(where, key, "a table of settings", value, fix)
    if what in ("type", "parsing", "from_float"):
        rule = _TYPES.get(kind, rule)
    other = _VALUES.get(str(problem["input"]))
    if problem["type"] == "literal_error" and other is not None and repr(other) in rule:
        return checks.sentence(where, key, rule, value, f"Did you mean {other}?")
    return checks.sentence(where, key, rule, value, f"Mend it, or leave it out{about}")


def meant(key: str, settings: type[BaseModel]) -> str | None:
    """The dotted name of the setting that a word stands for, also as other tools call it.

    Example: >>> meant("lr", Run), meant("mixup", Run), meant("epoch", Run)
             ("optimizer.learning_rate", "mix.mixup", "epochs")
    """
    if key in settings.model_fields:
        return key
    if key in _ELSEWHERE:
        return _ELSEWHERE[key]
    same = [path for path in _paths(settings) if path.rpartition(".")[2] == key]
    if len(same) == 1:
        return same[0]
    near = difflib.get_close_matches(key, settings.model_fields, n=1, cutoff=0.75)
    return near[0] if near else None


def _suggestion(
    key: str, sections: list[str], section: type[BaseModel], settings: type[BaseModel]
) -> str:
    """What may be meant by a key that is no setting: a near name, or the same one elsewhere."""
    same = [path for path in _paths(settings) if path.rpartition(".")[2] == key]
    if same and not sections:
        return f"Did you mean {' or '.join(same)}?"
    found = _ELSEWHERE.get(key, "")
    if found.startswith(".".join([*sections, ""])) and found:
        return f"Did you mean {found}?"
    return checks.nearest(key, section.model_fields)


def _paths(settings: type[BaseModel]) -> list[str]:
    """The dotted names of all settings."""
    paths = []
    for name, field in settings.model_fields.items():
        parts = _parts(field.annotation)
        paths += [f"{name}.{part}" for part in parts] if parts else [name]
    return paths


def _parts(annotation: Any) -> Mapping[str, Any]:
    """The settings in a section, by an annotation that is one; empty where it is another type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.model_fields
    return {}


def _place(section: type[BaseModel], path: list[str]) -> tuple[type[BaseModel], list[str], str]:
    """The section that a path of pydantic's leads to, the way there, and the setting in it.

    A path may go on inside a value (an item of a list, one kind of several): not followed.
    """
    way: list[str] = []
    for number, name in enumerate(path[:-1]):
        if name.isdigit() and number:  # the place in a list
            way.append(name)
            continue
        inner = _inside(section.model_fields[name].annotation)
        if inner is None:
            return section, way, name
        section = inner
        way.append(name)
    return section, way, path[-1]


def _inside(annotation: Any) -> type[BaseModel] | None:
    """The settings in an annotation: X, X | None, tuple[X, ...]; None where there are none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_inside(part) for part in get_args(annotation))
    return next((one for one in found if one is not None), None)
