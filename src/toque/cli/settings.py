"""The settings of a command: a file, or data by its name, and the --set options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toque.train.run import Run


def run_of(
    data: str | None,
    config: Path | None,
    settings: Sequence[str] | None,
    out: str | None = None,
) -> Run:
    """The settings that a command line stands for.

    Args:   data: of the run; a .toml of settings, or a run folder, stands for `config`
            settings: of the --set options
    Raises: FileNotFoundError, ValueError: as `toque.train.run.load`; no KEY=VALUE
    """
    from toque.train import run as settings_of
    from toque.train.run_folder.folder import SETTINGS, is_run_folder

    if data is not None and is_run_folder(Path(data)):
        data = str(Path(data) / SETTINGS)
    if data is not None and data.endswith(".toml"):
        config, data = Path(data), None
    return settings_of.load(config, overrides(settings or ()), data=data, out=out)


def overrides(settings: Sequence[str]) -> dict[str, str]:
    """The settings of some --set options, by their dotted names."""
    from toque import checks

    pairs = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise checks.invalid("--set", "a setting", "KEY=VALUE", text, "As in --set epochs=20.")
        pairs[key.strip()] = value.strip()
    return pairs
