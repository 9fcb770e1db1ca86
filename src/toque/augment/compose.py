"""Compose: a list of transforms as one function of a batch of images and a key.

Shape letters: B images, C channels, H W source height and width, h w result height and width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt
import torch

from toque import checks
from toque.augment import kernels, targets
from toque.augment.canvas import Canvas, Counts
from toque.augment.color import Normalize, ToDtype
from toque.augment.color import color as colors
from toque.augment.parameters import Parameters
from toque.augment.plan import Transform, plan
from toque.augment.resolve import (
    Images,
    as_floats,
    canvas_of,
    check_images,
    check_own_draw,
    check_own_result,
    check_parameters,
    is_own,
    place,
    resolve,
)
from toque.augment.targets import Augmented, Masks
from toque.augment.transform import Draw, Drawing, Geometric
from toque.random import Key

_OUTPUTS = (torch.float32, torch.bfloat16, torch.float16, torch.uint8)


class Compose:
    """Transforms with a draw of its own for each image, done in the fewest passes over the pixels.

    `pipeline(images, key=key)` is `pipeline.apply(images, pipeline.draw(key))`. The same key gives
    the same pixels, whatever else is in the batch. `apply` changes nothing but `out` and may be
    called from several threads at once.

    Shape:   images [B, C, H, W], or B images [C, H, W] of different sizes -> [B, C, h, w]
    Dtype:   uint8 (0 .. 255) or float (0 .. 1) -> dtype; without Normalize floats are in 0 .. 1 and
             uint8 in 0 .. 255
    Args:    transforms: of toque.augment, in order
             dtype: of the result: float32, bfloat16, float16 or uint8
             channels_last: memory format of the result
             kernel: "auto" takes the fastest for the device; "reference" is plain torch
             color: "exact", as torchvision computes it; "linear" does the brightness, contrast,
             saturation, hue, gray and inversion of a pass by one matrix for each image: a little
             faster, 1/255 off on average (docs/guide/augmentation.md)
    Raises:  ValueError, TypeError: images of another rank or dtype, an image without pixels,
             parameters of another pipeline or number of images
    Example: >>> pipeline = Compose([RandomResizedCrop(224), RandomHorizontalFlip()])
             >>> batch = pipeline(images, key=Key(seed=0, epoch=3, indices=indices))
    """

    def __init__(
        self,
        transforms: Sequence[Transform],
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        kernel: str = "auto",
        color: str = "exact",
    ) -> None:
        self.transforms = tuple(transforms)
        self.color = colors("Compose", color)
        self._passes = plan(self.transforms, self.color)
        for transform in self.transforms:
            dtype = transform.dtype if isinstance(transform, ToDtype) else dtype
        if dtype not in _OUTPUTS:
            raise checks.invalid(
                "Compose", "dtype", "float32, bfloat16, float16 or uint8", dtype, "Use float32."
            )
        self.dtype = dtype
        self.channels_last = channels_last
        kernels.check("Compose", kernel)
        self.kernel = kernel
        seen: Counter[str] = Counter()
        self._drawing: list[tuple[str, Drawing | None]] = []
        for transform in self.transforms:
            name = type(transform).__name__
            # Named by kind and rank among its kind, so that adding one keeps the draws of the rest.
            stream = f"augment/{name}/{seen[name]}"
            drawing = None if isinstance(transform, Normalize | ToDtype) else transform
            self._drawing.append((stream, drawing))
            seen[name] += 1
        self._wanted = {
            stream: drawing.num_numbers for stream, drawing in self._drawing if drawing is not None
        }

    def __repr__(self) -> str:
        inside = "".join(f"    {transform!r},\n" for transform in self.transforms)
        options = f"dtype={self.dtype}, channels_last={self.channels_last}, color={self.color!r}"
        return f"Compose([\n{inside}], {options})"

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the result, or None when they depend on the images'."""
        size: tuple[int, int] | None = None
        for transform in self.transforms:
            if isinstance(transform, Geometric):
                size = transform.size_after(size)
        return size

    def plan(self) -> str:
        """The passes over the pixels, one a line."""
        return "\n".join(f"pass {n}: {one}" for n, one in enumerate(self._passes, start=1))

    def draw(self, key: Key) -> Parameters:
        """The parameters of the images of a key; they serve for images of any size."""
        if not isinstance(key, Key):
            raise checks.invalid_type(
                "Compose", "key", "a toque.random.Key", type(key).__name__,
                "Give Key(seed, epoch, indices) with the number of each image in the data set.",
            )  # fmt: skip
        numbers = key.uniforms(self._wanted, kernels.sweep())
        draws: list[Draw] = []
        for stream, transform in self._drawing:
            if transform is None:
                draws.append({})
                continue
            draws.append(transform.draw(numbers[stream], key))
            if is_own(transform):
                check_own_draw(transform, draws[-1], key.indices)
        return Parameters(len(key), tuple(draws))

    @overload
    def __call__(
        self, images: Images, *, key: Key, out: torch.Tensor | None = None
    ) -> torch.Tensor: ...

    @overload
    def __call__(
        self,
        images: Images,
        *,
        key: Key,
        out: torch.Tensor | None = None,
        masks: Masks | None = None,
        boxes: Sequence[torch.Tensor] | None = None,
        keypoints: Sequence[torch.Tensor] | None = None,
        ignore_index: int = 255,
        min_area: float = 0.1,
    ) -> Augmented: ...

    def __call__(
        self,
        images: Images,
        *,
        key: Key,
        out: torch.Tensor | None = None,
        masks: Masks | None = None,
        boxes: Sequence[torch.Tensor] | None = None,
        keypoints: Sequence[torch.Tensor] | None = None,
        ignore_index: int = 255,
        min_area: float = 0.1,
    ) -> torch.Tensor | Augmented:
        """Draw and apply; with masks, boxes or keypoints, to them as well.

        Args: masks: [B, H, W] or [B, C, H, W], or one for each image
              boxes: for each image [N, 4], left top right bottom in pixels
              keypoints: for each image [N, 2], x y in pixels
              ignore_index: what a mask gets where the result shows nothing of the image
              min_area: the part of its area that a box must keep
        Returns: the images, or Augmented where anything else is given
        """
        parameters = self.draw(key)
        if masks is None and boxes is None and keypoints is None:
            return self._apply(images, parameters, out, None)
        sizes = check_images(images)[0]
        targets.check_sizes("Compose", sizes, masks, boxes, keypoints)
        canvases = self.canvases(parameters, sizes)
        result = self.apply(images, parameters, out=out)
        if masks is not None:
            masks = _moved(masks, canvases, ignore_index)
        inverse = np.linalg.inv(targets.total_matrix(canvases))
        height, width = result.shape[2:]
        kept: list[torch.Tensor] | None = None
        if boxes is not None:
            moved = map(targets.move_boxes, boxes, inverse)
            cut = [targets.clip_boxes(each, height, width, min_area) for each in moved]
            boxes, kept = [each for each, _ in cut], [which for _, which in cut]
        if keypoints is not None:
            keypoints = list(map(targets.move_points, keypoints, inverse))
        return Augmented(result, masks, boxes, kept, keypoints)

    def apply_to_masks(
        self, masks: Masks, parameters: Parameters, ignore_index: int = 255
    ) -> torch.Tensor:
        """Masks under parameters drawn before, as `apply` moves the images they belong to.

        Shape: masks [B, H, W] or [B, C, H, W], or one for each image -> [B, h, w] or [B, C, h, w]
        Args:  ignore_index: what a mask gets where the result shows nothing of the image
        """
        sizes = np.array([mask.shape[-2:] for mask in masks], dtype=np.int64).reshape(-1, 2)
        targets.check_sizes("Compose", sizes, masks)
        return _moved(masks, self.canvases(parameters, sizes), ignore_index)

    def canvases(
        self, parameters: Parameters, sizes: Sequence[tuple[int, int]] | Counts
    ) -> list[Canvas]:
        """The geometry of each pass for images of sizes [B, 2] (height, width)."""
        start = Canvas.of(np.asarray(sizes, dtype=np.int64).reshape(-1, 2))
        result = []
        for one in self._passes:
            if one.filter is None:
                result.append(place(one, parameters, start))
                start = Canvas.of(np.stack([result[-1].height, result[-1].width], axis=1))
            elif one.filter[1].moves_pixels:
                name = type(one.filter[1]).__name__
                raise checks.invalid(
                    "Compose", "masks, boxes and keypoints", f"left out where {name} moves pixels",
                    name, "Use RandomAffine or RandomRotation, which they follow.",
                )  # fmt: skip
        return result or [start]

    def to_source(
        self,
        boxes: Sequence[torch.Tensor],
        parameters: Parameters,
        sizes: Sequence[tuple[int, int]] | Counts,
    ) -> list[torch.Tensor]:
        """Boxes [N, 4] of each result, in pixels of its source image: the geometry inverted."""
        matrix = targets.total_matrix(self.canvases(parameters, sizes))
        return list(map(targets.move_boxes, boxes, matrix))

    def decoding_scale(
        self, parameters: Parameters, sizes: Sequence[tuple[int, int]] | Counts
    ) -> npt.NDArray[np.float64]:
        """How many source pixels stand for one of the result, along the axis where they are fewest.

        A decoder may reduce image n by any factor up to this without losing what the result shows;
        pass the full sizes to `apply` then. At least 1, and 1 where the first pass takes whole
        pixels, nearest ones, or a perspective.

        Shape: sizes [B, 2] (height, width) -> [B]
        """
        none = np.ones(len(parameters))
        if not self._passes or self._passes[0].filter is not None:
            return none
        start = Canvas.of(np.asarray(sizes, dtype=np.int64).reshape(-1, 2))
        first = place(self._passes[0], parameters, start)
        if first.kind == "shift" or first.resample == "nearest":
            return none
        step = np.linalg.svd(first.matrix[:, :2, :2], compute_uv=False)[:, 1]
        flat = (first.matrix[:, 2, :2] == 0).all(1)
        scale: npt.NDArray[np.float64] = np.where(flat, np.maximum(step, 1.0), 1.0)
        return scale

    def decoding_box(
        self, parameters: Parameters, sizes: Sequence[tuple[int, int]] | Counts
    ) -> npt.NDArray[np.float64]:
        """What of each source image the result depends on: top, left, bottom, right in its pixels.

        A decoder may leave anything outside, also where it reduces the image by `decoding_scale`:
        two pixels of the reduced image are given on either side. The whole image where a filter
        comes first, or a rotation or another warp.

        Shape: sizes [B, 2] (height, width) -> [B, 4]
        """
        full = np.asarray(sizes, dtype=np.float64).reshape(-1, 2)
        whole = np.concatenate([np.zeros_like(full), full], axis=1)
        if not self._passes or self._passes[0].filter is not None:
            return whole
        first = place(self._passes[0], parameters, Canvas.of(full.astype(np.int64)))
        mirrors = first.padding is not None and first.padding.mode != "constant"
        if first.kind == "warp" or mirrors:
            return whole
        return np.clip(first.read(), whole[:, [0, 1, 0, 1]], whole[:, [2, 3, 2, 3]])

    def describe(
        self,
        parameters: Parameters,
        sizes: Sequence[tuple[int, int]] | Counts | None = None,
    ) -> list[str]:
        """What happens to each image, in a line: "crop 31,12 180×164, flipped, hue +0.04".

        Args: sizes: (height, width) of each image; without them crops are given as parts
        """
        return [
            self._describe(parameters[n], None if sizes is None else sizes[n])
            for n in range(len(parameters))
        ]

    def _describe(self, one: Parameters, size: Sequence[int] | Counts | None) -> str:
        canvas = None if size is None else Canvas.of(np.array([size], dtype=np.int64))
        words = []
        for transform, draw in zip(self.transforms, one.draws, strict=True):
            if isinstance(transform, Normalize | ToDtype):
                continue
            now = None if canvas is None else (int(canvas.height[0]), int(canvas.width[0]))
            words.append(transform.describe(draw, 0, now))
            if canvas is not None and isinstance(transform, Geometric):
                canvas = transform.place(canvas, draw)
        return ", ".join(word for word in words if word) or "as it is"

    def apply(
        self,
        images: Images,
        parameters: Parameters,
        out: torch.Tensor | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> torch.Tensor:
        """The images under parameters drawn before; pure but for `out`.

        Args: out: written and returned, [B, C, h, w] of the pipeline's dtype, any strides
              sizes: (height, width) of each image before a decoder reduced it; the draws are
              resolved against these, and the crops fall on fractions of the reduced pixels
        """
        check_parameters(parameters)
        return self._apply(images, parameters, out, sizes)

    def _apply(
        self,
        images: Images,
        parameters: Parameters,
        out: torch.Tensor | None,
        sizes: Sequence[tuple[int, int]] | None,
    ) -> torch.Tensor:
        held, channels, device = check_images(images)
        if len(parameters) != len(held) or len(parameters.draws) != len(self.transforms):
            raise checks.invalid(
                "Compose.apply", "parameters", f"for {len(held)} images and {len(self.transforms)} "
                "transforms", f"{len(parameters)} and {len(parameters.draws)}",
                "Draw them with this pipeline and a key of these images.",
            )  # fmt: skip
        full = held if sizes is None else np.array(sizes, dtype=np.int64).reshape(-1, 2)
        if len(full) != len(held):
            raise checks.invalid(
                "Compose.apply", "sizes", f"one (height, width) for each of {len(held)} images",
                len(full), "Leave it out for images of their own size.",
            )  # fmt: skip
        start = Canvas.of(full, None if sizes is None else held)
        current: Images = images
        for number, one in enumerate(self._passes):
            last = number == len(self._passes) - 1
            if one.filter is not None:
                at, transform = one.filter
                transform.check_channels(channels)
                given = as_floats(current, self.kernel)
                current = transform.filter(given, parameters.draws[at])
                if is_own(transform):
                    check_own_result(transform, current, given)
            else:
                resolved = resolve(one, parameters, start, channels)
                height, width = self._result_size(resolved.canvas, len(held))
                shape = (len(held), channels, height, width)
                if last:
                    target = self._target(out, shape, device)
                else:
                    target = torch.empty(shape, dtype=torch.float32, device=device)
                kernels.run(current, resolved, target, self.kernel)
                current = target
            if not last:
                start = canvas_of(current)
        assert isinstance(current, torch.Tensor)
        return current

    def _result_size(self, canvas: Canvas, num_images: int) -> tuple[int, int]:
        if num_images == 0:
            return self.size or (0, 0)
        height, width = canvas.height, canvas.width
        if not ((height == height[0]).all() and (width == width[0]).all()):
            sizes = np.unique(np.stack([height, width], axis=1), axis=0)
            raise checks.invalid(
                "Compose", "images", "of one size after the transforms",
                " and ".join(f"{h} x {w}" for h, w in sizes[:3]),
                "Add CenterCrop, RandomCrop or Resize((height, width)).",
            )  # fmt: skip
        return int(height[0]), int(width[0])

    def _target(
        self, out: torch.Tensor | None, shape: tuple[int, ...], device: torch.device
    ) -> torch.Tensor:
        if out is None:
            layout = torch.channels_last if self.channels_last else torch.contiguous_format
            return torch.empty(shape, dtype=self.dtype, device=device, memory_format=layout)
        if tuple(out.shape) != shape or out.dtype != self.dtype or out.device != device:
            raise checks.invalid(
                "Compose.apply", "out", f"{list(shape)} {self.dtype} on {device}",
                f"{list(out.shape)} {out.dtype} on {out.device}", "Leave it out to have it made.",
            )  # fmt: skip
        return out


def _moved(masks: Masks, canvases: Sequence[Canvas], ignore_index: int) -> torch.Tensor:
    for canvas in canvases:
        masks = targets.move_masks(masks, canvas, ignore_index)
    assert isinstance(masks, torch.Tensor)
    return masks
