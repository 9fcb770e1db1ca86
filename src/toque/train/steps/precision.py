"""The number format that a step computes in; the weights are float32 in all of them.

float32   as it says; also on a GPU, where convolutions would use TF32 if left alone
tf32      float32 in memory, ten bits of mantissa in the multiplications of NVIDIA's tensor cores
bfloat16  torch.autocast: products in bfloat16, sums and normalisations in float32
float16   torch.autocast, and the loss scaled up so that small gradients are not lost
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from toque import checks

NAMES = ("float32", "tf32", "bfloat16", "float16")
NOTHING = nullcontext()  # one for all: it is entered at every step
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision:
    """A precision on a device.

    Args:    name: float32, tf32, bfloat16, float16; "auto" is bfloat16 on a GPU that has it in
             hardware and float32 everywhere else (bfloat16 is slower than float32 on most CPUs)
    Raises:  ValueError: tf32 on another device than a GPU
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "auto":
            name = "bfloat16" if _has_bfloat16(device) else "float32"
        if name == "tf32" and device.type != "cuda":
            raise checks.invalid(
                "run.toml", "precision", "float32, bfloat16 or float16 on this device", name,
                'TF32 is a format of NVIDIA GPUs; set precision = "float32".',
            )  # fmt: skip
        self.name = name
        self.device = device
        self._half = _HALF.get(name)

    def __str__(self) -> str:
        return self.name

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of one forward pass and its loss."""
        if self._half is None:
            return NOTHING
        return torch.autocast(self.device.type, dtype=self._half)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Set what torch keeps for the whole process (TF32), and put it back on leaving."""
        matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("high" if self.name == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = self.name == "tf32"
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(matmul)
            torch.backends.cudnn.allow_tf32 = convolution


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


class LossScale:
    """The factor on a float16 loss: halved when gradients overflow, doubled after 2,000 good steps.

    It lives on the device and is never read there: nothing waits for it.

    Source: Micikevicius 2018, arXiv:1710.03740, section 3.2; the rule and its operation
            are torch.amp.GradScaler's
    """

    _FIRST, _GROWTH, _BACKOFF, _PATIENCE_STEPS = 2.0**16, 2.0, 0.5, 2000

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), self._FIRST, device=device)
        self._good_steps = torch.zeros((), dtype=torch.int32, device=device)

    def inverse(self) -> Tensor:
        """What the gradients of a scaled loss are multiplied by: float32 []."""
        return self.scale.double().reciprocal().float()

    def update(self, overflowed: Tensor) -> None:
        """After a step: float32 [], 1 where a gradient was not finite, else 0."""
        torch._amp_update_scale_(
            self.scale, self._good_steps, overflowed, self._GROWTH, self._BACKOFF,
            self._PATIENCE_STEPS,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Tensor]:
        return {"scale": self.scale, "good_steps": self._good_steps}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.scale.copy_(state["scale"])
        self._good_steps.copy_(state["good_steps"])
