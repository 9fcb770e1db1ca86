"""The one pass over the pixels: `reference` defines it, the others do the same faster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from toque import checks
from toque.augment import noise
from toque.augment.kernels import cpu, cuda, reference
from toque.augment.kernels.resolved import Resolved
from toque.random import Sweep

# On the CPU the reference runs over parts of a batch that stay in the cache.
_ELEMENTS_AT_ONCE = 2**18


def available() -> tuple[str, ...]:
    """The kernels this machine can run on CPU tensors, the fastest last."""
    return ("reference", *(("cuda",) if cuda.is_interpreted() else ()), *cpu.levels())


def check(where: str, kernel: str) -> None:
    """Raises ValueError for a kernel this machine does not have."""
    if kernel == "cuda" and torch.cuda.is_available():
        return
    if kernel not in ("auto", *available()):
        raise checks.invalid(
            where, "kernel", f"auto or one of {', '.join(available())} on this machine", kernel,
            "Use auto, which takes the fastest.",
        )  # fmt: skip


def sweep() -> Sweep | None:
    """What draws the numbers of a batch in C, or None where the library is not built."""
    return cpu.sweep if cpu.levels() else None


def run(
    images: torch.Tensor | Sequence[torch.Tensor],
    resolved: Resolved,
    out: torch.Tensor,
    kernel: str = "auto",
    which: npt.NDArray[np.int64] | None = None,
) -> None:
    """One pass over a batch or a list of images, into out.

    Args: which: rows of a batch that are read, and of out that are written; all unless given
    """
    if out.numel() == 0 or (which is not None and not len(which)):
        return
    if kernel == "auto":
        kernel = available()[-1] if out.device.type == "cpu" else "cuda"
    if kernel == "cuda" and not (out.is_cuda or cuda.is_interpreted()):
        raise checks.invalid(
            "Compose", "kernel", "auto, or one for the CPU, for images on the CPU", kernel,
            "Move the images to the GPU first.",
        )  # fmt: skip
    if kernel == "cuda" and cuda.serves(images, out):
        cuda.run(images, resolved, out, which)
    elif kernel in cpu.levels() and out.device.type == "cpu":
        cpu.run(images, resolved, out, kernel, which)
    elif which is not None:
        assert isinstance(images, torch.Tensor)
        rows = torch.from_numpy(which).to(out.device)
        part = torch.empty_like(out[rows])
        run(images[rows], resolved, part, kernel)
        out.index_copy_(0, rows, part)
    elif isinstance(images, torch.Tensor):
        per_image = max(images[:1].numel(), out[:1].numel())
        step = len(images) if images.is_cuda else max(1, _ELEMENTS_AT_ONCE // per_image)
        for first in range(0, len(images), step):
            some = slice(first, first + step)
            reference.run(images[some], resolved[some], out[some])
    else:
        for number, image in enumerate(images):
            some = slice(number, number + 1)
            reference.run(image[None], resolved[some], out[some])
    _fill_with_noise(out, resolved)


def _fill_with_noise(out: torch.Tensor, resolved: Resolved) -> None:
    """Rectangles with a number of its own in each value; rare, so the same for all kernels."""
    for number, seed in resolved.noisy:
        for image, (top, left, height, width) in enumerate(resolved.rectangles[:, number].tolist()):
            if height * width:
                num = out.shape[1] * height * width
                values = noise.normal(seed[image : image + 1], num, out.device)
                part = out[image, :, top : top + height, left : left + width]
                part.copy_(values.view_as(part))
