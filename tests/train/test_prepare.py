"""What a person is told before a run begins."""

import numpy as np
import pytest
from PIL import Image

import toque
from toque import checks, data
from toque.train import prepare


def deep_pictures(folder, shift):
    """Gray pictures of 16 bits whose values use 16 - shift of them."""
    draw = np.random.default_rng(0)
    for number in range(6):
        pixels = draw.integers(0, 2**16, (16, 16), dtype=np.uint16) >> shift
        file = folder / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return str(folder)


@pytest.mark.parametrize(("shift", "dark"), [(0, False), (2, False), (4, True), (8, True)])
def test_pictures_that_use_the_lower_of_16_bits_alone_are_told(tmp_path, shift, dark):
    run = toque.Run(data=deep_pictures(tmp_path, shift), batch_size=2)
    said = prepare.notes(run, data.open(run.data, seed=0))
    assert len(said) == dark
    assert not dark or "nearly black: the largest value found is" in said[0]


def test_a_run_on_a_dataset_of_the_callers_own_says_where_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = toque.Run(data=prepare.OWN)
    with pytest.raises(
        checks.UserMistake, match=r"Continue it from there: toque\.fit\(run, train="
    ):
        prepare.open_splits(run, prepare.Own())
