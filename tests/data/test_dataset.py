"""A user's Dataset: what its items may be, where labels and classes come from."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset, Subset, TensorDataset

from tests.data.standin import RandomDataset
from toque.data import DatasetSource

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
CHW = torch.from_numpy(PIXELS).permute(2, 0, 1)
FLOATS = torch.rand(3, 4, 5)


class Items:
    """A Dataset of given items."""

    def __init__(self, *items):
        self.items = items
        self.asked = []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.items[index]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (CHW, CHW),
        (PIXELS, CHW),
        (PIXELS[::-1], CHW.flip(1)),
        (PIXELS[..., 0], CHW[:1]),
        (CHW[0], CHW[:1]),
        (Image.fromarray(PIXELS), CHW),
        (Image.fromarray(PIXELS[..., 0]), CHW[:1]),
        (Image.fromarray(255 - PIXELS).convert("CMYK"), CHW.bitwise_not()),
        (FLOATS, FLOATS),
        (FLOATS.half(), FLOATS.half()),
        (FLOATS.permute(1, 2, 0).numpy(), FLOATS),
    ],
)
def test_kinds_of_images(image, expected):
    read = DatasetSource(Items((image, 0))).read(0)
    assert read.dtype == expected.dtype
    assert torch.equal(read, expected)


def test_an_image_with_a_palette_gives_its_colours():
    image = Image.fromarray(PIXELS).quantize(4)
    read = DatasetSource(Items((image, 0))).read(0)
    np.testing.assert_array_equal(read.permute(1, 2, 0), image.convert("RGB"))


@pytest.mark.parametrize("label", [2, np.int64(2), np.uint8(2), torch.tensor(2), torch.tensor([2])])
def test_kinds_of_labels(label):
    assert DatasetSource(Items((CHW, label))).item(0)[1] == 2


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (CHW, r"every item must be \(image, target\); got Tensor at 0"),
        ((CHW, 1, 2), r"every item must be \(image, target\); got tuple at 0"),
        ((CHW.int(), 1), r"every image must be .*; got tensor of torch.int32 \[3, 4, 5\] at 0"),
        ((CHW[None], 1), r"got tensor of torch.uint8 \[1, 3, 4, 5\] at 0"),
        (("cat.jpg", 1), "every image must be .*; got str of"),
        ((CHW, "cat"), r"every target must be a class number, .*; got 'cat' at 0"),
        ((CHW, torch.zeros(2, 3, 4)), r"every target must be .*; got Tensor \[2, 3, 4\] at 0"),
        ((CHW, torch.zeros(5, 6)), r"every target must be .*; got Tensor \[5, 6\] at 0"),
        ((CHW, None), "every target must be .*; got None at 0"),
    ],
)
def test_items_that_cannot_be_used(item, words):
    with pytest.raises(TypeError, match=words):
        DatasetSource(Items(item)).item(0)


def test_something_else_than_a_map_style_dataset():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(
        TypeError, match=r"dataset must be a map-style Dataset, .*; got the IterableDataset Stream"
    ):
        DatasetSource(Stream())
    with pytest.raises(TypeError, match="Give it the method __len__"):
        DatasetSource(5)


def test_labels_are_collected_when_they_are_asked_for():
    dataset = Items((CHW, 1), (CHW, 0), (CHW, 3))
    source = DatasetSource(dataset)
    assert len(source) == 3 and dataset.asked == []
    assert source.classes == ("0", "1", "2", "3")
    assert source.labels.tolist() == [1, 0, 3] and source.labels.dtype == np.int64
    assert dataset.asked == [0, 1, 2]  # once


def test_targets_and_classes_are_taken_as_torchvision_has_them():
    dataset = Items((CHW, 1), (CHW, 0))
    dataset.targets, dataset.classes, dataset.target_transform = [1, 0], ["cat", "dog"], None
    source = DatasetSource(dataset)
    assert source.labels.tolist() == [1, 0] and source.classes == ("cat", "dog")
    assert dataset.asked == []
    part = DatasetSource(Subset(dataset, [1]))
    assert part.classes == ("cat", "dog") and part.labels.tolist() == [0]


@pytest.mark.parametrize("targets", [[[1, 0]], ["cat", "dog"], [1]])
def test_targets_that_are_something_else_are_not_taken(targets):
    dataset = Items((CHW, 1), (CHW, 0))
    dataset.targets = targets
    assert DatasetSource(dataset).labels.tolist() == [1, 0]
    dataset.targets, dataset.target_transform = [5, 5], lambda target: 1 - target
    assert DatasetSource(dataset).labels.tolist() == [1, 0]


def test_given_labels_and_classes_win():
    source = DatasetSource(Items((CHW, 1), (CHW, 0)), classes=["a", "b"], labels=[1, 0])
    assert source.classes == ("a", "b") and source.labels.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"labels must be in 0 .. 1; got 4"):
        DatasetSource(Items((CHW, 1)), classes=["a", "b"], labels=[4])


def test_a_tensor_dataset_works_and_reading_is_repeatable():
    source = DatasetSource(TensorDataset(CHW[None].repeat(3, 1, 1, 1), torch.tensor([0, 1, 0])))
    assert torch.equal(source.read(2), CHW) and source.labels.tolist() == [0, 1, 0]
    drawn = DatasetSource(RandomDataset())
    assert torch.equal(drawn.read(4), drawn.read(4))


def test_the_fingerprint_tells_datasets_of_another_length_apart():
    ones = [DatasetSource(RandomDataset(n)).fingerprint() for n in (5, 5, 6)]
    assert ones[0] == ones[1] != ones[2]


def test_an_error_of_the_callers_own_says_which_item_was_asked_for():
    class Broken(Items):
        def __getitem__(self, index):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as raised:
        DatasetSource(Broken([1, 2, 3])).item(2)
    assert raised.value.__notes__ == ["toque: item 2 of Broken was asked for"]


def test_the_fingerprint_is_that_of_the_class_wherever_it_was_imported_from():
    def of(module):
        kind = type("Mine", (RandomDataset,), {"__module__": module})
        return DatasetSource(kind(5)).fingerprint()

    assert of("__main__") == of("train_script") != DatasetSource(RandomDataset(5)).fingerprint()
