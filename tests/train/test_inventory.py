"""The images a run was begun with: written compactly, and what differs from them told by name."""

import gzip
import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.train.test_folder import run_in
from toque import data
from toque.train.run_folder import folder
from toque.train.run_folder import inventory as inventory_module
from toque.train.run_folder.inventory import Inventory


def pictures(root, count):
    """Pictures of noise in two class folders."""
    for kind in ("cat", "dog"):
        (root / kind).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 255, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / kind / f"{number}.png")
    return root


def opened_on(root, out):
    splits = data.open(root, seed=0)
    environment = {
        "data_fingerprint": splits.train.fingerprint() + splits.val.fingerprint(),
        "train_images": len(splits.train),
        "val_images": len(splits.val),
    }
    run = run_in(out, data=str(root))
    return folder.opened(run, environment, Inventory(splits))


def written(out):
    """What a run folder keeps of its images: [(part, name, stamp)]."""
    lines = gzip.decompress((out / "data.jsonl.gz").read_bytes()).splitlines()
    first, *blocks = map(json.loads, lines)
    assert first == {"format": 2}
    return [(part, *image) for part, *of in blocks for image in zip(*of, strict=True)]


def test_changed_data_is_told_by_its_files(tmp_path):
    root, out = pictures(tmp_path / "photos", 12), tmp_path / "r"
    with opened_on(root, out):
        pass
    with opened_on(root, out):
        pass
    shutil.copytree(root, tmp_path / "moved")
    with opened_on(tmp_path / "moved", out):  # the same images in another place
        pass
    where = {name: part for part, name, _ in written(out)}
    assert len(where) == 24 and set(where.values()) == {"train", "val"}
    for number in (3, 4, 5, 6):
        (root / "cat" / f"{number}.png").unlink()
    with (root / "dog" / "1.png").open("ab") as file:
        file.write(bytes(4))
    (root / "dog" / "2.png").rename(root / "cat" / "2b.png")
    with (
        pytest.raises(ValueError, match="has changed since it began") as refusal,
        opened_on(root, out),
    ):
        pass
    said = str(refusal.value)
    assert f"1 ({where['dog/1.png']}/dog/1.png) changed" in said
    assert "1 (train/cat/2b.png) added" in said or "1 (val/cat/2b.png) added" in said
    # Names are in the order of the run's parts: train first.
    gone = sorted(
        ["cat/3.png", "cat/4.png", "cat/5.png", "cat/6.png", "dog/2.png"],
        key=lambda name: (where[name], name),
    )
    shown = ", ".join(f"{where[name]}/{name}" for name in gone[:3])
    assert f"5 ({shown} and 2 more) removed" in said


def test_changed_data_without_a_readable_inventory_is_told_by_counts(tmp_path):
    root, out = pictures(tmp_path / "photos", 6), tmp_path / "r"
    with opened_on(root, out):
        pass
    (root / "cat" / "3.png").unlink()
    whole = (out / "data.jsonl.gz").read_bytes()
    for broken in (b"", whole[:40], b"no gzip"):
        (out / "data.jsonl.gz").write_bytes(broken)
        with pytest.raises(ValueError, match=r"images then, "), opened_on(root, out):
            pass
    (out / "data.jsonl.gz").unlink()
    with pytest.raises(ValueError, match=r"images then, "), opened_on(root, out):
        pass


def test_a_run_begun_by_an_older_toque_tells_its_files_too(tmp_path):
    root, out = pictures(tmp_path / "photos", 12), tmp_path / "r"
    with opened_on(root, out):
        pass
    entries = written(out)
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (out / "data.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    with opened_on(root, out):
        pass
    (root / "cat" / "3.png").unlink()
    part = next(part for part, name, _ in entries if name == "cat/3.png")
    with (
        pytest.raises(ValueError, match=rf"\(1 \({part}/cat/3.png\) removed\)"),
        opened_on(root, out),
    ):
        pass


def test_an_inventory_of_a_newer_toque_tells_nothing(tmp_path):
    inventory = Inventory(data.open(pictures(tmp_path / "photos", 4), seed=0))
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(b'{"format": 3}\n["train", [], []]\n'))
    assert inventory.changes(tmp_path) is None


def test_of_other_data_altogether_no_list_is_made(tmp_path, monkeypatch):
    Inventory(data.open(pictures(tmp_path / "photos", 6), seed=0)).write(tmp_path)
    shutil.move(tmp_path / "photos" / "cat", tmp_path / "photos" / "bird")
    other = Inventory(data.open(tmp_path / "photos", seed=0))
    assert "removed" in other.changes(tmp_path)
    monkeypatch.setattr(inventory_module, "_MOST_TOLD", 5)
    assert other.changes(tmp_path) is None


class Named(data.ArraySource):
    """Images whose names and stamps are given."""

    def __init__(self, stamps):
        super().__init__(torch.zeros(len(stamps), 1, 1, dtype=torch.uint8), [0] * len(stamps))
        self.stamps = stamps

    def name(self, index):
        return [*self.stamps][index]

    def stamp(self, index):
        return [*self.stamps.values()][index]


@given(
    before=st.dictionaries(st.sampled_from("abcdefghijkl"), st.sampled_from("12"), min_size=1),
    now=st.dictionaries(st.sampled_from("abcdefghijkl"), st.sampled_from("12"), min_size=1),
    at_once=st.integers(1, 5),
)
def test_what_changed_is_told_in_any_order_and_cut(before, now, at_once):
    def inventory(stamps):
        # The second part has the images of the first in another order.
        val = Named(dict(sorted(stamps.items())))
        return Inventory(data.Splits(Named(stamps), val, ("0",), (), 1))

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(inventory_module, "_AT_ONCE", at_once)
        inventory(before).write(Path(folder))
        told = inventory(now).changes(Path(folder))
    kinds = {
        "changed": {name for name in before if now.get(name, before[name]) != before[name]},
        "added": now.keys() - before.keys(),
        "removed": before.keys() - now.keys(),
    }
    expected = {kind: 2 * len(names) for kind, names in kinds.items() if names}
    found = {kind: int(number) for number, kind in re.findall(r"(\d+) \([^)]*\) (\w+)", told or "")}
    assert found == expected


def test_a_packed_cache_lists_the_names_and_checksums_of_its_images(tmp_path, monkeypatch):
    data.pack(pictures(tmp_path / "photos", 70), tmp_path / "cache", size=None)
    splits = data.open(tmp_path / "cache", seed=0)
    (tmp_path / "r").mkdir()
    monkeypatch.setattr(inventory_module, "_AT_ONCE", 10)
    Inventory(splits).write(tmp_path / "r")
    expected = [
        (part, source.name(index), source.stamp(index))
        for part, source in (("train", splits.train), ("val", splits.val))
        for index in range(len(source))
    ]
    assert written(tmp_path / "r") == expected and len(expected) == 140
    assert Inventory(splits).changes(tmp_path / "r") is None
    photos = data.open(tmp_path / "photos", seed=0)
    assert not splits.train.has_paths and photos.train.has_paths
    assert data.Joined(splits.train, photos.train).has_paths


def test_a_damaged_inventory_is_never_a_traceback(tmp_path):
    inventory = Inventory(data.open(pictures(tmp_path / "photos", 4), seed=0))
    inventory.write(tmp_path)
    file = tmp_path / "data.jsonl.gz"
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
        assert inventory.changes(tmp_path) is None


def test_pixels_changed_in_an_array_are_told_by_counts(tmp_path):
    pixels = torch.zeros(10, 4, 4, dtype=torch.uint8)
    labels = [0, 1] * 5
    for value, refused in ((0, False), (0, False), (1, True)):
        pixels[0, 0, 0] = value
        source = data.ArraySource(pixels, labels)
        splits = data.Splits(source, source, source.classes, (), 1)
        opened = folder.opened(
            run_in(tmp_path / "r"),
            {"data_fingerprint": source.fingerprint(), "train_images": 10, "val_images": 10},
            Inventory(splits),
        )
        if refused:
            with pytest.raises(ValueError, match=r"10 \+ 10 images then, 10 \+ 10 now"), opened:
                pass
        else:
            with opened:
                pass
