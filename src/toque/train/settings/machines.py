"""Settings of the memory and the processes that a run may take."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from toque.train.settings.section import Section


class MemorySettings(Section):
    """How much memory a step may take."""

    micro_batch: int | None = Field(
        None, ge=1, description="images at a time through the model (accumulation); unset: all"
    )
    limit: str | None = Field(
        None, description='"6GiB": choose micro_batch and save_memory so that a step stays below'
    )


class DistributedSettings(Section):
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
