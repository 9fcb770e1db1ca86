"""The kernels against the reference, and their memory: they read and write inside their arrays only."""

import ctypes
import dataclasses
import mmap
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from toque import augment
from toque.augment import kernels, parts
from toque.augment.canvas import Canvas, Padding
from toque.augment.kernels import cpu
from toque.random import Key

# A second run of this file has Triton interpret the cuda kernel: see test_cuda_kernel.py. That is
# slow, so it looks at less.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FAST = ("cuda",) if INTERPRETED else kernels.available()[1:]
needs_the_kernel = pytest.mark.skipif(not FAST, reason="the C kernel is not built here")
in_c = pytest.mark.skipif(INTERPRETED, reason="of the C kernel")
# The interpreter computes with NumPy, which warns of what a GPU does in silence.
pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning")] if INTERPRETED else []
PHASES = (Phase.explicit, Phase.generate) if INTERPRETED else tuple(Phase)
PAGE = mmap.PAGESIZE

steps = st.one_of(
    st.builds(augment.RandomResizedCrop, st.tuples(st.integers(1, 40), st.integers(1, 40)),
              interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"])),
    st.builds(augment.Resize, st.tuples(st.integers(1, 60), st.integers(1, 60))),
    st.builds(augment.RandomCrop, st.integers(1, 30), padding=st.integers(0, 9), pad_if_needed=st.just(True),
              fill=st.integers(0, 255), padding_mode=st.sampled_from(["constant", "edge", "reflect", "symmetric"])),
    st.builds(augment.CenterCrop, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    st.builds(augment.RandomHorizontalFlip, st.just(0.5)),
    st.builds(augment.RandomVerticalFlip, st.just(0.5)),
    st.builds(augment.RandomRotation, st.integers(0, 180), st.just("bilinear"), fill=st.integers(0, 255)),
    st.builds(augment.RandomAffine, st.integers(0, 90), translate=st.just((0.3, 0.3)), scale=st.just((0.2, 3.0)),
              shear=st.just(20), interpolation=st.just("bilinear")),
    st.builds(augment.RandomPerspective, st.floats(0, 0.5), p=st.just(0.5)),
    st.builds(augment.ColorJitter, st.just(0.4), st.just(0.4), st.just(0.4), st.just(0.1)),
    st.builds(augment.RandomGrayscale, st.just(0.5)),
    st.builds(augment.RandomInvert, st.just(0.5)),
    st.builds(augment.RandomErasing, st.just(0.7), value=st.floats(0, 1)),
)  # fmt: skip


@needs_the_kernel
@in_c
@given(
    streams=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9), max_size=4),
    images=st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1)), max_size=5),
)
def test_numbers_drawn_in_c_are_those_of_the_definition(streams, images):
    indices, epochs = np.array(images, dtype=np.int64).reshape(-1, 2).T
    key = Key(11, epochs, indices)
    defined, drawn = key.uniforms(streams), key.uniforms(streams, kernels.sweep())
    assert list(drawn) == list(defined)
    for stream in streams:
        np.testing.assert_array_equal(drawn[stream], defined[stream])


@needs_the_kernel
@in_c
@given(
    seed=st.integers(0, 999),
    num_images=st.integers(0, 20),
    tries=st.integers(1, 10),
    largest=st.sampled_from([1, 2, 7, 300]),
    areas=st.sampled_from([(0.0, 0.1), (0.08, 1.0), (0.9, 3.0)]),
    least=st.integers(0, 1),
    tall=st.booleans(),
    masked=st.booleans(),
)
def test_parts_found_in_c_are_those_of_the_definition(
    seed, num_images, tries, largest, areas, least, tall, masked
):
    rng = np.random.default_rng(seed)
    area = rng.uniform(*areas, (num_images, tries))
    ratio = np.exp(rng.uniform(-1.2, 1.2, (num_images, tries)))
    wanted = rng.uniform(size=num_images) < 0.5 if masked else None
    sizes = rng.integers(1, largest + 1, (num_images, 2))
    given = (area, ratio, rng.uniform(size=(num_images, 2)), wanted, *sizes.T, least, tall)
    np.testing.assert_array_equal(cpu.parts(*given), parts.defined(*given))


def images_of(channels, height, width, dtype, layout, seed, batch=3):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(
        rng.integers(0, 256, (batch, channels, height, width), dtype=np.uint8)
    )
    if dtype != torch.uint8:
        images = (images / 255).to(dtype)
    if layout == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    if layout == "turned":
        images = images.transpose(2, 3).contiguous().transpose(2, 3)
    return images


@needs_the_kernel
@given(
    chain=st.lists(steps, min_size=1, max_size=5),
    channels=st.sampled_from([1, 3, 3, 4]),
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.float16]),
    out=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.uint8]),
    layout=st.sampled_from(["contiguous", "channels_last", "turned"]),
    channels_last=st.booleans(),
    color=st.sampled_from(["exact", "linear"]),
    level=st.sampled_from(FAST or ("none",)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=8 if INTERPRETED else 400, phases=PHASES)
def test_it_agrees_with_the_reference(
    chain, channels, height, width, dtype, out, layout, channels_last, color, level, seed
):
    """Within 1/255 everywhere and 0.05/255 on average, wherever the definition does not jump.

    A coordinate that falls on the edge of two pixels, or a hue of a gray, may round to either side:
    a few such pixels in a hundred are left out.
    """
    if channels == 4:
        chain = [
            s for s in chain if not isinstance(s, augment.ColorJitter | augment.RandomGrayscale)
        ]
    images = images_of(channels, height, width, dtype, layout, seed)
    key = Key(seed, 0, range(3))
    options = {"dtype": out, "channels_last": channels_last, "color": color}
    expected = augment.Compose(chain, kernel="reference", **options)(images, key=key)
    got = augment.Compose(chain, kernel=level, **options)(images, key=key)
    assert got.shape == expected.shape and got.stride() == expected.stride()
    scale = 1.0 if out == torch.uint8 else 255.0
    different = (got.double() - expected.double()).abs() * scale
    rounding = {torch.bfloat16: 2.0, torch.float16: 0.25, torch.uint8: 1.0}.get(out, 0.05)
    close = different <= rounding
    allowed = 0.04 if any(s.kind == "warp" for s in chain if hasattr(s, "kind")) else 0.01
    assert (~close).sum() <= max(allowed * different.numel(), 6)
    # Triton's interpreter cuts floats off where a GPU rounds them to bfloat16.
    average = {torch.bfloat16: 1.0 if INTERPRETED else 0.5}.get(out, 0.05)
    assert different[close].sum() <= average * different.numel()


@needs_the_kernel
@pytest.mark.parametrize("level", FAST)
def test_a_full_pipeline_agrees_tightly(level):
    """Smooth pictures, every stage: nothing jumps, so nothing is left out."""
    batch, size = (2, 40) if INTERPRETED else (8, 96)
    small = torch.from_numpy(np.random.default_rng(1).uniform(0, 255, (batch, 3, 7, 9)))
    images = torch.nn.functional.interpolate(small, (160, 200), mode="bicubic").clamp(0, 255)
    images = images.to(torch.uint8).contiguous(memory_format=torch.channels_last)
    chain = [
        augment.RandomResizedCrop(size),
        augment.RandomHorizontalFlip(),
        augment.RandomRotation(15, "bilinear"),
        augment.ColorJitter(0.4, 0.4, 0.4, 0.1),
        augment.Normalize((0.5, 0.4, 0.3), (0.3, 0.2, 0.1)),
        augment.RandomErasing(0.5),
    ]
    key = Key(0, 0, range(batch))
    expected = augment.Compose(chain, kernel="reference")(images, key=key)
    got = augment.Compose(chain, kernel=level)(images, key=key)
    different = (got - expected).abs() * 255 * 0.1  # the least std
    assert different.mean() < 0.05 and different.quantile(0.9999) < 1


@needs_the_kernel
@pytest.mark.parametrize("level", FAST)
def test_every_value_is_cast_as_torch_casts_it(level):
    special = [0.0, 1e-8, 6e-8, 1e-5, 6.1e-5, 0.1, 1.0, 2049.0, 65504.0, 65519.0, 65520.0, 1e6]
    values = torch.tensor(special + [-value for value in special])
    rng = np.random.default_rng(0)
    number = 100 if INTERPRETED else 5000
    many = torch.from_numpy(np.exp(rng.uniform(-20, 11, number)).astype(np.float32))
    values = torch.cat([values, many, -many]).view(1, 1, 1, -1)
    for dtype in (torch.float16, *(() if INTERPRETED else (torch.bfloat16,))):
        pipeline = augment.Compose([], dtype=dtype, kernel=level)
        assert torch.equal(pipeline(values, key=Key(0, 0, [0])), values.to(dtype))
    levels = torch.linspace(-0.1, 1.1, 101 if INTERPRETED else 4001).view(1, 1, 1, -1)
    got = augment.Compose([], dtype=torch.uint8, kernel=level)(levels, key=Key(0, 0, [0]))
    assert torch.equal(got, (levels * 255).round().clamp(0, 255).to(torch.uint8))


@needs_the_kernel
@pytest.mark.parametrize("level", ("reference", *FAST))
def test_on_the_horizon_of_a_perspective_lies_nothing(level):
    """Where 0 is divided by 0 the result is the padding, not NaN."""
    matrix = np.array([[[1.0, 0, -1.5], [0, 1, 0], [1, 0, -1.5]]])
    canvas = dataclasses.replace(
        Canvas.of(np.array([[3, 3]])), matrix=matrix, kind="warp", padding=Padding(fill=(51.0,))
    )
    nothing = np.empty((1, 0))
    resolved = kernels.resolved.Resolved(
        canvas, nothing.astype(np.int32), nothing.astype(np.float32),
        np.ones(1, dtype=np.float32), np.zeros(1, dtype=np.float32),
        np.empty((1, 0, 4), dtype=np.int64), np.empty((0, 1), dtype=np.float32),
    )  # fmt: skip
    out = torch.empty(1, 1, 3, 3)
    kernels.run(torch.ones(1, 1, 3, 3), resolved, out, level)
    assert torch.isfinite(out).all()
    assert torch.allclose(out[0, 0, :, 1], torch.full((3,), 0.2))


class Guarded:
    """A tensor that ends exactly where an unreadable page begins, and begins after another."""

    def __init__(self, shape, dtype, at_end):
        size = int(np.prod(shape)) * torch.empty(0, dtype=dtype).element_size()
        pages = max(-(-size // PAGE), 1)
        self.map = mmap.mmap(-1, (pages + 2) * PAGE)
        anchor = ctypes.c_char.from_buffer(self.map)
        start = ctypes.addressof(anchor)
        del anchor
        libc = ctypes.CDLL(None, use_errno=True)
        for page in (start, start + (pages + 1) * PAGE):
            assert libc.mprotect(ctypes.c_void_p(page), PAGE, 0) == 0
        first = PAGE + (pages * PAGE - size if at_end else 0)
        array = np.frombuffer(memoryview(self.map)[first : first + size], dtype=np.uint8)
        self.tensor = torch.from_numpy(array).view(dtype).view(shape)


GUARDED = [
    (height, width, size)
    for height, width in [(1, 1), (1, 2), (2, 1), (3, 5), (17, 31), (64, 64), (33, 127)]
    for size in [(1, 1), (1, 7), (5, 3), (33, 16), (16, 65)]
]
GUARDED = [(17, 31, (5, 3))] if INTERPRETED else GUARDED


@needs_the_kernel
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("level", FAST)
@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("channels_last", [True] if INTERPRETED else [True, False])
@pytest.mark.parametrize(
    ("dtype", "channels"),
    [(torch.uint8, 3)] if INTERPRETED else [(torch.uint8, 3), (torch.uint8, 1), (torch.float32, 3)],
)
def test_guard_pages(level, at_end, channels_last, dtype, channels):
    """A read or write one byte outside the images or the result would end the process."""
    batch = 2
    for height, width, size in GUARDED:
        chains = [
            [augment.RandomResizedCrop(size), augment.RandomHorizontalFlip()],
            [augment.Resize(size), augment.RandomVerticalFlip(1.0), augment.ColorJitter(0.4, 0.4, 0.4, 0.1)],
            [augment.RandomCrop(size, padding=70, padding_mode="reflect"), augment.RandomHorizontalFlip()],
            [augment.RandomCrop(size, padding=70), augment.RandomErasing(1.0)],
            [augment.CenterCrop(size), augment.RandomRotation(180, "bilinear")],
            [augment.RandomResizedCrop(size), augment.RandomRotation(180), augment.Cutout(9)],
            [augment.RandomAffine(90, (1, 1), (0.01, 50.0), 80, "bilinear"), augment.CenterCrop(size)],
            [augment.RandomPerspective(1.0, 1.0), augment.CenterCrop(size)],
        ]  # fmt: skip
        chains = chains[1::2] if INTERPRETED else chains
        shape = (
            (batch, height, width, channels) if channels_last else (batch, channels, height, width)
        )
        source = Guarded(shape, dtype, at_end)
        images = source.tensor.permute(0, 3, 1, 2) if channels_last else source.tensor
        images.copy_(images_of(channels, height, width, dtype, "contiguous", 0, batch))
        for seed, chain in enumerate(chains):
            shape = (batch, *size, channels) if channels_last else (batch, channels, *size)
            target = Guarded(shape, torch.float32, at_end)
            out = target.tensor.permute(0, 3, 1, 2) if channels_last else target.tensor
            pipeline = augment.Compose(chain, kernel=level, color=("exact", "linear")[seed % 2])
            key = Key(seed, 0, range(batch))
            pipeline(images, key=key, out=out)
            if height * width > 1:
                again = pipeline(images.clone(), key=key)
                assert torch.equal(out, again)


@needs_the_kernel
@in_c
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("level", FAST)
@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("padding_mode", ["constant", "symmetric"])
def test_crops_and_flips_without_colours_behind_guard_pages(level, at_end, padding_mode):
    for height, width, size in GUARDED:
        source = Guarded((3, height, width, 3), torch.uint8, at_end)
        images = source.tensor.permute(0, 3, 1, 2)
        images.copy_(images_of(3, height, width, torch.uint8, "contiguous", 0, 3))
        chain = [
            augment.RandomCrop(size, padding=5, pad_if_needed=True, padding_mode=padding_mode),
            augment.RandomHorizontalFlip(),
            augment.RandomVerticalFlip(),
            augment.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
            augment.Cutout(3),
        ]
        out, key = Guarded((3, 3, *size), torch.float32, at_end).tensor, Key(0, 0, range(3))
        augment.Compose(chain, kernel=level)(images, key=key, out=out)
        expected = augment.Compose(chain, kernel="reference")(images, key=key)
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)


@needs_the_kernel
@pytest.mark.parametrize("level", FAST)
@pytest.mark.parametrize(
    ("kind", "linear", "num_operations"),
    [("shift", False, 2), ("shift", False, 0), ("resize", True, 2), ("warp", True, 2)],
)
@given(
    numbers=st.lists(
        st.floats(-1e12, 1e12) | st.sampled_from([float("nan"), float("inf"), -float("inf"), 0.0]),
        min_size=21,
        max_size=21,
    )
)
@settings(max_examples=8 if INTERPRETED else 60, phases=PHASES)
def test_no_matrix_makes_it_leave_its_arrays(level, kind, linear, num_operations, numbers):
    """Matrices and rectangles of nonsense, behind guard pages: any pixels, but no crash."""
    matrix = np.array(numbers[:9]).reshape(1, 3, 3)
    rows = np.array(numbers[9:17]).reshape(2, 1, 4)
    if kind == "shift":
        matrix = np.nan_to_num(np.clip(matrix, -1e6, 1e6))
        rows = np.nan_to_num(np.clip(rows, -1e6, 1e6))
    source = Guarded((1, 13, 17, 3), torch.uint8, True)
    target = Guarded((1, 3, 9, 11), torch.float32, True)
    canvas = dataclasses.replace(
        Canvas.of(np.array([[13, 17]])),
        height=np.array([9]), width=np.array([11]), matrix=matrix, visible=rows[0], readable=rows[1], kind=kind,
    )  # fmt: skip
    boxes = np.nan_to_num(np.clip(np.array(numbers[17:]), -1e9, 1e9)).astype(np.int64)
    resolved = kernels.resolved.Resolved(
        canvas,
        np.array([[2, 4]], dtype=np.int32)[:, :num_operations],
        np.array([[0.5, 0.3]], dtype=np.float32)[:, :num_operations],
        np.ones(3, dtype=np.float32), np.zeros(3, dtype=np.float32),
        boxes.reshape(1, 1, 4), np.zeros((1, 3), dtype=np.float32), linear=linear,
    )  # fmt: skip
    with np.errstate(all="ignore"):
        kernels.run(source.tensor.permute(0, 3, 1, 2), resolved, target.tensor, level)


@pytest.fixture
def fresh_library():
    """The loader as if nothing was loaded yet, and again after the test."""
    from toque.augment.kernels import cpu

    cpu._library.cache_clear()
    cpu.levels.cache_clear()
    yield cpu
    cpu._library.cache_clear()
    cpu.levels.cache_clear()


def slower_sentences(caplog):
    return [record.message for record in caplog.records if "slower" in record.message]


@in_c
def test_without_the_library_it_says_so_once_and_works(
    fresh_library, monkeypatch, caplog, tmp_path
):
    monkeypatch.setattr(fresh_library, "LIBRARY", tmp_path / "none.so")
    images = images_of(3, 20, 20, torch.uint8, "contiguous", 0)
    for _ in range(2):
        result = augment.preset("light", 16)(images, key=Key(0, 0, range(3)))
    assert result.shape == (3, 3, 16, 16)
    assert len(slower_sentences(caplog)) == 1 and "not built" in caplog.text


@in_c
def test_a_library_of_other_sources_is_left_out_and_says_so(
    fresh_library, monkeypatch, caplog, tmp_path
):
    if not fresh_library.levels():
        pytest.skip("the C kernel is not built here")
    changed = tmp_path / "c"
    shutil.copytree(fresh_library.SOURCES, changed)
    with (changed / "color.h").open("a") as header:
        header.write("/* a later version */")
    monkeypatch.setattr(fresh_library, "SOURCES", changed)
    fresh_library._library.cache_clear()
    fresh_library.levels.cache_clear()
    assert fresh_library.levels() == ()
    assert len(slower_sentences(caplog)) == 1 and "built from other sources" in caplog.text


@in_c
def test_a_library_from_before_it_said_its_sources_is_left_out(fresh_library):
    # The process itself stands for it: it has no such symbol either.
    assert not fresh_library._is_of_this_tree(ctypes.CDLL(None))


@in_c
def test_the_library_is_used_where_it_was_built(fresh_library):
    if not fresh_library.LIBRARY.exists():
        pytest.skip("the C kernel is not built here")
    assert fresh_library.levels()[0] == "portable"


@in_c
def test_threads_on_slices_of_one_batch_give_the_same_pixels():
    from concurrent.futures import ThreadPoolExecutor

    images = images_of(3, 50, 60, torch.uint8, "channels_last", 0, batch=32)
    pipeline = augment.preset("imagenet", 48)
    parameters = pipeline.draw(Key(0, 0, range(32)))
    expected = pipeline.apply(images, parameters)
    out = torch.empty_like(expected)

    def part(first):
        where = slice(first, first + 4)
        pipeline.apply(images[where], parameters[where], out=out[where])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(part, range(0, 32, 4)))
    assert torch.equal(out, expected)


def test_the_kernel_must_exist():
    with pytest.raises(ValueError, match="kernel must be auto or one of reference"):
        augment.Compose([], kernel="gpu")
