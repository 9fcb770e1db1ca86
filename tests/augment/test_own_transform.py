"""A transform of the caller's own that draws or makes no numbers is named, with the image."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from toque import augment
from toque.augment.transform import Filter
from toque.random import Key

KEY = Key(0, 0, [40, 41, 42])


@dataclass(frozen=True)
class Divided(Filter):
    """Each image divided by what was drawn for it, or by a number given."""

    by: float = 1.0
    drawn: float = 1.0
    flat: bool = False

    @property
    def num_numbers(self):
        return 1

    def draw(self, numbers, key):
        by = torch.ones(len(numbers))
        by[1] = self.drawn
        return {"by": by}

    def filter(self, images, draw):
        result = images / draw["by"][:, None, None, None].to(images)
        result[2] = images[2] / self.by
        return result.mean(1) if self.flat else result


def images():
    return torch.zeros(3, 3, 4, 4, dtype=torch.uint8)


def test_what_is_no_number_is_named_with_its_image():
    with pytest.raises(ValueError, match=r"Divided draws as by must be finite; got .* image 41\."):
        augment.Compose([Divided(drawn=float("nan"))])(images(), key=KEY)
    with pytest.raises(ValueError, match=r"Divided gives must be finite; got .* in image 2 of 3\."):
        augment.Compose([Divided(by=0.0)])(images(), key=KEY)
    with pytest.raises(
        ValueError, match=r"Divided gives must be of shape \[3, 3, 4, 4\]; got \[3,"
    ):
        augment.Compose([Divided(flat=True)])(images(), key=KEY)


def test_inside_a_choice_too():
    pipeline = augment.Compose([augment.RandomApply([Divided(by=0.0)], p=1.0)])
    with pytest.raises(ValueError, match="Divided gives must be finite"):
        pipeline(images(), key=KEY)


def test_pixels_that_were_no_numbers_before_are_not_its_fault():
    given = torch.zeros(3, 3, 4, 4)
    given[0, 0, 0, 0] = float("nan")
    result = augment.Compose([Divided()])(given, key=KEY)
    assert torch.isnan(result[0]).any() and not torch.isnan(result[1:]).any()
