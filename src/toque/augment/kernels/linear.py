"""Colour as one matrix for each image, in plain torch.

Shape letters: B images, C channels, S samples, N images among them, h w height and width.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from toque.augment.color import GRAY, Operation
from toque.augment.kernels.colors import gray, moved, operate
from toque.augment.kernels.resolved import Resolved

GRID = 16  # the picture is looked at on a grid of 16 x 16 pixels
RIDGE = 1e-3  # how much of a rotation about gray is mixed in, for each sample


def mixing(samples: torch.Tensor, resolved: Resolved) -> torch.Tensor:
    """The colour chain of each image as one matrix: [B, 3, 4], the last column a constant.

    Every operation has a matrix, but for a turn of the hue: that gets the matrix which comes
    nearest to it, by least squares, on samples [B, C, N] of the picture's own colours taken through
    the chain so far. A rotation of the hue in a fixed plane is several times further off.
    """
    batch, channels = samples.shape[:2]
    device = samples.device
    result = torch.eye(3, 4, dtype=torch.float64, device=device).repeat(batch, 1, 1)
    gray_of = torch.tensor(GRAY, dtype=torch.float64, device=device).expand(3, 3)
    colors = samples[:, :, None]
    for step in range(resolved.codes.shape[1]):
        before = colors[:, :, 0].double()
        for code in np.unique(resolved.codes[:, step]):
            operation = Operation(code)
            if operation == Operation.NONE or (channels != 3 and operation in _OF_RGB):
                continue
            which = np.flatnonzero(resolved.codes[:, step] == code)
            chosen = moved(which, samples)
            factor = moved(resolved.factors[which, step].astype(np.float64), samples)
            factor = factor[:, None, None]
            changed = operate(colors[chosen], operation, factor.float()[..., None])
            if operation == Operation.HUE:
                matrix = _nearest(before[chosen], changed[:, :, 0].double(), factor)
            else:
                mean = gray(before[chosen]).mean((1, 2), keepdim=True)
                matrix = _matrix_of(operation, factor, mean, gray_of)
            result[chosen] = torch.cat(
                [matrix[:, :, :3] @ result[chosen][:, :, :3],
                 matrix[:, :, :3] @ result[chosen][:, :, 3:] + matrix[:, :, 3:]], dim=2,
            )  # fmt: skip
            colors = colors.index_copy(0, chosen, changed)
    return result


_OF_RGB = (Operation.SATURATION, Operation.HUE, Operation.GRAYSCALE)


def _matrix_of(
    operation: Operation, factor: torch.Tensor, mean: torch.Tensor, gray_of: torch.Tensor
) -> torch.Tensor:
    """The matrices [N, 3, 4] of an operation that has one; factor and mean [N, 1, 1]."""
    constant = torch.zeros_like(factor)
    if operation == Operation.INVERT:
        factor, constant = torch.full_like(factor, -1), torch.ones_like(factor)
    elif operation == Operation.GRAYSCALE:
        factor = torch.zeros_like(factor)
    elif operation == Operation.CONTRAST:
        constant = (1 - factor) * mean
    matrix = factor * torch.eye(3, dtype=factor.dtype, device=factor.device)
    if operation in _OF_RGB:
        matrix = matrix + (1 - factor) * gray_of
    return torch.cat([matrix, constant.expand(-1, 3, 1)], dim=2)


def _nearest(before: torch.Tensor, after: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """The least-squares matrices [N, 3, 4] between colours [N, 3, S], near a turn about gray."""
    ones = torch.ones_like(before[:, :1])
    given = torch.cat([before, ones], dim=1)
    cosine, sine = torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)
    third, side = (1 - cosine) / 3, sine / math.sqrt(3)
    a, b, c = cosine + third, third - side, third + side
    rows = [torch.cat(row, dim=2) for row in ((a, b, c), (c, a, b), (b, c, a))]
    usual = torch.cat([torch.cat(rows, dim=1), torch.zeros_like(turns).expand(-1, 3, 1)], dim=2)
    ridge = RIDGE * before.shape[2]
    square = given @ given.mT + ridge * torch.eye(4, dtype=given.dtype, device=given.device)
    # Without the check for singular matrices, which the ridge rules out and which would sync a GPU.
    inverse: torch.Tensor = torch.linalg.inv_ex(square).inverse
    return (after @ given.mT + ridge * usual) @ inverse


def mix(pixels: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Colours through the matrices [B, 3, 4], then into 0 .. 1; may change its input."""
    factors = matrix.float()[:, :, :, None, None]
    if pixels.shape[1] != 3:
        return pixels.mul_(factors[:, :1, 0]).add_(factors[:, :1, 3]).clamp_(0, 1)
    red, green, blue = pixels[:, None].unbind(2)
    mixed = factors[:, :, 0] * red + factors[:, :, 1] * green + factors[:, :, 2] * blue
    return mixed.add_(factors[:, :, 3]).clamp_(0, 1)
