"""Pictures of their own, and whether a cache holds what it was packed from."""

import numpy as np
import torch

from tests.data import pictures


def varied(number):
    """A small picture of its own: size and pixels."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (20 + number % 7, 24 + number % 5, 3), dtype=np.uint8)
    kind = "PNG" if number % 3 else "JPEG"
    return pictures.saved(pixels, kind, **({"quality": 90} if kind == "JPEG" else {}))


def assert_same(packed, source):
    assert packed.classes == source.classes and len(packed) == len(source)
    np.testing.assert_array_equal(packed.labels, source.labels)
    for index in range(len(source)):
        assert packed.name(index) == source.name(index)
        assert torch.equal(packed.read(index), source.read(index))


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << (position % 8)
    path.write_bytes(bytes(content))
