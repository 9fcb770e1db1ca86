"""The transforms against torchvision's float path with the same parameters, image by image."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from toque import augment
from toque.random import Key

pytestmark = pytest.mark.usefixtures("kernel")

LEVEL = 0.05 / 255


def pictures(batch=6, channels=3, height=37, width=53, seed=0):
    """Smooth pictures with noise, uint8."""
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.uniform(0, 255, (batch, channels, 6, 7)))
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")
    noise = torch.from_numpy(rng.normal(0, 12, (batch, channels, height, width)))
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def key(images, seed=0):
    return Key(seed, 0, np.arange(len(images)))


def unit(image):
    return F.to_dtype(image, torch.float32, scale=True)


@pytest.mark.parametrize("size", [16, (24, 31), (80, 90)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_random_resized_crop(size, interpolation):
    images = pictures()
    crop = augment.RandomResizedCrop(size, interpolation=interpolation)
    pipeline = augment.Compose([crop])
    parameters = pipeline.draw(key(images))
    sizes = np.tile([37, 53], (6, 1))
    boxes = crop.box(parameters.draws[0], sizes[:, 0], sizes[:, 1])
    result = pipeline.apply(images, parameters)
    mode = v2.InterpolationMode(interpolation)
    out_size = [size, size] if isinstance(size, int) else list(size)
    for image, box, got in zip(images, boxes.tolist(), result, strict=True):
        expected = F.resized_crop(unit(image), *box, out_size, interpolation=mode, antialias=True)
        assert (got - expected).abs().max() < LEVEL


def resized(images, size):
    """torchvision's resize, an axis at a time and never one pixel wide.

    torch 2.14 repeats the first row of images one pixel wide instead of resizing their height.
    """

    def rows(images, number):
        width = images.shape[3]
        wide = images.expand(-1, -1, -1, 2) if width == 1 else images
        return F.resize(wide, [number, max(width, 2)], antialias=True)[..., :width]

    return rows(rows(images, size[0]).mT, size[1]).mT


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    flip=st.booleans(),
    channels=st.sampled_from([1, 3, 4, 7]),
)
@settings(max_examples=60)
def test_resize_and_flip_of_any_size(height, width, size, flip, channels):
    images = pictures(2, channels, height, width)
    steps = [augment.Resize(size), augment.RandomHorizontalFlip(float(flip))]
    result = augment.Compose(steps)(images, key=key(images))
    expected = resized(unit(images), size)
    expected = F.horizontal_flip(expected) if flip else expected
    assert (result - expected).abs().max() < LEVEL


@pytest.mark.parametrize(("height", "width"), [(64, 80), (80, 64), (64, 64), (20, 300), (33, 31)])
def test_resize_then_centre_crop(height, width):
    images = pictures(2, 3, height, width)
    ours = augment.Compose([augment.Resize(40), augment.CenterCrop(35)])
    theirs = v2.Compose([v2.Resize(40, antialias=True), v2.CenterCrop(35)])
    assert (ours(images, key=key(images)) - theirs(unit(images))).abs().max() < LEVEL
    assert len(ours.plan().splitlines()) == 1


def test_resize_with_a_largest_side():
    images = pictures(2, 3, 30, 300)
    theirs = v2.Resize(40, max_size=100, antialias=True)(unit(images))
    ours = augment.Compose([augment.Resize(40, max_size=100)])(images, key=key(images))
    assert (ours - theirs).abs().max() < LEVEL


@pytest.mark.parametrize("size", [20, 37, 60, (61, 20)])
def test_centre_crop_pads_small_images_with_black(size):
    images = pictures()
    ours = augment.Compose([augment.CenterCrop(size)])(images, key=key(images))
    assert torch.equal(ours, v2.CenterCrop(size)(unit(images)))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "symmetric"])
@pytest.mark.parametrize("padding", [4, (1, 5), (0, 1, 2, 3)])
def test_random_crop_with_padding_and_flips(mode, padding):
    images = pictures()
    crop = augment.RandomCrop((30, 41), padding=padding, fill=51, padding_mode=mode)
    pipeline = augment.Compose([crop, augment.RandomHorizontalFlip(), augment.RandomVerticalFlip()])
    parameters = pipeline.draw(key(images))
    result = pipeline.apply(images, parameters)
    place, across, down = parameters.draws
    corners = set()
    for n, image in enumerate(images):
        sides = [padding] if isinstance(padding, int) else list(padding)
        padded = F.pad(unit(image), sides, fill=51 / 255, padding_mode=mode)
        free = torch.tensor([padded.shape[1] - 30 + 1, padded.shape[2] - 41 + 1])
        top, left = (place["position"][n] * free).floor().int().tolist()
        corners.add((top, left))
        expected = F.crop(padded, top, left, 30, 41)
        expected = F.horizontal_flip(expected) if across["flip"][n] else expected
        expected = F.vertical_flip(expected) if down["flip"][n] else expected
        assert (result[n] - expected).abs().max() < 1e-6
    assert len(corners) > 3


def test_pad_if_needed():
    images = pictures(3, 3, 20, 60)
    crop = augment.RandomCrop(32, pad_if_needed=True, fill=7)
    result = augment.Compose([crop], dtype=torch.uint8)(images, key=key(images))
    assert result.shape == (3, 3, 32, 32)
    assert (result == 7).all(3).all(1).sum(1).eq(12).all()  # 32 - 20 rows are border


CHAINS = [
    ("brightness", 0.8),
    ("contrast", 0.8),
    ("saturation", 0.8),
    ("hue", 0.5),
]
ADJUST = {
    augment.color.Operation.BRIGHTNESS: F.adjust_brightness,
    augment.color.Operation.CONTRAST: F.adjust_contrast,
    augment.color.Operation.SATURATION: F.adjust_saturation,
    augment.color.Operation.HUE: F.adjust_hue,
}


@pytest.mark.parametrize("fields", [*[[chain] for chain in CHAINS], CHAINS])
@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter(fields, channels):
    images = pictures(12, channels)
    jitter = augment.ColorJitter(**dict(fields))
    pipeline = augment.Compose([jitter])
    parameters = pipeline.draw(key(images))
    codes, factors = jitter.operations(parameters.draws[0])
    result = pipeline.apply(images, parameters)
    for n, image in enumerate(images):
        expected = unit(image)
        for code, factor in zip(codes[n], factors[n], strict=True):
            expected = ADJUST[code](expected, float(factor))
        assert (result[n] - expected).abs().max() < LEVEL
    if len(fields) == 4:
        assert len({tuple(row) for row in codes.tolist()}) > 6  # many orders


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (augment.RandomGrayscale(1.0), lambda x: F.rgb_to_grayscale(x, 3)),
        (augment.RandomInvert(1.0), F.invert),
        (augment.RandomSolarize(96.0, 1.0), lambda x: F.solarize(x, 96 / 255)),
    ],
)
def test_pointwise(ours, theirs):
    images = pictures()
    result = augment.Compose([ours])(images, key=key(images))
    assert (result - theirs(unit(images))).abs().max() < LEVEL


@pytest.mark.parametrize("bits", [0, 1, 3, 7, 8])
def test_posterize_keeps_the_bits_of_a_uint8_image(bits):
    """In levels of a uint8 image, as torchvision's float path scales them: k / 2**bits."""
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    result = augment.Compose([augment.RandomPosterize(bits, 1.0)])(images, key=key(images))
    if bits == 0:
        assert (result == 0).all()
        return
    assert result.unique().numel() == 2**bits
    theirs = F.posterize(unit(images), bits)
    assert (result - theirs).abs().gt(LEVEL).float().mean() <= 1 / 64  # rounding at a level's edge


def test_normalize():
    images = pictures()
    ours = augment.Compose([augment.Normalize((0.1, 0.5, 0.9), (0.2, 0.3, 0.4))])
    expected = F.normalize(unit(images), [0.1, 0.5, 0.9], [0.2, 0.3, 0.4])
    assert (ours(images, key=key(images)) - expected).abs().max() < 5 * LEVEL


@pytest.mark.parametrize("first", [True, False])
def test_random_erasing_before_and_after_normalize(first):
    images = pictures(30)
    erasing = augment.RandomErasing(1.0, value=(0.1, 0.2, 0.3))
    normalize = augment.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    steps = [erasing, normalize] if first else [normalize, erasing]
    pipeline = augment.Compose(steps)
    parameters = pipeline.draw(key(images))
    draw = parameters.draws[0 if first else 1]
    boxes = erasing.rectangles(draw, np.full(30, 37), np.full(30, 53)).tolist()
    result = pipeline.apply(images, parameters)
    fill = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    for n, image in enumerate(images):
        erase = lambda x, box=boxes[n]: F.erase(x, *box, fill)  # noqa: E731
        normalized = lambda x: F.normalize(x, [0.5] * 3, [0.25] * 3)  # noqa: E731
        steps = [erase, normalized] if first else [normalized, erase]
        expected = steps[1](steps[0](unit(image)))
        assert (result[n] - expected).abs().max() < 5 * LEVEL
    edges = np.array([(top, left, 37 - top - h, 53 - left - w) for top, left, h, w in boxes])
    assert edges.min() >= 0  # whole rectangles inside the picture
    area = np.array([h * w for _, _, h, w in boxes]) / (37 * 53)
    assert area.min() > 0.01 and area.max() < 0.35


def test_the_sampling_of_crops_is_that_of_torchvision():
    """Means of area and ratio over many draws, within four standard errors."""
    number = 3000
    crop = augment.RandomResizedCrop(32)
    draw = crop.draw(Key(0, 0, np.arange(number)).uniforms({"c": crop.num_numbers})["c"], None)
    height, width = np.full(number, 60), np.full(number, 90)
    ours = crop.box(draw, height, width).astype(float)
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(32)
    sampled = [theirs.make_params([torch.empty(3, 60, 90)]) for _ in range(number)]
    other = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in sampled], float)
    for column in range(4):
        spread = np.hypot(ours[:, column].std(), other[:, column].std()) / np.sqrt(number)
        assert abs(ours[:, column].mean() - other[:, column].mean()) < 4 * spread


def inner(tensor, margin=2):
    return tensor[..., margin:-margin, margin:-margin]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("center", [None, (10.0, 20.0)])
@pytest.mark.parametrize("fill", [0, 102])
def test_rotation(interpolation, center, fill):
    images = pictures()
    turn = augment.RandomRotation(40, interpolation=interpolation, center=center, fill=fill)
    pipeline = augment.Compose([turn])
    parameters = pipeline.draw(key(images))
    result = pipeline.apply(images, parameters)
    mode = v2.InterpolationMode(interpolation)
    for n, image in enumerate(images):
        degrees = float(parameters.draws[0]["degrees"][n])
        turned = lambda x, o=degrees, **k: F.rotate(x, o, interpolation=mode, center=center, **k)  # noqa: E731
        expected = turned(unit(image), fill=fill / 255)
        # At the border torchvision weights the fill twice; a pixel that no border touches is equal.
        touched = turned(torch.ones(1, 37, 53), fill=0.0) < 0.999
        outside = turned(torch.ones(1, 37, 53), fill=0.0) == 0
        different = (result[n] - expected).abs().amax(0, keepdim=True)
        if interpolation == "bilinear":
            assert different[~touched].max() < 0.1 / 255
            assert different[outside].lt(LEVEL).all()
        else:
            assert (different > LEVEL).float().mean() < 0.002  # coordinates at an edge round apart


def test_rotation_by_a_right_angle_with_expand_moves_whole_pixels():
    images = pictures()
    turn = augment.Compose([augment.RandomRotation((90, 90), expand=True)], dtype=torch.uint8)
    assert torch.equal(turn(images, key=key(images)), images.rot90(1, (2, 3)))


def test_rotation_with_expand_has_the_size_of_torchvision():
    images = pictures(4, 3, 36, 54)
    for degrees in (10, 33, 120):
        turn = augment.RandomRotation((degrees, degrees), "bilinear", expand=True)
        result = augment.Compose([turn])(images, key=key(images))
        expected = F.rotate(unit(images), degrees, v2.InterpolationMode.BILINEAR, expand=True)
        assert result.shape == expected.shape
        assert inner(result - expected, 20).abs().max() < 0.1 / 255


def test_affine():
    images = pictures()
    move = augment.RandomAffine(
        30,
        translate=(0.2, 0.3),
        scale=(0.95, 1.6),
        shear=(-10, 10, -5, 5),
        interpolation="bilinear",
    )
    pipeline = augment.Compose([move])
    parameters = pipeline.draw(key(images))
    result = pipeline.apply(images, parameters)
    draw = parameters.draws[0]
    for n, image in enumerate(images):
        x, y = (draw["translate"][n] * torch.tensor([53, 37])).round().int().tolist()
        moved = lambda t, n=n, x=x, y=y: F.affine(  # noqa: E731
            t,
            float(draw["degrees"][n]),
            [x, y],
            float(draw["scale"][n]),
            draw["shear"][n].tolist(),
            v2.InterpolationMode.BILINEAR,
        )
        whole = moved(torch.ones(1, 37, 53)) > 0.999
        different = (result[n] - moved(unit(image))).abs().amax(0, keepdim=True)
        assert whole.any() and different[whole].max() < 0.15 / 255


def test_perspective():
    images = pictures(8)
    pipeline = augment.Compose([augment.RandomPerspective(0.4, p=1.0)])
    parameters = pipeline.draw(key(images))
    result = pipeline.apply(images, parameters)
    reach = torch.tensor([int(0.4 * 26) + 1, int(0.4 * 18) + 1])
    for n, image in enumerate(images):
        inwards = (parameters.draws[0]["corners"][n] * reach).floor().int()
        far = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]])
        start = far * torch.tensor([52, 36])
        end = start + torch.where(far == 1, -inwards, inwards)
        points = start.tolist(), end.tolist()
        whole = F.perspective(torch.ones(1, 37, 53), *points, fill=0.0) > 0.999
        expected = F.perspective(unit(image), *points, fill=0.0)
        different = (result[n] - expected).abs().amax(0, keepdim=True)
        # Where the picture shrinks, ours is anti-aliased: compare where it does not.
        if augment.kernels.reference.reduction(_canvas(pipeline, parameters, n)).max() == 1:
            assert different[whole].max() < 0.2 / 255


def _canvas(pipeline, parameters, n):
    start = augment.canvas.Canvas.of(np.array([[37, 53]]))
    return pipeline.transforms[0].place(start, parameters[n].draws[0])


def test_a_resized_crop_that_is_turned_is_resampled_once():
    """Against a picture sampled six times finer and averaged: closer than two resamples are."""
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.uniform(0, 255, (1, 3, 90, 120)))
    image = torch.nn.functional.interpolate(small, (375, 500), mode="bicubic").clamp(0, 255)
    image = image.to(torch.uint8)

    def ours(size):
        steps = [augment.Resize((size, size)), augment.RandomRotation((15, 15), "bilinear")]
        return augment.Compose(steps)(image, key=Key(0, 0, [0]))

    truth = F.resize(ours(6 * 112), [112, 112], antialias=True)
    resized = F.resize(unit(image), [112, 112], antialias=True)
    theirs = F.rotate(resized, 15, v2.InterpolationMode.BILINEAR)
    error = {
        name: float(inner(result - truth, 20).square().mean())
        for name, result in (("ours", ours(112)), ("theirs", theirs))
    }
    assert error["ours"] < 0.7 * error["theirs"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: augment.RandomRotation(-5), "low, high"),
        (lambda: augment.RandomRotation(5, "bicubic"), "bilinear"),
        (lambda: augment.RandomAffine(5, translate=(2, 0)), "parts in"),
        (lambda: augment.RandomAffine(5, scale=(0, 1)), "above 0"),
        (lambda: augment.RandomAffine(5, shear=(1, 2, 3)), "2 or 4"),
        (lambda: augment.RandomPerspective(2.0), "distortion_scale"),
    ],
)
def test_each_mistake_has_its_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
