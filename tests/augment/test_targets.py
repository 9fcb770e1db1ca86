"""Masks, boxes and keypoints follow their images."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from toque import augment
from toque.random import Key

pytestmark = pytest.mark.usefixtures("kernel")

STEPS = {
    "crop": [augment.RandomResizedCrop(32), augment.RandomHorizontalFlip()],
    "shift": [augment.RandomCrop(40, padding=8), augment.RandomVerticalFlip()],
    "reflect": [augment.RandomCrop(40, padding=8, padding_mode="reflect")],
    "turn": [augment.RandomRotation(40, "bilinear"), augment.RandomHorizontalFlip()],
    "crop and turn": [augment.RandomResizedCrop(48), augment.RandomRotation(30, "bilinear")],
    "perspective": [augment.RandomPerspective(0.4, 1.0)],
    "two passes": [
        augment.RandomCrop(40, padding=4),
        augment.Resize((48, 60)),
        augment.CenterCrop(44),
    ],
}


def spots(batch=30, size=64):
    """Gray pictures with one smooth bright spot each, and where it is: x, y in pixels."""
    rng = np.random.default_rng(0)
    where = rng.uniform(20, 44, (batch, 2))
    at = np.arange(size) + 0.5
    y = np.exp(-((at[None, :] - where[:, 1:]) ** 2) / 8)
    x = np.exp(-((at[None, :] - where[:, :1]) ** 2) / 8)
    images = (250 * y[:, :, None] * x[:, None, :]).round().astype(np.uint8)
    return torch.from_numpy(images)[:, None], torch.from_numpy(where)


@pytest.mark.parametrize("name", STEPS)
def test_a_keypoint_stays_on_its_spot(name):
    images, where = spots()
    pipeline = augment.Compose(STEPS[name])
    result = pipeline(images, key=Key(0, 0, range(30)), keypoints=list(where[:, None]))
    height, width = result.images.shape[2:]
    ys, xs = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    checked = 0
    for image, points in zip(result.images[:, 0].double(), result.keypoints, strict=True):
        x, y = points[0].tolist()
        if not (9 < x < width - 9 and 9 < y < height - 9):
            continue
        weight = image.clamp(min=image.max() * 0.4) - image.max() * 0.4
        weight = weight * ((ys[:, None] - y) ** 2 + (xs - x) ** 2 < 9**2)
        centre_x, centre_y = (
            (weight * xs).sum() / weight.sum(),
            (weight * ys[:, None]).sum() / weight.sum(),
        )
        assert abs(centre_x - x) < 0.4 and abs(centre_y - y) < 0.4
        checked += 1
    assert checked >= 3


@pytest.mark.parametrize("name", STEPS)
def test_a_mask_covers_what_it_covered(name):
    """A picture drawn from a mask stays drawn from the mask, but for pixels at edges."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 2, (8, 8, 8)))
    masks = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    images = (masks * 255).to(torch.uint8)[:, None]
    pipeline = augment.Compose(STEPS[name])
    result = pipeline(images, key=Key(0, 0, range(8)), masks=masks, ignore_index=0)
    assert result.masks.dtype == masks.dtype
    sure = (result.images[:, 0] < 0.02) | (result.images[:, 0] > 0.98)
    drawn = (result.images[:, 0] > 0.5).long()
    assert (drawn == result.masks)[sure].float().mean() > 0.997
    assert (drawn == result.masks).float().mean() > 0.96


def test_masks_of_whole_pixels_are_exact_and_ignored_outside():
    masks = torch.arange(64 * 64).view(1, 64, 64).expand(5, -1, -1)
    images = torch.zeros(5, 1, 64, 64, dtype=torch.uint8)
    pipeline = augment.Compose([augment.RandomCrop(64, padding=16), augment.RandomHorizontalFlip()])
    result = pipeline(images, key=Key(0, 0, range(5)), masks=masks, ignore_index=-1)
    parameters = pipeline.draw(Key(0, 0, range(5)))
    for n in range(5):
        padded = F.pad(tv_tensors.Mask(masks[n : n + 1]), [16], fill=-1)
        top, left = (parameters.draws[0]["position"][n] * 33).floor().int().tolist()
        expected = F.crop(padded, top, left, 64, 64)[0]
        expected = expected.flip(1) if parameters.draws[1]["flip"][n] else expected
        assert torch.equal(result.masks[n], expected.as_subclass(torch.Tensor))


def test_masks_with_channels_and_lists():
    images = [torch.zeros(3, 40, 50, dtype=torch.uint8), torch.zeros(3, 60, 30, dtype=torch.uint8)]
    masks = [torch.ones(2, 40, 50, dtype=torch.uint8), torch.ones(2, 60, 30, dtype=torch.uint8)]
    pipeline = augment.Compose([augment.RandomResizedCrop(24)])
    result = pipeline(images, key=Key(0, 0, [0, 1]), masks=masks)
    assert result.masks.shape == (2, 2, 24, 24) and (result.masks == 1).all()


@pytest.mark.parametrize("name", STEPS)
def test_a_box_holds_its_rectangle(name):
    """Around a bright rectangle: the moved box is as tight as the picture shows."""
    images = torch.zeros(40, 1, 64, 64, dtype=torch.uint8)
    images[:, :, 24:40, 20:44] = 255
    boxes = [torch.tensor([[20.0, 24, 44, 40]])] * 40
    pipeline = augment.Compose(STEPS[name])
    result = pipeline(images, key=Key(3, 0, range(40)), boxes=boxes, min_area=0.99)
    checked = 0
    for image, box, kept in zip(result.images[:, 0], result.boxes, result.kept, strict=True):
        if not len(kept):
            continue
        rows, columns = (image > 0.5).any(1).nonzero(), (image > 0.5).any(0).nonzero()
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # The corner of a turned rectangle is thinner than a pixel.
        slack = 1.01 if name in ("crop", "shift", "reflect", "two passes") else 2.5
        assert all(abs(float(a) - float(b)) < slack for a, b in zip(box[0], seen, strict=True))
        checked += 1
    assert checked >= 1


def test_boxes_that_lose_too_much_are_left_out():
    images = torch.zeros(1, 1, 10, 20, dtype=torch.uint8)
    boxes = [torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [12, 2, 15, 5]])]
    pipeline = augment.Compose([augment.CenterCrop(10)])  # columns 5 .. 15
    result = pipeline(images, key=Key(0, 0, [0]), boxes=boxes, min_area=0.6)
    assert result.kept[0].tolist() == [1, 2]
    assert result.boxes[0].tolist() == [[0, 0, 9, 10], [7, 2, 10, 5]]


def test_geometry_can_be_inverted():
    images, _ = spots()
    pipeline = augment.Compose(STEPS["crop"])
    key = Key(0, 0, range(30))
    parameters = pipeline.draw(key)
    boxes = [torch.tensor([[30.0, 30, 34, 36]], dtype=torch.float64)] * 30
    result = pipeline(images, key=key, boxes=boxes, min_area=0.0)
    sizes = [(64, 64)] * 30
    inside = [
        n
        for n in range(30)
        if len(result.kept[n]) and result.boxes[n].min() > 0 and result.boxes[n].max() < 32
    ]
    back = pipeline.to_source(result.boxes, parameters, sizes)
    assert len(inside) > 4
    for n in inside:
        assert torch.allclose(back[n], boxes[n])


def test_no_boxes_and_no_images():
    pipeline = augment.Compose(STEPS["crop"])
    images = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    result = pipeline(images, key=Key(0, 0, [0]), boxes=[torch.empty(0, 4)])
    assert result.boxes[0].shape == (0, 4)
    none = pipeline(images[:0], key=Key(0, 0, []), boxes=[], keypoints=[])
    assert none.boxes == [] and none.keypoints == []


def test_how_far_a_decoder_may_reduce():
    pipeline = augment.Compose([augment.Resize((50, 50))])
    parameters = pipeline.draw(Key(0, 0, range(3)))
    scale = pipeline.decoding_scale(parameters, [(200, 100), (400, 400), (10, 10)])
    np.testing.assert_allclose(scale, [2, 8, 1])


def test_what_was_drawn_in_words():
    pipeline = augment.Compose(
        [
            augment.RandomResizedCrop(32),
            augment.RandomHorizontalFlip(1.0),
            augment.ColorJitter(hue=(0.04, 0.04)),
            augment.Normalize((0.5,), (0.5,)),
        ]
    )
    parameters = pipeline.draw(Key(0, 0, range(2)))
    box = pipeline.transforms[0].box(parameters.draws[0], np.array([80, 80]), np.array([60, 60]))
    top, left, height, width = box[1]
    words = pipeline.describe(parameters, [(80, 60)] * 2)
    assert words[1] == f"crop {left},{top} {width}×{height}, flipped, hue +0.04"
    assert "crop of " in pipeline.describe(parameters)[0]
    assert augment.Compose([]).describe(augment.Compose([]).draw(Key(0, 0, [0]))) == ["as it is"]


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ({"masks": torch.zeros(1, 9, 8)}, "of the size of their images, 9 x 9"),
        ({"masks": torch.zeros(2, 9, 9)}, "one for each of 1 images"),
        ({"boxes": []}, "empty tensor"),
        ({"boxes": [torch.zeros(4)]}, r"boxes must be a tensor \[N, 4\] .* got \[4\]"),
        ({"keypoints": [torch.zeros(5, 4)]}, r"keypoints must be a tensor \[N, 2\]"),
        ({"keypoints": [torch.zeros(1, 2)] * 2}, "one for each of 1"),
    ],
)
def test_each_mistake_has_its_sentence(targets, words):
    images = torch.zeros(1, 1, 9, 9, dtype=torch.uint8)
    with pytest.raises(ValueError, match=words):
        augment.Compose(STEPS["turn"])(images, key=Key(0, 0, [0]), **targets)


@pytest.mark.parametrize("box", [[30.0, 20.0, 10.0, 40.0], [10.0, 40.0, 30.0, 20.0]])
def test_boxes_of_another_convention_are_refused_with_the_way_out(box):
    boxes = [torch.tensor([[1.0, 2.0, 3.0, 4.0], box])]
    pipeline = augment.Compose([augment.RandomHorizontalFlip()])
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"left, top, right, bottom.*got \[.*box_convert"):
        pipeline(images, key=Key(0, 0, [0]), boxes=boxes)
    assert pipeline(images, key=Key(0, 0, [0]), boxes=[boxes[0][:1]]).kept[0].tolist() == [0]
