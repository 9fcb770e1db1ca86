"""Published weights: why they could not be had, in one sentence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from toque import checks


class MissingWeights(checks.UserMistake, OSError):
    """Published weights that are not on this machine and could not be downloaded."""

    def __str__(self) -> str:  # OSError would print only what it was given as errno and text
        return str(self.args[0]) if self.args else ""


@contextlib.contextmanager
def fetched(name: str, pretrained: bool) -> Iterator[None]:
    """Say in one sentence why weights could not be had: each way of downloading raises its own."""
    try:
        yield
    except Exception as error:
        # timm's and torch.hub's words where a model has no weights, or its file came damaged.
        absent = "No pretrained weights exist" in str(error)
        known = isinstance(error, OSError) or "invalid hash value" in str(error) or any(
            kind.__module__.partition(".")[0] in ("httpx", "requests", "huggingface_hub")
            for kind in type(error).__mro__
        )  # fmt: skip
        if not pretrained or not (known or absent):
            raise
        if absent:
            raise checks.invalid(
                "create", "pretrained", f"False for {name}, which has no weights", True,
                "Take a model that has some, or train it from the start.",
            ) from error  # fmt: skip
        raise MissingWeights(
            f"create: the weights of {name} must be there or to be downloaded; got "
            f"{type(error).__name__} ({checks.first_line(error)}). Connect once (the file is kept "
            f"in {_kept_in(name)}), or train without: pretrained = false."
        ) from error


def _kept_in(name: str) -> str:
    """Where downloaded weights are looked for."""
    if name.startswith("timm/"):
        return os.environ.get("HF_HOME", "~/.cache/huggingface")
    return f"{torch.hub.get_dir()}/checkpoints"
