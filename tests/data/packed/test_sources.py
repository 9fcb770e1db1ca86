"""Whatever trains can be packed, and trains from the pack to the same bits; stale packs are named."""

import os
import shutil

import numpy as np
import pytest
import torch

from tests.data.pictures import png, tree
from tests.data.test_sources import shard
from toque import Run, augment, checks, data, fit
from toque.data import Columns, pack, train_batches
from toque.train.run import load

NUM = 14  # names of one and two digits: their order as text is another
DRAW = np.random.default_rng(0)
PICTURES = DRAW.integers(0, 256, (NUM, 9, 7, 3), dtype=np.uint8)
MASKS = DRAW.integers(0, 3, (NUM, 9, 7), dtype=np.uint8)
ROWS = [f"pictures/{n}.png" for n in reversed(range(NUM))]


def table(root, header, *columns):
    tree(root, {row: png(PICTURES[n]) for n, row in enumerate(ROWS)})
    lines = [header, *(",".join(map(str, row)) for row in zip(ROWS, *columns, strict=True))]
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root / "table.csv"


def classes(root):
    return table(root, "path,label", ["cat", "dog"] * (NUM // 2)), {}


def numbers_called_classes(root):
    return table(root, "path,label", [20 + n % 5 for n in range(NUM)]), {"task": "regression"}


def a_given_split_and_weights(root):
    split = ["train"] * 10 + ["val"] * 4
    weights = [1 + n % 3 for n in range(NUM)]
    path = table(root, "path,kind,where,much", ["a", "b"] * (NUM // 2), split, weights)
    return path, {"columns": Columns(label="kind", split="where", weight="much")}


def labels(root):
    return table(root, "path,labels", [["a", "b|a", "c"][n % 3] for n in range(NUM)]), {}


def columns_of_numbers(root):
    path = table(root, "path,x,y", [n / 2 for n in range(NUM)], range(NUM))
    return path, {"columns": Columns(label=["x", "y"])}


def columns_of_labels(root):
    path = table(root, "path,wet,dark", [n % 2 for n in range(NUM)], [1] * NUM)
    return path, {"columns": Columns(label=["wet", "dark"])}


def a_column_of_masks(root):
    tree(root, {f"m/{n}.png": png(MASKS[n]) for n in range(NUM)})
    return table(root, "path,mask", [f"m/{n}.png" for n in range(NUM)]), {}


def images_beside_masks(root):
    for n in range(NUM):
        pair = {f"images/{n}.png": png(PICTURES[n]), f"masks/{n}.png": png(MASKS[n])}
        tree(root / "both", pair)
    return root / "both", {}


def arrays(root):
    np.savez(root / "data.npz", images=PICTURES, labels=np.arange(NUM) % 2)
    return root / "data.npz", {}


def arrays_of_numbers(root):
    np.savez(root / "data.npz", images=PICTURES, labels=np.arange(NUM) / 3)
    return root / "data.npz", {}


def shards(root):
    def samples(numbers):
        return {name: content for n in numbers for name, content in (
            (f"{n}.png", png(PICTURES[n])), (f"{n}.cls", ["cat", "dog"][n % 2]))}  # fmt: skip

    shard(root / "a-00.tar", samples(range(8)))
    shard(root / "a-01.tar", samples(range(8, NUM)))
    return root / "a-{00..01}.tar", {}


SOURCES = (
    classes, numbers_called_classes, a_given_split_and_weights, labels, columns_of_numbers,
    columns_of_labels, a_column_of_masks, images_beside_masks, arrays, arrays_of_numbers, shards,
)  # fmt: skip


def batches(splits):
    """Everything that a run would see of both parts, in order."""
    pipeline = augment.Compose([augment.RandomResizedCrop(8), augment.RandomHorizontalFlip()])
    for part in (splits.train, splits.val):
        found = train_batches(
            part, pipeline, seed=5, batch_size=4, start_images=0, stop_images=3 * NUM, threads=1,
            scaled_decoding=False,
        )  # fmt: skip
        for batch in found:
            yield batch.images, batch.targets, batch.indices
        yield part.task, part.classes, [part.name(n) for n in range(len(part))]
        yield None if part.weights is None else part.weights.tolist()


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_the_pack_gives_what_the_source_gives(make, tmp_path):
    path, settings = make(tmp_path)
    packed = pack(path, tmp_path / "cache", shard_bytes=900, show="quiet", **settings)
    assert packed.num_images == NUM
    for seed in (0, 3):
        expected = list(batches(data.open(path, seed=seed, **settings)))
        found = list(batches(data.open(tmp_path / "cache", seed=seed)))
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            for one, other in zip(ours or (), theirs or (), strict=True):
                same = torch.equal if isinstance(one, torch.Tensor) else np.array_equal
                assert same(one, other), make.__name__


def test_a_run_from_the_pack_ends_in_the_same_weights(tmp_path, toque):
    path = table(tmp_path, "path,x,y", [n / 2 for n in range(NUM)], range(NUM))
    said = ("--task", "regression", "--set", 'table.label=["x","y"]')
    code, words, _ = toque("pack", path, tmp_path / "cache", *said)
    assert code == 0 and f"{NUM} images" in words
    settings = {"model": "resnet10_small", "epochs": 1, "batch_size": 4, "image_size": 8}
    settings |= {"augment": "cifar", "scaled_decoding": False, "device": "cpu"}
    runs = [
        fit(Run(data=path, out=tmp_path / "a", task="regression", table={"label": ["x", "y"]},
                **settings), show="quiet"),
        fit(Run(data=tmp_path / "cache", out=tmp_path / "b", **settings), show="quiet"),
    ]  # fmt: skip
    ours, theirs = (run.model.state_dict() for run in runs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)
    assert runs[0].loss == runs[1].loss


def rewrite(path, content):
    path.write_bytes(content)


CHANGES = {
    "a label": (classes, "table.csv", lambda p: rewrite(p, p.read_bytes().replace(b"dog", b"cow"))),
    "an image": (labels, "3.png", lambda p: rewrite(p.parent / "pictures/3.png", png(PICTURES[0]))),
    "a mask of a table": (a_column_of_masks, r"m/5.png", lambda p: rewrite(p.parent / "m/5.png", png(MASKS[0]))),
    "a mask": (images_beside_masks, r"masks/5.png", lambda p: rewrite(p / "masks/5.png", png(MASKS[0]))),
    "a new image": (images_beside_masks, r"images/new.png", lambda p: rewrite(p / "images/new.png", png(PICTURES[0]))),
    "an image gone": (images_beside_masks, r"images/5.png", lambda p: (p / "images/5.png").unlink()),
    "arrays": (arrays, "data.npz", lambda p: np.savez(p, images=PICTURES, labels=1 - np.arange(NUM) % 2)),
    "a shard": (shards, "a-01.tar", lambda p: shard(p.parent / "a-01.tar", {"z.png": png(PICTURES[0]), "z.cls": "cat"})),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_pack_of_other_sources_that_changed_is_stale(what, tmp_path):
    make, name, change = CHANGES[what]
    path, settings = make(tmp_path)
    pack(path, tmp_path / "cache", show="quiet", **settings)
    for file in path.parent.rglob("*"):  # touched only: the content decides
        if file.is_file() and "cache" not in file.parts:
            os.utime(file, ns=(7, 7 * 10**9))
    before = data.open(tmp_path / "cache", seed=0)
    change(path)
    with pytest.raises(ValueError, match=rf"changed since: .*{name}.* Pack again with the same"):
        data.open(tmp_path / "cache", seed=0)
    if what == "an image gone":
        (path / "masks/5.png").unlink()
    if what == "a new image":
        rewrite(path / "masks/new.png", png(MASKS[0]))
    pack(path, tmp_path / "cache", show="quiet", **settings)
    again = data.open(tmp_path / "cache", seed=0)
    assert again.train.fingerprint() != before.train.fingerprint()
    expected, found = list(batches(data.open(path, seed=0, **settings))), list(batches(again))
    assert all(torch.equal(one[1], other[1]) for one, other in zip(found, expected, strict=True)
               if one and isinstance(one[1], torch.Tensor))  # fmt: skip


def test_without_its_sources_the_pack_stands_alone(tmp_path):
    path, settings = a_column_of_masks(tmp_path / "data")
    pack(path, tmp_path / "cache", show="quiet", **settings)
    shutil.rmtree(tmp_path / "data")
    splits = data.open(tmp_path / "cache", seed=0)
    assert len(splits.train) + len(splits.val) == NUM


def test_mistakes(tmp_path, toque):
    path, _ = classes(tmp_path)
    code, _, words = toque("pack", path, tmp_path / "c", "--set", "table.lable=x")
    assert code == 2 and "Did you mean table.label or" in words
    code, _, words = toque("pack", path, tmp_path / "c", "--task", "segmentation")
    assert (code == 2 and "is not an image of a known kind" in words) or "cannot be used" in words
    with pytest.raises(checks.UserMistake, match=r"table.label must be a column; got labe"):
        pack(path, tmp_path / "c", columns=Columns(label="labe"), show="quiet")


def test_weights_of_classes_are_settings_of_a_run(tmp_path, toque):
    path, _ = classes(tmp_path)
    out = tmp_path / "run"
    said = ("--out", out, "--set", "sampling.name=weighted", "--set")
    code, _, words = toque("train", path, *said, "sampling.class_weights.cow=2")
    assert code == 2 and "sampling: class_weights must be by the names of classes; got cow" in words
    assert not out.exists()
    run = Run(sampling={"name": "weighted", "class_weights": {"cat": 2, "a.b": 1}})
    (tmp_path / "run.toml").write_text(run.as_toml())
    assert load(tmp_path / "run.toml") == run
    assert load(None, {"sampling.class_weights": "equal"}).sampling.class_weights == "equal"
