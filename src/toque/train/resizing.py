"""The size of the training images as a function of images seen: small ones first, for speed.

A phase is a stretch of the run with one size; it begins with a batch, so every batch has one size,
on every rank, and a run that is continued in the middle of a phase knows it from its count of
images alone. The draws do not depend on the size: the crop of an image in an epoch is the same
part of it at 128 pixels and at 224.

Source: Howard, "Training Imagenet in 3 hours for $25" (fast.ai, 2018); Touvron 2019,
        arXiv:1906.06423 (FixRes): train smaller than you validate
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from toque import checks
from toque.train.run import Run
from toque.train.settings.images import ResizeSettings

_UNTIL_FRACTION = 0.8
_MOST_COMPILED = 6  # torch.compile gives up on a network after 8 graphs, two are for validation


@dataclass(frozen=True)
class Phase:
    """From `start_images` on, images of `size_px`."""

    start_images: int
    size_px: int


def phases(run: Run, num_images: int) -> tuple[Phase, ...]:
    """The phases of a run with resolved settings, the first from image 0.

    Args: num_images: in an epoch
    """
    asked, size = run.resize, run.image_size or 1
    if asked.from_px is None:
        return (Phase(0, size),)
    last, until = asked.to_px, asked.until_epoch
    assert last is not None and until is not None, "resolve fills them in"
    found = {0: asked.from_px}
    for one in _sizes(asked.from_px, last, asked.step_px)[1:]:
        share = (one - asked.from_px) / (last - asked.from_px)
        epoch = asked.begin_epoch + share * (until - asked.begin_epoch)
        batches = math.ceil(epoch * num_images / run.batch_size - 1e-9)
        found[batches * run.batch_size] = one  # of two that begin at once the larger stays
    return tuple(Phase(start, size_px) for start, size_px in found.items())


def size_at(run: Run, num_images: int, images_seen: int) -> int:
    """The size of the batch that begins after so many images."""
    return [one for one in phases(run, num_images) if one.start_images <= images_seen][-1].size_px


def stretches(
    run: Run, num_images: int, start_images: int, stop_images: int
) -> Iterator[tuple[int, int, int]]:
    """The parts of start_images .. stop_images that have one size: (start, stop, size)."""
    known = phases(run, num_images)
    ends = [one.start_images for one in known[1:]] + [stop_images]
    for phase, end in zip(known, ends, strict=True):
        start, stop = max(start_images, phase.start_images), min(stop_images, end)
        if start < stop:
            yield start, stop, phase.size_px


def sizes(run: Run) -> tuple[int, ...]:
    """Every size that training images have in a run with resolved settings, the smallest first."""
    asked, size = run.resize, run.image_size or 1
    if asked.from_px is None:
        return (size,)
    assert asked.to_px is not None
    return tuple(_sizes(asked.from_px, asked.to_px, asked.step_px))


def _sizes(first: int, last: int, step: int) -> list[int]:
    between = range((first // step + 1) * step, last, step)
    return [first, *between, *([last] if last > first else [])]


def resolved(run: Run, image_size: int, augment: str) -> ResizeSettings:
    """The settings with what is unset filled in.

    Raises: ValueError: sizes that do not grow or exceed image_size, epochs out of order, more sizes
            than torch.compile keeps, images that are not resized at all
    """
    asked = run.resize
    if asked.from_px is None:
        given = asked.model_fields_set - {"from_px", "step_px"}
        if any(getattr(asked, name) not in (None, 0) for name in given):
            raise checks.invalid(
                "run.toml [resize]", "from_px", f"given with {min(given)}", "nothing",
                "Give the size to begin with.",
            )  # fmt: skip
        return asked
    if augment == "off":
        raise checks.invalid(
            "run.toml [resize]", "from_px", "left out where augment is off", asked.from_px,
            "Without a pipeline nobody resizes: choose another augment.",
        )  # fmt: skip
    last = asked.to_px or image_size
    if not asked.from_px <= last <= image_size:
        wrong = "to_px" if last > image_size else "from_px"
        rule = f"at most image_size, {image_size}" if wrong == "to_px" else f"at most to_px, {last}"
        raise checks.invalid(
            "run.toml [resize]", wrong, rule, getattr(asked, wrong),
            f"Lower it, or raise {'image_size' if wrong == 'to_px' else 'to_px or image_size'}.",
        )  # fmt: skip
    until = asked.until_epoch
    if until is None:
        until = max(asked.begin_epoch, _UNTIL_FRACTION * run.epochs)
    if not asked.begin_epoch <= until <= run.epochs:
        raise checks.invalid(
            "run.toml [resize]", "begin_epoch and until_epoch",
            f"begin_epoch <= until_epoch <= epochs, {run.epochs:g}",
            f"{asked.begin_epoch:g} and {until:g}", "Training must end at the largest size.",
        )  # fmt: skip
    found = _sizes(asked.from_px, last, asked.step_px)
    if run.compile and len(found) > _MOST_COMPILED:
        raise checks.invalid(
            "run.toml [resize]", "step_px", f"so large that {_MOST_COMPILED} sizes do, as each is "
            "compiled", f"{asked.step_px}, which makes {len(found)}",
            f"Set resize.step_px={-(-(last - asked.from_px) // (_MOST_COMPILED - 1) // 32) * 32}.",
        )  # fmt: skip
    return asked.model_copy(update={"to_px": last, "until_epoch": until})
