"""The index of a packed cache is read in place: the same answers as from lists in memory."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toque.data.packed import index as packed_index
from toque.data.packed.format import names_as_bytes
from toque.data.packed.index import Index, Names, mapped
from toque.data.splits import draw_validation

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)


@given(
    names=st.lists(TEXT | st.just("cat/\udcff.jpg"), max_size=40),
    stride=st.integers(1, 8), chunk_bytes=st.integers(1, 30),
)  # fmt: skip
def test_names_are_those_that_were_written(names, stride, chunk_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_index, "_STRIDE", stride)
        patch.setattr(packed_index, "_CHUNK_BYTES", chunk_bytes)
        found = Names(names_as_bytes(names))
        assert list(found) == names and len(found) == len(names)
        assert [found[number] for number in range(len(names))] == names
        assert found[1:-1] == names[1:-1]
        assert not names or found[-1] == names[-1]
    for number in (len(names), -len(names) - 1):
        with pytest.raises(IndexError):
            found[number]


@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=6), alike=st.booleans())
def test_an_index_is_its_shards_one_after_the_other(counts, alike):
    numbers = np.arange(sum(counts), dtype=np.uint64)
    heights = np.full(len(numbers), 3, np.uint64) if alike else numbers
    ends = np.cumsum(counts)
    shards = [
        {"offset": numbers[end - count : end] ** 2, "height": heights[end - count : end]}
        for count, end in zip(counts, ends, strict=True)
    ]
    index = Index(shards)
    assert len(index) == len(numbers) and np.array_equal(index["offset"], numbers**2)
    assert "height" in index and "width" not in index
    owner = np.repeat(np.arange(len(counts)), counts)
    assert np.array_equal(index.shards_of(np.arange(len(numbers))), owner)
    for number in range(len(numbers)):
        assert index.shard_of(number) == owner[number]
        assert index.at(number, "offset", "height") == [number**2, int(heights[number])]
    if len(numbers):
        assert index.all_alike("height") == (alike or len(numbers) == 1)


@given(labels=st.lists(st.integers(0, 3), max_size=30), fraction=st.sampled_from([0.01, 0.5, 0.99]))
def test_both_parts_get_an_image_of_every_class_that_has_two(labels, fraction):
    names = [f"{number}.jpg" for number in range(len(labels))]
    in_val = draw_validation(names, np.array(labels, np.int64), 7, fraction)
    for label in set(labels):
        chosen = in_val[np.array(labels) == label]
        assert not chosen.all() and (chosen.any() or len(chosen) == 1)


def test_how_many_names_are_hashed_at_a_time_moves_no_image(monkeypatch):
    names, labels = [f"{number}.jpg" for number in range(50)], np.arange(50) % 3
    whole = draw_validation(names, labels, 7, 0.3)
    monkeypatch.setattr("toque.data.splits._NAMES_AT_A_TIME", 7)
    assert np.array_equal(draw_validation(names, labels, 7, 0.3), whole)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_columns_lie_in_the_mapped_file(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "index"
    save_file({name: np.arange(1000, dtype=np.uint64) for name in ("offset", "height")}, path)
    columns = mapped(path)
    stretches = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(path))
    ]
    for column in columns.values():
        assert np.array_equal(column, np.arange(1000))
        assert any(start <= column.ctypes.data < stop for start, stop in stretches)
