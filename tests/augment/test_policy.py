"""Policies against torchvision's operations, scales and tables; choices among transforms."""

import inspect

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.autoaugment import AutoAugmentPolicy
from torchvision.transforms.v2 import functional as F

from toque import augment
from toque.augment import operations, policy
from toque.augment.found_policies import POLICIES
from toque.augment.operations import OPERATIONS
from toque.random import Key

pytestmark = pytest.mark.usefixtures("kernel")

HEIGHT, WIDTH = 40, 56


def pictures(batch=1, channels=3):
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.uniform(0, 255, (batch, channels, 7, 7)))
    smooth = torch.nn.functional.interpolate(small, (HEIGHT, WIDTH), mode="bicubic")
    return smooth.clamp(0, 255).to(torch.uint8)


def unit(images):
    return F.to_dtype(images, torch.float32, scale=True)


STRENGTHS = {
    "Identity": [0.0], "ShearX": [0.29, -0.21], "ShearY": [0.3, -0.1], "TranslateX": [7.6, -12.0],
    "TranslateY": [5.0, -9.9], "Rotate": [30.0, -17.0], "Brightness": [0.9, -0.5], "Color": [0.9, -0.9],
    "Contrast": [0.4, -0.6], "Sharpness": [0.9, -0.9], "Posterize": [4.0, 7.0, 0.0],
    "Solarize": [0.0, 0.5, 1.0], "AutoContrast": [0.0], "Equalize": [0.0], "Invert": [0.0],
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_what_torchvision_does(name, interpolation, channels):
    images = unit(pictures(channels=channels))
    theirs = v2.RandAugment()
    for strength in STRENGTHS[name]:
        ours = operations.perform(
            images,
            np.array([OPERATIONS.index(name)]),
            np.array([strength]),
            interpolation,
            128,
            True,
        )
        mode = InterpolationMode(interpolation)
        fill = {type(images): 128 / 255, torch.Tensor: 128 / 255}
        expected = theirs._apply_image_or_video_transform(images, name, strength, mode, fill)
        different = (ours - expected).abs() > 0.1 / 255
        # Nearest pixels at a tie, and the border that torchvision blends twice with the fill.
        geometric = name.startswith(("Shear", "Translate", "Rotate"))
        assert different.float().mean() <= (
            0.05 if geometric else 0.02 if name == "Posterize" else 0
        )


def test_the_scales_are_those_of_torchvision():
    for ours, theirs, bins in [
        (operations.usual_scale(31), v2.RandAugment()._AUGMENTATION_SPACE, 31),
        (operations.usual_scale(10), v2.AutoAugment()._AUGMENTATION_SPACE, 10),
        (augment.TrivialAugmentWide()._scale(), v2.TrivialAugmentWide()._AUGMENTATION_SPACE, 31),
        (augment.AugMix()._scale(), v2.AugMix()._AUGMENTATION_SPACE, 10),
        (augment.AugMix(all_ops=False)._scale(), v2.AugMix()._PARTIAL_AUGMENTATION_SPACE, 10),
    ]:
        assert set(theirs) - {"Invert"} == set(ours) - {"Identity"} | ({"Identity"} & set(theirs))
        for name, values in ours.items():
            if name not in theirs:
                continue
            make, signed = theirs[name]
            assert signed == (name in operations._SIGNED)
            expected = make(bins, HEIGHT, WIDTH)
            if values is None:
                assert expected is None
                continue
            pixels = {"TranslateX": WIDTH, "TranslateY": HEIGHT}.get(name, 1)
            if ours[name].max() > 1 and name.startswith("Translate"):
                pixels = 1
            np.testing.assert_allclose(values * pixels, expected.numpy(), atol=1e-5)


def test_the_tables_of_autoaugment_are_those_of_torchvision():
    for found in AutoAugmentPolicy:
        assert [tuple(pair) for pair in v2.AutoAugment(found)._policies] == list(
            POLICIES[found.value]
        )


POLICY = [
    augment.RandAugment(),
    augment.RandAugment(3, 20, interpolation="bilinear", fill=99),
    augment.TrivialAugmentWide(),
    augment.AutoAugment("cifar10"),
    augment.AutoAugment(AutoAugmentPolicy.SVHN),
    augment.AugMix(),
    augment.AugMix(alpha=0.3, chain_depth=2, mixture_width=2),
    augment.RandomApply([augment.ColorJitter(0.4), augment.RandomHorizontalFlip(1.0)], 0.5),
    augment.RandomChoice(
        [augment.GaussianBlur(3), augment.RandomRotation(40), augment.RandomInvert(1.0)]
    ),
]


@pytest.mark.parametrize("transform", POLICY, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_gets_the_same_pixels_in_any_batch(transform, channels):
    images = pictures(16, channels)
    pipeline = augment.Compose(
        [augment.RandomResizedCrop(32), transform, augment.Normalize((0.5,), (0.5,))]
    )
    key = Key(0, 0, range(16))
    whole = pipeline(images, key=key)
    assert whole.shape == (16, channels, 32, 32) and whole.isfinite().all()
    last = images.contiguous(memory_format=torch.channels_last)
    plain = augment.Compose([transform])
    assert torch.equal(plain(last, key=key), plain(images, key=key))
    for n in (0, 5, 15):
        assert torch.equal(pipeline(images[n : n + 1], key=key[n : n + 1])[0], whole[n])
    same = pipeline(images[:1].expand(16, -1, -1, -1), key=key)
    assert len({picture.numpy().tobytes() for picture in same}) == 16
    assert pipeline(images[:0], key=Key(0, 0, [])).shape == (0, channels, 32, 32)


def drawn(transform, number=6000):
    numbers = Key(0, 0, np.arange(number)).uniforms({"p": transform.num_numbers})["p"]
    return {name: values.numpy() for name, values in transform.draw(numbers, None).items()}


def test_operations_are_drawn_evenly_and_signs_by_a_coin():
    draw = drawn(augment.RandAugment())
    counts = np.bincount(draw["operation"].ravel(), minlength=len(OPERATIONS))
    assert counts[OPERATIONS.index("Invert")] == 0
    assert abs(counts[:14] - 12000 / 14).max() < 5 * np.sqrt(12000 / 14)
    turned = draw["strength"][draw["operation"] == OPERATIONS.index("Rotate")]
    assert set(np.round(turned, 6)) == {-9.0, 9.0}
    assert abs((turned > 0).mean() - 0.5) < 0.07
    wide = drawn(augment.TrivialAugmentWide())
    rotations = wide["strength"][wide["operation"] == OPERATIONS.index("Rotate")]
    assert rotations.min() < -120 and rotations.max() > 120


def test_augmix_weights_are_those_of_its_distributions():
    draw = drawn(augment.AugMix())
    np.testing.assert_allclose(draw["share"].sum(1), 1)
    # Beta(1, 1) is even; a Dirichlet of ones has mean 1/3 and variance 1/18.
    assert abs(draw["own"].mean() - 0.5) < 0.02 and abs(draw["own"].var() - 1 / 12) < 0.004
    assert abs(draw["share"].mean(0) - 1 / 3).max() < 0.02
    assert abs(draw["share"].var(0) - 1 / 18).max() < 0.004
    gamma = policy._gamma(Key(0, 0, np.arange(20000)).uniform("g")[:, 0].double().numpy(), 0.4)
    assert abs(gamma.mean() - 0.4) < 0.02 and abs(gamma.var() - 0.4) < 0.05


def test_random_apply_and_choice_do_what_they_drew():
    images = pictures(40)
    key = Key(0, 0, range(40))
    apply = augment.Compose([augment.RandomApply([augment.RandomInvert(1.0)], 0.3)])
    done = apply.draw(key).draws[0]["apply"]
    expected = torch.where(done[:, None, None, None], 1 - unit(images), unit(images))
    assert (apply(images, key=key) - expected).abs().max() < 1e-6 and 4 < int(done.sum()) < 20
    steps = [augment.RandomInvert(1.0), augment.RandomHorizontalFlip(1.0)]
    choice = augment.Compose([augment.RandomChoice(steps, p=[3, 1])])
    chosen = choice.draw(key).draws[0]["chosen"]
    expected = torch.where(
        (chosen == 0)[:, None, None, None], 1 - unit(images), unit(images).flip(3)
    )
    assert (choice(images, key=key) - expected).abs().max() < 1e-6 and 3 < int(chosen.sum()) < 19


def test_arguments_and_defaults_are_those_of_torchvision():
    """A list of transforms ports by changing the import; what differs is named here."""
    more = {"RandomErasing": {"inplace"}, "Normalize": {"inplace"}, "AutoAugment": set(), "Lambda": {"types"},
            "RandomResizedCrop": set(), "ToDtype": set(), "GaussianNoise": set()}  # fmt: skip
    for name in augment.__all__:
        theirs = getattr(v2, name, None)
        if theirs is None or name in ("Compose", "MixUp", "CutMix"):
            continue
        ours = inspect.signature(getattr(augment, name)).parameters
        for argument, given in inspect.signature(theirs).parameters.items():
            if given.kind in (given.VAR_POSITIONAL, given.VAR_KEYWORD) or argument in more.get(
                name, set()
            ):
                continue
            if name == "Lambda":
                continue
            assert argument in ours, (name, argument)
            default = getattr(given.default, "value", given.default)
            mine = ours[argument].default
            if argument in ("fill", "size", "dtype"):
                continue  # fill: None there is 0 here
            if isinstance(mine, tuple) or isinstance(default, tuple | list):
                assert tuple(mine) == tuple(default), (name, argument)
            else:
                assert mine == default, (name, argument, mine, default)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: augment.RandAugment(magnitude=31), "0 .. 30"),
        (lambda: augment.RandAugment(num_ops=0), "num_ops"),
        (lambda: augment.RandAugment(interpolation="bicubic"), "Use bilinear"),
        (lambda: augment.AutoAugment("imagnet"), "Did you mean imagenet"),
        (lambda: augment.AugMix(severity=11), "1 .. 10"),
        (lambda: augment.TrivialAugmentWide(1), ">= 2"),
        (lambda: augment.RandomApply([]), "at least one"),
        (lambda: augment.RandomApply([augment.Normalize((0,), (1,))]), "beside this transform"),
        (lambda: augment.RandomChoice([augment.RandomInvert()], p=[1, 2]), "1 weights"),
        (
            lambda: augment.Compose([augment.RandomApply([augment.Resize((9, 9))], 1.0)])(
                pictures(), key=Key(0, 0, [0])
            ),
            "keep the size",
        ),
        (
            lambda: augment.Compose([augment.RandAugment()])(
                torch.zeros(1, 4, 9, 9), key=Key(0, 0, [0])
            ),
            "gray or RGB",
        ),
        (
            lambda: augment.Compose([augment.RandAugment()])(
                pictures(), key=Key(0, 0, [0]), masks=torch.zeros(1, HEIGHT, WIDTH)
            ),
            "RandAugment moves pixels",
        ),
    ],
)
def test_each_mistake_has_its_sentence(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()
