"""What a server is told when it is started."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from toque.deploy.serving.limits import Limits

DRAIN_S = 30
"""For what was accepted to be answered, when the server ends."""


@dataclass(frozen=True)
class Settings:
    """The arguments of `serving.server.serve` but the address, as another process can be told.

    worker:   the number of the process among several
    linger_s: between SIGTERM and the end of listening; /ready says no meanwhile
    """

    source: str
    device: str = "cpu"
    trust: bool = False
    calibrate: bool = False
    explain: bool = True
    token: str | None = None
    quiet: bool = False
    linger_s: float = 0.0
    limits: Limits = field(default_factory=Limits)
    worker: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Settings:
        """What `as_dict` gave."""
        return cls(**{**plain, "limits": Limits(**plain["limits"])})
