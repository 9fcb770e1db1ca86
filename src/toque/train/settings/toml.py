"""Settings as TOML, and back."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from toque import checks


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


def parse(text: str) -> Any:
    """A value written as TOML ("true", "3", "[0.9, 0.95]"), else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def table(name: str, values: Mapping[str, Any]) -> str:
    """One TOML table of plain values, nested tables included; None is left out."""
    own = [f"[{name}]"]
    own += [
        f"{_key(key)} = {_value(value)}"
        for key, value in values.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    nested = [
        table(f"{name}.{_key(key)}", value)
        for key, value in values.items()
        if isinstance(value, Mapping)
    ]
    return "\n".join(own) + "\n" + "".join("\n" + part for part in nested)


def lines(section: BaseModel, name: str = "") -> Iterator[str]:
    """Each setting with its description as a comment; unset ones stand there commented out."""
    if name:
        yield ""
        yield f"[{name}]"
    fields = type(section).model_fields
    values = {key: getattr(section, key) for key in fields} | (section.model_extra or {})
    for key, value in values.items():
        if isinstance(value, BaseModel):
            continue
        description = fields[key].description if key in fields else None
        line = f"# {key} =" if value is None else f"{_key(key)} = {_value(value)}"
        yield f"{line:<32}  # {description}" if description else line
    for key, value in values.items():
        if isinstance(value, BaseModel):
            yield from lines(value, key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_none=True, exclude_defaults=True)
    if isinstance(value, Mapping):
        pairs = (f"{_key(key)} = {_value(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    # TOML's basic strings are JSON's, but for DEL, which must be escaped too.
    escaped = "".join(
        f"\\u{ord(letter):04X}" if ord(letter) < 32 or ord(letter) == 127 else letter
        for letter in str(value).replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{escaped}"'


def _key(key: str) -> str:
    plain = key.replace("-", "").replace("_", "")
    return key if plain.isascii() and plain.isalnum() else _value(key)
