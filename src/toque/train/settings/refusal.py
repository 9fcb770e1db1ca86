"""Why settings are refused, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from toque import checks


def explain(error: ValidationError, settings: type[BaseModel]) -> str:
    """The first thing that pydantic has against these settings, in the house's sentence."""
    problem = error.errors()[0]
    *sections, key = map(str, problem["loc"])
    where = f"Run [{'.'.join(sections)}]" if sections else "Run"
    if problem["type"] == "extra_forbidden":
        known = _section_at(settings, sections).model_fields
        return f"{where}: {key} is not a setting. {checks.nearest(key, known)}"
    rule = problem["msg"].removeprefix("Input should be ")
    value = "a table" if isinstance(problem["input"], Mapping) else repr(problem["input"])
    return checks.sentence(where, key, rule, value, "Mend it, or leave it out.")


def _section_at(section: type[BaseModel], path: list[str]) -> type[BaseModel]:
    for name in path:
        if not name.isdigit():  # the place in a list
            section = _inside(section.model_fields[name].annotation)
    return section


def _inside(annotation: Any) -> type[BaseModel]:
    """The settings in an annotation: X, X | None, tuple[X, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [part for part in get_args(annotation) if part not in (type(None), Ellipsis)]
    return _inside(found[0])
