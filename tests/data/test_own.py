"""A caller's own data as splits, and parts of a source."""

import numpy as np
import pytest
import torch

from tests.data.standin import RandomDataset, Sized
from toque.data import ArraySource, DatasetSource, Part, own

PIXELS = np.random.default_rng(0).integers(0, 256, (200, 1, 4, 4), dtype=np.uint8)


def arrays(num_images=200, num_classes=4, classes=None):
    return ArraySource(PIXELS[:num_images], np.arange(num_images) % num_classes, classes)


def test_a_source_is_split_within_its_classes():
    splits = own(arrays(), None, seed=0)
    assert len(splits.train) + len(splits.val) == 200 and 20 < len(splits.val) < 60
    assert set(splits.val.labels) == set(splits.train.labels) == {0, 1, 2, 3}
    names = {part.name(i) for part in (splits.train, splits.val) for i in range(len(part))}
    assert names == {str(i) for i in range(200)}
    assert splits.channels == 1 and splits.classes == ("0", "1", "2", "3")


def test_two_datasets():
    splits = own(RandomDataset(20), RandomDataset(3), seed=0)
    assert isinstance(splits.train, DatasetSource) and splits.channels == 3
    assert len(splits.val) == 3 and splits.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("train", "val", "kind", "words"),
    [
        (arrays(0), None, ValueError, "train must be at least one image; got none"),
        (arrays(), arrays(0), ValueError, "val must be at least one image; got none"),
        (arrays(3, 3), None, ValueError, "at least two images of a class .*pass val="),
        (arrays(), arrays(9, 4, list("abcd")), ValueError, "those of train, 0, 1, 2, 3; got a, b"),
        (arrays(9, 2), arrays(9, 3), ValueError, "classes of val must be those of train"),
        ([].__iter__(), None, TypeError, "map-style Dataset"),
    ],
)
def test_mistakes(train, val, kind, words):
    with pytest.raises(kind, match=words):
        own(train, val, seed=0)


@pytest.mark.parametrize("source", [arrays(), Sized(), DatasetSource(RandomDataset())])
def test_a_part_is_that_part_of_the_source(source):
    chosen = np.array([5, 2, 2, 19])
    part = Part(source, chosen)
    assert len(part) == 4 and part.classes == source.classes
    assert (part.serial, part.in_memory) == (source.serial, source.in_memory)
    assert part.labels.tolist() == source.labels[chosen].tolist()
    for position, index in enumerate(chosen.tolist()):
        assert torch.equal(part.read(position), source.read(index))
        assert part.name(position) == source.name(index)
        assert part.item(position)[1] == source.labels[index]
    if source.in_memory:
        many = part.read_many(np.array([3, 0]))
        assert torch.equal(many, source.read_many(np.array([19, 5])))
    assert part.fingerprint() != Part(source, chosen[::-1]).fingerprint()
