"""Wrong labels among the training images, found by the weights that were trained on them."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import toque
from toque.data import open as open_data
from toque.train import reporting, restore
from toque.train.metrics.answers import answers_of
from toque.train.metrics.suspects import unlearnt
from toque.train.run_folder import doubted
from toque.train.run_folder.folder import REPORT, read_run
from toque.train.studies import contradicted, learnt

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
    training = [(one, read) for one, read in found if one.says.startswith("Training")]
    ((finding, read),) = training
    names = [item.name for (item,) in finding.groups]
    assert sorted(names[:3]) == sorted(MISFILED), finding
    (item,) = finding.groups[names.index("dark/05.png")]
    assert (
        item.label.startswith("dark (") and read(item).float().mean() > 110
    )  # the picture is a light one
    assert f"learnt from it: {len(names)} of 48. Look" in finding.says
    fingerprint = read_run(run)[1]["data_fingerprint"]
    assert [one.lead for one in doubted.read(run, fingerprint).doubts] == sorted(
        [one.lead for one in doubted.read(run, fingerprint).doubts], reverse=True
    )
    page = reporting.write_report(run, open_data(str(data), seed=0)).read_text()
    assert "Training labels to check" in page and f"learnt from it: {len(names)} of 48." in page
    for name in MISFILED:
        assert page.count(f">{name}<") >= 2  # a picture, and a row of the list


def test_doubts_about_other_data_are_not_shown(misfiled, tmp_path):
    data, run = misfiled
    contradicted.contradicted(run, show="quiet")
    fingerprint = read_run(run)[1]["data_fingerprint"]
    found = doubted.read(run, fingerprint)
    doubted.write(run, found, "other")
    reporting.write_report(run, open_data(str(data), seed=0))
    assert "Training labels to check" not in (run / REPORT).read_text()
    doubted.write(run, found, fingerprint)
    (tmp_path / doubted.FILE).write_text('{"data_fingerprint": "x", "doubts": [{"index": 1}]}')
    with pytest.raises(ValueError, match=r"training-doubts\.json.*Delete it, and ask again"):
        doubted.read(tmp_path, "x")


def test_blocks_are_put_together_by_their_images(misfiled, monkeypatch):
    _, run = misfiled
    whole = contradicted.contradicted(run, show="quiet")
    monkeypatch.setattr(learnt, "_BLOCK_IMAGES", 7)
    (run / doubted.FILE).unlink()
    assert [one for one, _ in contradicted.contradicted(run, show="quiet")] == [
        one for one, _ in whole
    ]


def test_what_the_run_kept_is_not_asked_again(misfiled, monkeypatch, tmp_path):
    data, run = misfiled
    (run / doubted.FILE).unlink(missing_ok=True)
    asked = []

    def counted(trained, source):
        asked.append(len(source))
        return answers(trained, source)

    answers = restore.answers
    monkeypatch.setattr(restore, "answers", counted)
    first = [one for one, _ in contradicted.contradicted(run, show="quiet")]
    assert asked == [48]  # the training images; those of validation were answered when it ended
    assert [one for one, _ in contradicted.contradicted(run, show="quiet")] == first
    assert asked == [48]
    # A file written since, and weights that are others: all is asked anew.
    picture = data / "val/dark/00.png"
    content = picture.read_bytes()
    later = (run / "data.jsonl.gz").stat().st_mtime_ns + 10**9
    os.utime(picture, ns=(later, later))
    again = [one for one, _ in contradicted.contradicted(run, show="quiet")]
    assert asked == [48, 8, 48] and again == first
    os.utime(picture, ns=(later - 10**12, later - 10**12))
    assert picture.read_bytes() == content
    outcome_of = learnt.outcome.read
    monkeypatch.setattr(learnt.outcome, "read", lambda path: replace(outcome_of(path), sha256="x"))
    assert [one for one, _ in contradicted.contradicted(run, show="quiet")] == first
    assert asked == [48, 8, 48, 8, 48]


def test_what_is_contradicted_most_comes_first():
    shares = np.array([[0.6, 0.4], [0.45, 0.55], [0.2, 0.8], [0.9, 0.1]], np.float32)
    found = unlearnt(answers_of(np.array([7, 8, 9, 5]), np.array([1, 0, 0, 0]), shares))
    assert [one.row for one in found] == [2, 0, 1]  # by the lead: 0.6, 0.2, 0.1; the last is right
    assert (found[0].label, found[0].answer) == (0, 1)
