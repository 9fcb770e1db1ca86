"""Layers and inputs named on a command line: "package.module:Name", "2x8x16x16"."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from toque import checks
from toque.random import Key


def find_layer(path: str) -> Callable[..., Any]:
    """The layer at "package.module:Name" or "torch.nn:Linear(5,4)".

    A module class without arguments in the text is made with none; an autograd.Function stands for
    its apply.

    Raises: ValueError: not importable, or a class that needs arguments
    """
    module_name, _, rest = path.partition(":")
    name, _, arguments = rest.partition("(")
    try:
        found = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise checks.invalid(
            "verify", "layer", "importable as package.module:Name", path,
            f"{type(error).__name__}: {error}.",
        ) from error  # fmt: skip
    target: Any = found
    if isinstance(target, type) and issubclass(target, torch.autograd.Function):
        apply: Callable[..., Any] = target.apply
        return apply
    if isinstance(target, type) and issubclass(target, nn.Module):
        positional, named = _arguments(arguments.removesuffix(")"))
        try:
            inspect.signature(target).bind(*positional, **named)
        except TypeError as error:
            raise checks.invalid(
                "verify", "layer", "a class with its arguments", path,
                f"{error}: write for example {path.partition('(')[0]}(8,16).",
            ) from error  # fmt: skip
        return target(*positional, **named)
    return target  # type: ignore[no-any-return]


def _arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    import ast

    positional: list[Any] = []
    named: dict[str, Any] = {}
    call = ast.parse(f"f({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    try:
        positional = [ast.literal_eval(argument) for argument in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except ValueError as error:
        raise checks.invalid(
            "verify", "layer", "made of plain arguments (numbers, text, lists)", text,
            "Write a small function that makes it, and name that.",
        ) from error  # fmt: skip
    return positional, named


def make_input(text: str, position: int = 0) -> Tensor:
    """A tensor from "2x8x16x16", or "4:int10" for class numbers below 10: always the same values.

    Raises: ValueError: not of that form
    """
    shape_text, _, kind = text.partition(":")
    try:
        shape = [int(part) for part in shape_text.split("x")] if shape_text else []
        below = int(kind.removeprefix("int")) if kind else 0
        if min([*shape, 0]) < 0 or (kind and (not kind.startswith("int") or below < 1)):
            raise ValueError(text)
    except ValueError as error:
        raise checks.invalid(
            "--input", "shape", "like 2x8x16x16 or 4:int10", text,
            "int10 makes class numbers 0 .. 9.",
        ) from error  # fmt: skip
    key = Key(0, 0, [position])
    count = torch.Size(shape).numel()
    if kind:
        return key.integers("input", 0, below, count).reshape(shape)
    return key.normal("input", count).reshape(shape)
