"""Wrong labels among the training images, found by the weights that were trained on them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import toque
from toque.data import open as open_data
from toque.train import reporting
from toque.train.metrics import answers as answer_files
from toque.train.metrics.answers import answers_of
from toque.train.metrics.suspects import unlearnt
from toque.train.run_folder.folder import REPORT
from toque.train.studies import contradicted

MISFILED = ("dark/05.png", "light/11.png", "light/17.png")


@pytest.fixture(scope="module")
def misfiled(tmp_path_factory):
    """48 dark or light pictures to train on, of which three lie in the wrong folder."""
    folder = tmp_path_factory.mktemp("misfiled")
    draw = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 4)):
        for name, level in (("dark", 60), ("light", 160)):
            (folder / "data" / part / name).mkdir(parents=True)
            for n in range(count):
                wrong = part == "train" and f"{name}/{n:02}.png" in MISFILED
                base = 220 - level if wrong else level
                pixels = base + draw.integers(-40, 40, (12, 12, 3))
                file = folder / "data" / part / name / f"{n:02}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    run = toque.Run(
        data=str(folder / "data"), out=str(folder / "run"), epochs=6, batch_size=8,
        augment="none", optimizer={"name": "adamw"}, log={"tensorboard": False},
    )  # fmt: skip
    toque.fit(run, show="quiet")
    return folder / "data", folder / "run"


def test_labels_that_were_not_learnt_are_named_and_shown(misfiled):
    data, run = misfiled
    found = contradicted.contradicted(run, show="quiet")
    training = [(one, read) for one, read in found if "training part" in one.says]
    ((finding, read),) = training
    names = [item.name for (item,) in finding.groups]
    assert sorted(names[:3]) == sorted(MISFILED), finding
    (item,) = finding.groups[names.index("dark/05.png")]
    assert item.label == "dark" and read(item).float().mean() > 110  # the picture is a light one
    answers, _ = answer_files.read(run, answer_files.LEARNT)
    assert sorted(answers.indices.tolist()) == list(range(48))
    page = reporting.write_report(run, open_data(str(data), seed=0)).read_text()
    assert "Training labels to check" in page and f"of {len(answers)} training images" in page
    for name in MISFILED:
        assert page.count(f">{name}<") >= 2  # a picture, and a row of the list


def test_answers_about_other_data_are_not_shown(misfiled, tmp_path):
    data, run = misfiled
    answers, fingerprint = answer_files.read(run, answer_files.LEARNT)
    answer_files.write(run, answers, "other", answer_files.LEARNT)
    reporting.write_report(run, open_data(str(data), seed=0))
    assert "Training labels to check" not in (run / REPORT).read_text()
    answer_files.write(run, answers, fingerprint, answer_files.LEARNT)


def test_what_is_contradicted_most_comes_first():
    shares = np.array([[0.6, 0.4], [0.45, 0.55], [0.2, 0.8], [0.9, 0.1]], np.float32)
    found = unlearnt(answers_of(np.array([7, 8, 9, 5]), np.array([1, 0, 0, 0]), shares))
    assert [one.row for one in found] == [2, 0, 1]  # by the lead: 0.6, 0.2, 0.1; the last is right
    assert (found[0].label, found[0].answer) == (0, 1)


def test_blocks_join_to_the_whole():
    shares = np.random.default_rng(0).dirichlet(np.ones(7), 9).astype(np.float32)
    targets = np.arange(9) % 7
    whole = answers_of(np.arange(9), targets, shares)
    parts = [answers_of(np.arange(9)[a:b], targets[a:b], shares[a:b]) for a, b in ((0, 4), (4, 9))]
    joined = answer_files.joined(parts)
    for name in ("indices", "targets", "top_classes", "top_probabilities", "target_probabilities"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert joined.num_classes == 7
