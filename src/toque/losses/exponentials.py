"""exp and softplus for the hand-written passes: on the CPU, without torch's slow kernels for them.

Measured with torch 2.14.1 on AVX-512, nanoseconds a number: exp 0.62, log1p 9.6 (with it softplus
and binary cross-entropy), but exp2 0.16, log 0.75, a product 0.06. None of these functions is
differentiated: the passes know their own slopes.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

_LOG2_E = math.log2(math.e)


def exp_(values: Tensor) -> Tensor:
    """exp in place, with a relative error of about 1e-7 (1 + |value|) in float32."""
    if values.device.type != "cpu":
        return values.exp_()
    return values.mul_(_LOG2_E).exp2_()


def softplus(values: Tensor) -> Tensor:
    """log(1 + exp(values)), with a relative error of about 2e-7 in float32.

    log1p(small) is log(above) and a first-order step for what above = 1 + small rounded off.
    """
    if values.device.type != "cpu":
        return F.softplus(values)
    small = exp_(values.abs().neg_())
    above = small + 1
    lost = small.sub_(above - 1).div_(above)
    return above.log_().add_(lost).add_(values.clamp(min=0))
