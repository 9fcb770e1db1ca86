"""Masks, boxes and keypoints: they follow the geometry of their images.

Shape letters: B images, C channels, H W source height and width, h w result height and width,
N boxes or points of one image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from toque import checks
from toque.augment.canvas import Canvas, Matrices
from toque.augment.kernels import reference


@dataclass(frozen=True, eq=False)
class Augmented:
    """Images with what belongs to them.

    Args:    images: [B, C, h, w]
             masks: [B, h, w] or [B, C, h, w], dtype as given, or None
             boxes: for each image [N, 4], left top right bottom in pixels of the result, those left
             out that lost too much of their area; or None
             kept: for each image int64 [N], which of its boxes these are: labels[kept]; or None
             keypoints: for each image [N, 2], x and y in pixels of the result, also where they lie
             outside of it; or None
    """

    images: torch.Tensor
    masks: torch.Tensor | None = None
    boxes: list[torch.Tensor] | None = None
    kept: list[torch.Tensor] | None = None
    keypoints: list[torch.Tensor] | None = None


Masks = torch.Tensor | Sequence[torch.Tensor]


def move_masks(masks: Masks, canvas: Canvas, ignore_index: int) -> torch.Tensor:
    """Each pixel of the result takes the nearest value of the mask; outside, ignore_index."""
    moved = [
        _move_mask(mask, canvas[number : number + 1], ignore_index)
        for number, mask in enumerate(masks)
    ]
    if moved:
        return torch.stack(moved)
    return torch.stack(list(masks)) if not isinstance(masks, torch.Tensor) else masks


def _move_mask(mask: torch.Tensor, canvas: Canvas, ignore_index: int) -> torch.Tensor:
    height, width = int(canvas.height[0]), int(canvas.width[0])
    source_h, source_w = mask.shape[-2:]
    if canvas.kind == "warp":
        centre_y, centre_x = np.meshgrid(
            np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij"
        )
        m = canvas.matrix[0]
        depth = m[2, 0] * centre_x + m[2, 1] * centre_y + m[2, 2]
        depth = np.where(np.abs(depth) < 1e-12, 1.0, depth)
        across = np.floor((m[0, 0] * centre_x + m[0, 1] * centre_y + m[0, 2]) / depth + 1e-9)
        down = np.floor((m[1, 0] * centre_x + m[1, 1] * centre_y + m[1, 2]) / depth + 1e-9)
        top, left, bottom, right = np.ceil(canvas.visible[0] - 0.5)
        inside = (down >= top) & (down < bottom) & (across >= left) & (across < right)
        rows = np.clip(down, 0, source_h - 1).astype(np.int64)
        columns = np.clip(across, 0, source_w - 1).astype(np.int64)
    else:
        (row, row_in), (column, column_in) = (
            reference.nearest(canvas, axis, size, source_size)
            for axis, size, source_size in ((1, height, source_h), (0, width, source_w))
        )
        rows, columns = row[0][:, None], column[0][None, :]
        inside = row_in[0][:, None] & column_in[0][None, :]
    found = mask[..., torch.from_numpy(rows), torch.from_numpy(columns)]
    if inside.all():
        return found
    outside = torch.from_numpy(~inside).to(mask.device)
    return found.masked_fill(outside, ignore_index)


def move_points(points: torch.Tensor, matrix: npt.NDArray[np.float64]) -> torch.Tensor:
    """Points [N, 2] through a matrix [3, 3]; dtype float as given."""
    exact = points.detach().cpu().double().numpy()
    through = np.concatenate([exact, np.ones((len(exact), 1))], axis=1) @ matrix.T
    depth = np.where(np.abs(through[:, 2:]) < 1e-12, 1.0, through[:, 2:])
    return torch.from_numpy(through[:, :2] / depth).to(points.device, points.dtype)


def move_boxes(boxes: torch.Tensor, matrix: npt.NDArray[np.float64]) -> torch.Tensor:
    """The smallest upright boxes around boxes [N, 4] seen through a matrix [3, 3]."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    moved = move_points(corners, matrix).view(-1, 4, 2)
    return torch.cat([moved.amin(1), moved.amax(1)], dim=1)


def clip_boxes(
    boxes: torch.Tensor, height: int, width: int, min_area: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes cut to the picture, and which are left: those that keep min_area of their own."""
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    cut = boxes.clamp(min=0).minimum(limit)
    area, whole = ((each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (cut, boxes))
    kept = torch.nonzero((area > 0) & (area >= min_area * whole)).flatten()
    return cut[kept], kept


def total_matrix(canvases: list[Canvas]) -> Matrices:
    """From the result of the last pass back to the source: [B, 3, 3]."""
    matrix = canvases[0].matrix
    for canvas in canvases[1:]:
        matrix = matrix @ canvas.matrix
    return matrix


def _check_corners(where: str, boxes: torch.Tensor) -> None:
    """Raise ValueError where boxes are no corners, as those of another convention are not.

    Boxes on a GPU are not read: that would wait for it.
    """
    if boxes.device.type != "cpu":
        return
    turned = (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    if turned.any():
        raise checks.invalid(
            where, "boxes", "left, top, right, bottom in pixels", boxes[turned][0].tolist(),
            "Of x, y, width, height torchvision.ops.box_convert(boxes, 'xywh', 'xyxy') makes them.",
        )  # fmt: skip


def check_sizes(
    where: str, sizes: npt.NDArray[np.int64], masks: Masks | None, *others: object
) -> None:
    """Raises ValueError unless there is one of each per image, and masks are as large as images."""
    for name, given in zip(("masks", "boxes", "keypoints"), (masks, *others), strict=False):
        if given is not None and len(given) != len(sizes):  # type: ignore[arg-type]
            raise checks.invalid(
                where, name, f"one for each of {len(sizes)} images", len(given),  # type: ignore[arg-type]
                "Give an empty tensor for an image without any.",
            )  # fmt: skip
    for name, columns, given in zip(("boxes", "keypoints"), (4, 2), others, strict=False):
        for one in given if isinstance(given, Iterable) else ():
            if not isinstance(one, torch.Tensor) or one.ndim != 2 or one.shape[1] != columns:
                got = list(one.shape) if isinstance(one, torch.Tensor) else type(one).__name__
                raise checks.invalid(
                    where, name, f"a tensor [N, {columns}] for each image", got,
                    f"Give torch.empty(0, {columns}) for an image without any.",
                )  # fmt: skip
            if columns == 4:
                _check_corners(where, one)
    for mask, (height, width) in zip(masks if masks is not None else (), sizes, strict=False):
        if tuple(mask.shape[-2:]) != (height, width):
            raise checks.invalid(
                where, "masks", f"of the size of their images, {height} x {width}",
                " x ".join(map(str, mask.shape[-2:])), "Resize them with mode='nearest' first.",
            )  # fmt: skip
