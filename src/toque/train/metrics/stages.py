"""The stages of a run's time, as its rows count them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Stage = Literal["data", "host", "device", "checkpoint", "validation"]
STAGES: tuple[Stage, ...] = ("data", "host", "device", "checkpoint", "validation")
# What a row measures of the machine and not of the training: two equal runs differ in these alone.
MEASURED = frozenset(
    {"images_per_s", "time_s", "memory_bytes", *(f"{stage}_s" for stage in STAGES)}
)


def shares(rows: Sequence[Mapping[str, Any]]) -> dict[Stage, float]:
    """What share of the time each stage took, over rows of metrics.jsonl; empty if none says.

    Give rows of one split: both count the same seconds.
    """
    seconds = {stage: sum(row.get(f"{stage}_s") or 0.0 for row in rows) for stage in STAGES}
    total = sum(seconds.values())
    return {stage: seconds[stage] / total for stage in STAGES} if total > 0 else {}
