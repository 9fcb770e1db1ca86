"""What a finished run leaves in its folder, and what can be read of it again."""

from __future__ import annotations

import json

import numpy as np
import pytest

import toque
from tests.train import runs
from toque.train import reporting
from toque.train.metrics import answers as answer_files
from toque.train.metrics import temperature_of
from toque.train.run_folder import outcome
from toque.train.tasks import ClassEvaluation, Classification


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return runs.train(folder, epochs=2)


def test_the_outcome_is_read_back_as_it_was(run):
    ended = outcome.read(run.out)
    assert ended.accuracy == run.accuracy and ended.loss == run.loss
    assert ended.images_seen == run.images_seen
    assert ended.scores.as_dict() == run.scores.as_dict()
    assert "epochs" in ended.given and "image_size" not in ended.given
    assert temperature_of(run.out) == pytest.approx(run.scores.calibration.temperature, rel=1e-5)


def test_every_validation_image_is_answered_once(run):
    answers, fingerprint = answer_files.read(run.out)
    assert sorted(answers.indices) == list(range(len(runs.VAL)))
    assert np.array_equal(answers.targets, runs.VAL.labels[answers.indices])
    assert answers.right.mean() == pytest.approx(run.accuracy)
    assert answers.losses.mean() == pytest.approx(run.loss, rel=1e-4)
    assert fingerprint == toque.train.run_folder.folder.read_run(run.out)[1]["data_fingerprint"]


def test_the_last_line_says_how_sure_the_accuracy_is(run):
    assert run.summary().startswith(f"accuracy {run.scores.accuracy.percent()}, loss ")
    assert run.summary().endswith(" on 30 validation images")


def test_answers_that_name_no_classes_have_no_scores():
    numbers = np.empty((0, 0), np.float32)
    found = ClassEvaluation(0.5, {}, Classification.metrics, np.arange(3), np.arange(3), numbers)
    assert found.scores(0) is None and found.summary(None) == "loss 0.5000 on 3"


def test_a_folder_is_reported_again_without_data_or_model(run):
    before = run.report.read_text()
    again = reporting.write_report(run.out, None).read_text()
    assert "worst mistakes" not in again and "What the model saw" not in again
    assert reporting.write_report(run.out, None).read_text() == again
    for words in ("Confusion", "Learning rate", run.scores.accuracy.percent().split(" ")[0]):
        assert words in again and words in before


def test_a_run_that_has_not_finished_is_reported_too(run, tmp_path):
    for name in ("run.toml", "metrics.jsonl"):
        (tmp_path / name).write_text((run.out / name).read_text())
    text = reporting.write_report(tmp_path, None).read_text()
    assert "unfinished" in text and "Learning rate" in text and "Confusion" not in text


def test_a_damaged_result_is_named(run, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"loss": 1}))
    with pytest.raises(ValueError, match=r"result\.json.*training command again"):
        outcome.read(tmp_path)
