"""A run on several labels: each is named from the threshold that its run chose."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import toque
from toque import deploy
from toque.cli import app
from toque.deploy.details import read_details
from toque.deploy.predictions import Predictions
from toque.train.run_folder import outcome


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """48 squares, bright or large or both or neither; and a run on them whose thresholds are known."""
    folder = tmp_path_factory.mktemp("labelled")
    draw = np.random.default_rng(0)
    rows = ["path,labels,split"]
    for n in range(48):
        bright, large = n % 2, (n // 2) % 2
        image = draw.integers(0, 60, (16, 16), dtype=np.uint8)
        side = 11 if large else 4
        image[2 : 2 + side, 2 : 2 + side] += np.uint8(150 if bright else 60)
        Image.fromarray(image).save(folder / f"{n:02}.png")
        words = [word for word, yes in (("bright", bright), ("large", large)) if yes]
        rows.append(f"{n:02}.png,{'|'.join(words)},{'val' if n % 3 == 0 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(rows))
    run = toque.Run(
        data=str(folder / "labels.csv"), out=str(folder / "run"), epochs=3, batch_size=8,
        augment="none", optimizer={"name": "adamw", "learning_rate": 3e-3},
        log={"tensorboard": False},
    )  # fmt: skip
    result = toque.fit(run, show="quiet")
    assert result.classes == ("bright", "large")
    return folder


def test_a_run_keeps_the_thresholds_of_its_validation_images(labelled):
    kept = outcome.read(labelled / "run")
    assert len(kept.thresholds) == 2 and all(0 < one < 1 for one in kept.thresholds)
    assert [row[3] for row in kept.table.rows] == [f"{one:.3g}" for one in kept.thresholds]
    # A run of an older toque says nothing of them.
    file = labelled / "run" / "result.json"
    text = file.read_text()
    tree = json.loads(text)
    del tree["thresholds"]
    try:
        file.write_text(json.dumps(tree))
        assert outcome.read(labelled / "run").thresholds == ()
        assert deploy.load(labelled / "run").outputs.thresholds == ()
    finally:
        file.write_text(text)


def test_the_run_and_its_file_name_a_label_from_its_threshold_on(labelled):
    image = str(labelled / "01.png")
    shares = deploy.load(labelled / "run")([image])[0].probabilities
    file = labelled / "run" / "result.json"
    tree = json.loads(file.read_text())
    # One lies just below what is answered, one just above, both far from a half.
    tree["thresholds"] = [shares["bright"] - 1e-4, shares["large"] + 1e-4]
    file.write_text(json.dumps(tree))
    assert deploy.load(labelled / "run")([image])[0].labels == ("bright",)
    done = deploy.export(labelled / "run", to="safetensors", out=labelled / "m.safetensors")
    assert deploy.load(done.file).outputs.thresholds == pytest.approx(tree["thresholds"])
    assert deploy.load(done.file)([image])[0].labels == ("bright",)
    assert next(deploy.load(done.file).answers([image])).labels == ("bright",)
    assert f"bright {tree['thresholds'][0]:.3g}" in done.card.read_text()
    for more, labels in (((), ["bright"]), (("--threshold", "0"), ["bright", "large"])):
        said = CliRunner().invoke(app, ["predict", str(done.file), image, "--json", *more])
        assert sorted(json.loads(said.stdout)[0]["labels"]) == labels


def test_thresholds_that_do_not_fit_are_refused(labelled, tmp_path):
    from toque.deploy.details import FileDetails

    fine = FileDetails(
        "1", "m", ("a", "b"), 3, 32, "", "", task="multilabel", thresholds=(0.1, 0.9)
    )
    assert read_details(tmp_path / "x.onnx", fine.as_json()).thresholds == (0.1, 0.9)
    wrong = dataclasses.replace(fine, thresholds=(0.1,))
    with pytest.raises(ValueError, match=r"with a threshold of each of its 2 labels; got 1"):
        read_details(tmp_path / "x.onnx", wrong.as_json())


def test_without_thresholds_a_label_is_there_from_a_half_on():
    shares = np.array([[0.5, 0.49, 0.2]], np.float32)
    assert Predictions(("x",), ("a", "b", "c"), shares, True)[0].labels == ("a",)
    assert Predictions(("x",), ("a", "b", "c"), shares, True, (0.6, 0.4, 0.2))[0].labels == (
        "b",
        "c",
    )
    assert Predictions(("x",), ("a", "b", "c"), shares)[0].labels is None
