"""Waiting for what a thread or another process does, on a machine that may be busy."""

import time

# A busy machine may take its time; what never comes fails all the same.
PATIENCE_S = 120


def until(condition, what="it"):
    """Return once a condition holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what} never came"
        time.sleep(0.01)
