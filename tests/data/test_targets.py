"""What belongs to an image: which task values make, and how masks, rows and numbers travel."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tests.data.test_loader import forks
from toque import augment, data
from toque.data import ArraySource, DatasetSource, Part, evaluation_batches, targets, train_batches
from toque.random import Key

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 3, 9, 8), dtype=np.uint8)


@pytest.mark.parametrize(
    ("values", "task", "dtype", "shape"),
    [
        ([0, 2, 1], "classification", np.int64, (3,)),
        (np.array([0, 1], np.uint8), "classification", np.int64, (2,)),
        ([[0, 1, 1], [1, 0, 0]], "multilabel", np.float32, (2, 3)),
        (torch.tensor([[True, False]]), "multilabel", np.float32, (1, 2)),
        ([[0.0, 1.0], [1.0, 0.0]], "multilabel", np.float32, (2, 2)),
        ([0.5, 2.0], "regression", np.float32, (2, 1)),
        ([[0, 1], [1, 2]], "regression", np.float32, (2, 2)),
        ([], "classification", np.int64, (0,)),
    ],
)
def test_the_task_of_values(values, task, dtype, shape):
    found = targets.of("x", values)
    assert found.task == task
    assert found.values.dtype == dtype and found.values.shape == shape
    np.testing.assert_array_equal(found.values.reshape(-1), np.asarray(values).reshape(-1))


def test_a_task_that_is_asked_for_wins():
    assert targets.of("x", [3, 4], task="regression").values.tolist() == [[3.0], [4.0]]
    assert targets.of("x", [[0, 1]], task="regression").task == "regression"
    for values, task, words in [
        ([[0, 2]], "multilabel", r"labels must be 0 or 1 for multilabel; got \[0.0, 2.0\] at 0"),
        ([[0.5]], "classification", r"labels must be of shape \[N\]"),
        ([1.0, np.inf], "regression", r"labels must be finite; got \[inf\] at 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            targets.of("x", values, task=task)
    with pytest.raises(ValueError, match=r"classes must be 2 names, .*; got 1"):
        targets.of("x", [[0.5, 1.5]], ["one"])


def shapes_of(count=12, seed=1):
    """Images of several sizes whose mask is where the image is bright."""
    draw = np.random.default_rng(seed)
    for _ in range(count):
        image = draw.integers(0, 256, (*draw.integers(5, 40, 2), 1), dtype=np.uint8)
        yield image, (image[:, :, 0] > 127).astype(np.uint8)


class Masked(Dataset):
    def __init__(self):
        self.items = list(shapes_of())

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_masks_follow_their_images(workers):
    source = DatasetSource(Masked())
    assert (source.task, source.classes) == ("segmentation", ("0", "1"))
    assert source.labels.shape == (12, 0)
    # Nearest neighbour and no blur: the image's own bright pixels say what the mask must be.
    pipeline = augment.Compose(
        [
            augment.Resize((16, 16), interpolation="nearest"),
            augment.RandomHorizontalFlip(),
            augment.RandomCrop(12, padding=3),
        ]
    )
    found = list(
        train_batches(
            source, pipeline, seed=3, batch_size=4, start_images=0, stop_images=24, threads=2,
            workers=workers,
        )
    )  # fmt: skip
    assert sum(map(len, found)) == 24
    border = 0
    for batch in found:
        assert batch.targets.shape == (4, 12, 12) and batch.targets.dtype == torch.uint8
        inside = batch.targets != 255
        border += int((~inside).sum())
        bright = (batch.images[:, 0] > 127 / 255 + 1e-6).to(torch.uint8)
        assert torch.equal(bright[inside], batch.targets[inside])
        assert not batch.images[:, 0][~inside].any()
    assert border > 100
    assert any(
        not torch.equal(one.targets, other.targets)
        for one, other in zip(found[:3], found[3:], strict=True)
    )


def test_masks_in_memory_are_read_as_those_of_a_dataset():
    masks = (PIXELS[:, 0] > 100).astype(np.int64)
    source = ArraySource(PIXELS, masks, ["dark", "bright"])
    part = Part(source, [5, 2, 7])
    assert (part.task, part.classes) == ("segmentation", ("dark", "bright"))
    pipeline = augment.Compose([augment.RandomHorizontalFlip()])
    (batch,) = evaluation_batches(part, pipeline, batch_size=4, threads=1)
    flipped = pipeline.draw(Key(0, 0, np.arange(3)))
    for number, index in enumerate([5, 2, 7]):
        expected = pipeline.apply_to_masks(masks_of(masks, index), flipped[number : number + 1])
        assert torch.equal(batch.targets[number], expected[0])
        assert torch.equal(part.target(number), torch.from_numpy(masks[index]))
    (plain,) = evaluation_batches(part, None, batch_size=4, threads=0)
    assert torch.equal(plain.targets, torch.from_numpy(masks[[5, 2, 7]]))


def masks_of(masks, index):
    return torch.from_numpy(masks[index : index + 1])


@forks
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("row", [[0.0, 1.0, 1.0], [0.5, -3.0, 7.0]])
def test_rows_travel_as_float32(workers, row):
    rows = [[value + (0 if value in (0, 1) else n) for value in row] for n in range(12)]

    class Rows(Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            return PIXELS[index].transpose(1, 2, 0), rows[index]

    source = DatasetSource(Rows())
    assert source.task == ("multilabel" if row[0] == 0 else "regression")
    found = torch.cat(
        [
            b.targets
            for b in evaluation_batches(source, None, batch_size=5, threads=1, workers=workers)
        ]
    )
    assert found.dtype == torch.float32 and torch.equal(found, torch.tensor(rows))
    arrays = ArraySource(PIXELS, rows)
    assert arrays.task == source.task and np.array_equal(arrays.labels, source.labels)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: ArraySource(PIXELS, np.zeros((12, 9, 7), np.uint8)),
            "every mask must be of the size",
        ),
        (lambda: ArraySource(PIXELS, np.zeros((11, 9, 8), np.uint8)), "labels must be 12 masks"),
        (
            lambda: ArraySource(PIXELS, np.full((12, 9, 8), 7, np.uint8), ["a", "b"]),
            "every value of a mask must be a class in 0 .. 1, or 255 to ignore; got 7 at 0",
        ),
        (
            lambda: ArraySource(PIXELS, np.full((12, 9, 8), -1), ["a", "b"]),
            "every value of a mask must be a class in 0 .. 1, .*; got -1 at 0",
        ),
    ],
)
def test_masks_that_do_not_fit(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_dataset_of_several_kinds_of_targets():
    class Mixed(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return PIXELS[0].transpose(1, 2, 0), [0, [1.0, 2.0]][index]

    with pytest.raises(TypeError, match="every target must be of one kind; got another one at 1"):
        _ = DatasetSource(Mixed()).task


def test_own_data_of_another_task_is_refused():
    numbers = ArraySource(PIXELS, np.arange(12) / 2)
    with pytest.raises(
        ValueError, match="targets of train must be those of multilabel; got those of reg"
    ):
        data.own(numbers, None, seed=0, task="multilabel")
    splits = data.own(numbers, None, seed=0)
    assert len(splits.train) + len(splits.val) == 12 and len(splits.val) > 0
    assert splits.train.labels.shape == (len(splits.train), 1)
