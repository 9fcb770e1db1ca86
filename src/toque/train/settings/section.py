"""A table of settings: frozen, checked, and without unknown names."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """What every table is: its values are checked, defaults too, and then stay."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
