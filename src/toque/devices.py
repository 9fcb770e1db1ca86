"""A device of torch by its name, or one sentence where it is not there."""

from __future__ import annotations

import torch

from toque import checks


def named(where: str, name: str, fix: str) -> torch.device:
    """The device of that name, which this machine has.

    Args:   where, fix: how the sentence begins and ends
    Raises: ValueError: torch knows no such device, or it is not here
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = checks.first_line(error)
        if "at start of device string" in reason:  # torch lists twenty of them
            reason = "torch knows no such device"
        raise checks.invalid(
            where, "device", "one this machine has", f"{name} ({reason})", fix
        ) from None
    return device
