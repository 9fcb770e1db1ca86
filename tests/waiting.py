"""Waiting for what a thread or another process does, on a machine that may be busy."""

import time

PATIENCE_S = 60.0


def until(condition, what="it"):
    """Return once a condition holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what} never came"
        time.sleep(0.02)
