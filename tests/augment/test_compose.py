"""A pipeline as a whole: one draw an image, any batch, any input, every error."""

import numpy as np
import pytest
import torch
from safetensors import torch as safetensors

from toque import augment
from toque.random import Key

pytestmark = pytest.mark.usefixtures("kernel")


def pictures(batch=5, channels=3, height=40, width=48):
    rng = np.random.default_rng(3)
    return torch.from_numpy(rng.integers(0, 256, (batch, channels, height, width), dtype=np.uint8))


def full(**options):
    return augment.Compose(
        [
            augment.RandomResizedCrop(32),
            augment.RandomHorizontalFlip(),
            augment.ColorJitter(0.4, 0.4, 0.4, 0.1),
            augment.Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.3)),
            augment.RandomErasing(),
        ],
        **options,
    )


SHIFT = augment.Compose([augment.RandomCrop(32, padding=4), augment.RandomHorizontalFlip()])


@pytest.mark.parametrize("pipeline", [full(), SHIFT], ids=["resize", "shift"])
def test_an_image_gets_the_same_pixels_in_any_batch(pipeline):
    images = pictures()
    key = Key(1, 2, [4, 8, 15, 16, 23])
    whole = pipeline(images, key=key)
    for n in range(len(images)):
        alone = pipeline(images[n : n + 1], key=key[n : n + 1])
        assert torch.equal(alone[0], whole[n])
    backwards = pipeline(images.flip(0), key=Key(1, 2, [23, 16, 15, 8, 4]))
    assert torch.equal(backwards.flip(0), whole)
    listed = pipeline(list(images), key=key)
    assert torch.equal(listed, whole)
    parameters = pipeline.draw(key)
    parts = [pipeline.apply(images[p], parameters[p]) for p in (slice(0, 2), slice(2, 5))]
    assert torch.equal(torch.cat(parts), whole)


def test_every_image_has_its_own_draw_and_every_epoch_another():
    images = pictures(1).expand(8, -1, -1, -1)
    first = full()(images, key=Key(0, 0, range(8)))
    assert len({result.numpy().tobytes() for result in first}) == 8
    assert not torch.equal(first, full()(images, key=Key(0, 1, range(8))))
    assert not torch.equal(first, full()(images, key=Key(1, 0, range(8))))


def test_adding_a_transform_keeps_the_draws_of_the_others():
    key = Key(0, 0, range(4))
    short = augment.Compose([augment.RandomHorizontalFlip()]).draw(key)
    long = augment.Compose([augment.RandomCrop(8), augment.RandomHorizontalFlip()]).draw(key)
    assert torch.equal(short.draws[0]["flip"], long.draws[1]["flip"])
    twice = augment.Compose([augment.RandomHorizontalFlip()] * 2).draw(Key(0, 0, range(64)))
    assert not torch.equal(twice.draws[0]["flip"], twice.draws[1]["flip"])


def test_images_of_different_sizes():
    images = [pictures(1, 3, 30 + 7 * n, 60 - 5 * n)[0] for n in range(5)]
    key = Key(0, 0, range(5))
    whole = full()(images, key=key)
    for n, image in enumerate(images):
        assert torch.equal(full()(image[None], key=key[n : n + 1])[0], whole[n])


def test_no_images_give_no_images():
    assert full()(torch.empty(0, 3, 40, 48, dtype=torch.uint8), key=Key(0, 0, [])).shape == (
        0, 3, 32, 32,
    )  # fmt: skip
    assert full()([], key=Key(0, 0, [])).shape == (0, 3, 32, 32)


def test_strides_and_float_input_make_no_difference():
    images = pictures()
    key = Key(0, 0, range(5))
    expected = full()(images, key=key)
    last = images.contiguous(memory_format=torch.channels_last)
    turned = images.transpose(2, 3).contiguous().transpose(2, 3)
    for same in (last, turned, torch.cat([images, images], 3)[..., :48]):
        assert torch.equal(full()(same, key=key), expected)
    assert (full()(images / 255, key=key) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
@pytest.mark.parametrize("channels_last", [False, True])
def test_dtype_and_layout_of_the_result(dtype, channels_last):
    images = pictures()
    pipeline = augment.Compose(
        [augment.RandomResizedCrop(32)], dtype=dtype, channels_last=channels_last
    )
    result = pipeline(images, key=Key(0, 0, range(5)))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert result.dtype == dtype and result.is_contiguous(memory_format=layout)
    exact = augment.Compose([augment.RandomResizedCrop(32)])(images, key=Key(0, 0, range(5)))
    if dtype == torch.uint8:
        exact = (exact * 255).round()
    assert torch.equal(result, exact.to(dtype))


def test_out_is_written_and_returned():
    images = pictures()
    out = torch.empty(5, 3, 32, 32)
    result = full()(images, key=Key(0, 0, range(5)), out=out)
    assert result is out
    assert torch.equal(out, full()(images, key=Key(0, 0, range(5))))


def test_input_is_not_changed():
    images = pictures() / 255
    before = images.clone()
    full()(images, key=Key(0, 0, range(5)))
    SHIFT(images, key=Key(0, 0, range(5)))
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("save", "load"), [(torch.save, torch.load), (safetensors.save_file, safetensors.load_file)]
)
def test_parameters_can_be_stored_and_replayed(tmp_path, save, load):
    images, pipeline = pictures(), full()
    parameters = pipeline.draw(Key(0, 0, range(5)))
    save(parameters.tensors(), tmp_path / "draws")
    again = augment.Parameters.from_tensors(load(tmp_path / "draws"))
    assert torch.equal(pipeline.apply(images, again), pipeline.apply(images, parameters))
    alone = pipeline.apply(images[-1:], again[-1])
    assert torch.equal(alone, pipeline.apply(images, parameters)[-1:])


def test_the_size_of_the_result():
    assert full().size == (32, 32)
    assert augment.Compose([augment.Resize(32)]).size is None
    assert augment.Compose([augment.RandomHorizontalFlip()]).size is None
    assert augment.Compose([augment.CenterCrop((5, 7)), augment.Resize(10)]).size == (10, 14)


def test_fewest_passes():
    assert len(full().plan().splitlines()) == 1
    late_flip = [
        augment.ColorJitter(0.4),
        augment.RandomHorizontalFlip(),
        augment.Normalize([0], [1]),
    ]
    assert len(augment.Compose(late_flip).plan().splitlines()) == 1
    color_then_crop = [augment.ColorJitter(contrast=0.4), augment.RandomCrop(8)]
    assert len(augment.Compose(color_then_crop).plan().splitlines()) == 2
    padded_then_resized = [augment.RandomCrop(32, padding=4), augment.Resize(16)]
    assert len(augment.Compose(padded_then_resized).plan().splitlines()) == 2


def test_two_passes_give_what_two_pipelines_give():
    images, key = pictures(), Key(0, 0, range(5))
    steps = [augment.ColorJitter(contrast=0.4), augment.RandomCrop(32, padding=4)]
    both = augment.Compose(steps)(images, key=key)
    first = augment.Compose(steps[:1])(images, key=key)
    assert torch.equal(both, augment.Compose(steps[1:])(first, key=key))


def test_alternating_flip_shows_both_sides_in_two_epochs():
    flips = [
        augment.Compose([augment.AlternatingFlip()])
        .draw(Key(0, epoch, range(200)))
        .draws[0]["flip"]
        for epoch in range(3)
    ]
    assert torch.equal(flips[0], ~flips[1]) and torch.equal(flips[0], flips[2])
    assert 60 < int(flips[0].sum()) < 140


def test_scaled_decoding_reads_the_same_part():
    """An image reduced by the decoder, with crops on fractions of its pixels."""
    yy, xx = torch.meshgrid(torch.arange(120.0), torch.arange(160.0), indexing="ij")
    large = (
        torch.stack([yy * 2, xx * 1.5, (yy + xx) / 2])[None].to(torch.uint8).expand(6, -1, -1, -1)
    )
    small = torch.nn.functional.avg_pool2d(large.float(), 2).round().to(torch.uint8)
    pipeline = augment.Compose([augment.RandomResizedCrop(24), augment.RandomHorizontalFlip()])
    parameters = pipeline.draw(Key(0, 0, range(6)))
    exact = pipeline.apply(large, parameters)
    reduced = pipeline.apply(small, parameters, sizes=[(120, 160)] * 6)
    assert (reduced - exact).abs().mean() < 0.7 / 255
    assert (reduced - exact).abs().max() < 4 / 255


@pytest.mark.parametrize("name", ["imagenet", "light", "cifar", "none"])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 96), (4, 64)])
def test_presets_take_any_image(name, channels, size):
    pipeline = augment.preset(name, size, channels=channels)
    assert pipeline.size == (size, size)
    for height, width in [(28, 28), (50, 200), (1, 1), (300, 70)]:
        result = pipeline(pictures(3, channels, height, width), key=Key(0, 0, range(3)))
        assert result.shape == (3, channels, size, size)
        assert result.isfinite().all()


def test_the_validation_preset_draws_nothing():
    pipeline = augment.preset("none", 96)
    images = pictures()
    first, second = (pipeline(images, key=Key(n, n, range(5))) for n in (0, 1))
    assert torch.equal(first, second)


def without_numbers():
    parameters = full().draw(Key(0, 0, range(5)))
    parameters.draws[0]["area"][2] = float("nan")
    return parameters


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: full()(pictures()[0], key=Key(0, 0, [0])), ValueError, r"\[B, C, H, W\]"),
        (lambda: full()([pictures()], key=Key(0, 0, [0])), ValueError, r"list of \[C, H, W\]"),
        (lambda: full()(pictures().int(), key=Key(0, 0, range(5))), TypeError, "uint8"),
        (lambda: full()(pictures().numpy(), key=Key(0, 0, range(5))), TypeError, "tensors"),
        (lambda: full()(pictures(), key=3), TypeError, "a toque.random.Key; got int"),
        (
            lambda: full()(pictures(2, 3, 32, 40).permute(0, 2, 3, 1), key=Key(0, 0, [0, 1])),
            ValueError,
            r"channels last. Use images.permute\(0, 3, 1, 2\)",
        ),
        (lambda: full()(pictures()[:, :, :0], key=Key(0, 0, range(5))), ValueError, "one pixel"),
        (lambda: full()(pictures(), key=Key(0, 0, [0])), ValueError, "for 5 images"),
        (lambda: full().apply(pictures(), without_numbers()), ValueError, "area must be finite"),
        (
            lambda: SHIFT.apply(pictures(), full().draw(Key(0, 0, range(5)))),
            ValueError,
            "with this",
        ),
        (lambda: full()(pictures(5, 4), key=Key(0, 0, range(5))), ValueError, "gray or RGB"),
        (
            lambda: full()(pictures(), key=Key(0, 0, range(5)), out=torch.empty(5, 3, 32, 31)),
            ValueError,
            "out must be",
        ),
        (
            lambda: full()([pictures(1)[0], pictures(1, 1)[0]], key=Key(0, 0, [0, 1])),
            ValueError,
            "alike in channels",
        ),
        (
            lambda: augment.Compose([augment.Resize(8)])(
                [pictures(1)[0], pictures(1, 3, 9, 30)[0]], key=Key(0, 0, [0, 1])
            ),
            ValueError,
            "one size after",
        ),
        (
            lambda: augment.Compose([augment.RandomCrop(64)])(pictures(), key=Key(0, 0, range(5))),
            ValueError,
            "pad_if_needed=True",
        ),
        (
            lambda: augment.Compose([augment.Normalize((0.5, 0.5), (1, 1))])(
                pictures(), key=Key(0, 0, range(5))
            ),
            ValueError,
            "1 or 3 numbers",
        ),
        (lambda: augment.Compose([torch.relu]), TypeError, "augment.Lambda"),
        (lambda: augment.Compose([], dtype=torch.int32), ValueError, "bfloat16"),
        (lambda: augment.RandomHorizontalFlip(1.5), ValueError, r"in \[0, 1\]; got 1.5"),
        (lambda: augment.RandomHorizontalFlip(float("nan")), ValueError, "got nan"),
        (lambda: augment.RandomResizedCrop(0), ValueError, ">= 1"),
        (lambda: augment.RandomResizedCrop(8, scale=(0.5, 0.1)), ValueError, "low <= high"),
        (lambda: augment.RandomResizedCrop(8, interpolation="area"), ValueError, "bilinear"),
        (lambda: augment.RandomResizedCrop(8, antialias=False), ValueError, "nearest"),
        (lambda: augment.Resize(8, max_size=4), ValueError, "max_size"),
        (lambda: augment.RandomCrop(8, padding=(1, 2, 3)), ValueError, "1, 2 or 4"),
        (lambda: augment.RandomCrop(8, padding_mode="wrap"), ValueError, "symmetric"),
        (lambda: augment.ColorJitter(brightness=-1), ValueError, ">= 0; got -1"),
        (lambda: augment.ColorJitter(hue=0.7), ValueError, "0.5"),
        (lambda: augment.Normalize((0,), (0,)), ValueError, "above 0"),
        (lambda: augment.RandomErasing(value="noise"), ValueError, "random"),
        (lambda: augment.preset("imagnet", 224), ValueError, "Did you mean imagenet"),
        (lambda: augment.ToDtype(torch.float32, scale=False), ValueError, "True"),
    ],
)
def test_each_mistake_has_its_sentence(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ToTensor", "Leave it out: images go in as uint8"),
        ("RandomCorp", "Did you mean RandomCrop"),
    ],
)
def test_a_name_that_is_not_here_says_what_to_write(name, says):
    with pytest.raises(AttributeError, match=f"no {name}. {says}"):
        getattr(augment, name)
    assert not hasattr(augment, name)
