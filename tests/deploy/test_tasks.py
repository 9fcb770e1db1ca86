"""Labels that are there or not, confidence by temperature, and what is neither classes nor labels."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import toque
from tests.deploy.serving import running
from tests.deploy.without_toque import asked
from toque import data, deploy
from toque.data.packed import pack
from toque.deploy.parity.shares import _lead
from toque.deploy.predictor import calibrated
from toque.random import Key
from toque.train import load_model
from toque.train.run_folder import outcome


def trained(folder, labels):
    """A short run on 32 pictures whose left or right half, or both or none, are bright."""
    folder.mkdir()
    noise = Key(0, 0, np.arange(32)).uniform("test", 16 * 16 * 3).numpy().reshape(32, 16, 16, 3)
    pixels = 80 * noise
    where = np.array([[n & 1, n >> 1 & 1] for n in range(32)], np.float32)
    pixels[:, :, :8] += 150 * where[:, 0, None, None, None]
    pixels[:, :, 8:] += 150 * where[:, 1, None, None, None]
    source = data.ArraySource(pixels.astype(np.uint8), labels(where), ["left", "right"])
    pack(data.Splits(source, source, source.classes, (), 3), folder / "cache", show="quiet")
    out = folder / "run"
    settings = {"batch_size": 8, "epochs": 12, "log": {"tensorboard": False}}
    toque.fit(toque.Run(data=str(folder / "cache"), out=str(out), **settings), show="quiet")
    return out, source


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("labels") / "here", lambda where: where)


def png(source, index):
    file = io.BytesIO()
    Image.fromarray(source.read(index).permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["onnx", "safetensors", "run"])
def test_each_label_is_answered_by_itself(labelled, tmp_path, kind):
    run, source = labelled
    if kind == "run":
        model = deploy.load(run)
    else:
        done = deploy.export(run, out=tmp_path / f"m.{kind}")
        assert done.parity.images == 32 and done.parity.accuracy == done.parity.accuracy_before
        assert "for each label" in done.card.read_text()
        model = deploy.load(done.file)
    whole, thresholds = load_model(run), outcome.read(run).thresholds
    images = [source.read(index) for index in range(4)]
    with torch.inference_mode():
        wanted = whole.model(whole.pipeline(images, key=Key(0, 0, np.arange(4)))).sigmoid().numpy()
    found = model([image.permute(1, 2, 0).numpy() for image in images])
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5)
    for answer, shares in zip(found, wanted, strict=True):
        expected = [
            name
            for name, share, least in zip(("left", "right"), shares, thresholds, strict=True)
            if share >= least
        ]
        assert list(answer.labels) == expected
    assert found[0].labels == () and found[3].labels == ("left", "right")  # none and both
    if kind == "onnx":
        for index in (0, 3):
            (tmp_path / "one.png").write_bytes(png(source, index))
            assert asked(done.file, tmp_path / "one.png") == list(found[index].labels)


def test_labels_in_the_command_and_over_http(labelled, toque, tmp_path):
    run, source = labelled
    model = deploy.export(run, out=tmp_path / "m.safetensors").file
    file = tmp_path / "both.png"
    file.write_bytes(png(source, 3))
    code, stdout, _ = toque("predict", model, file, "--json")
    assert code == 0 and json.loads(stdout)[0]["labels"] == ["left", "right"]
    code, stdout, _ = toque("predict", run, file, "--json", "--threshold", "1")
    assert code == 0 and json.loads(stdout)[0]["labels"] == []
    code, stdout, _ = toque("predict", run, file, "--csv", "--threshold", "0")
    head, row = stdout.splitlines()
    assert head == "image,label,confidence,labels,left,right,error" and row.split(",")[3] in (
        "left|right", "right|left",
    )  # fmt: skip
    (tmp_path / "none.png").write_bytes(png(source, 0))
    code, stdout, _ = toque("predict", model, file, tmp_path / "none.png")
    assert code == 0 and "left, right" in stdout and "none " in stdout
    with running(run) as server:
        assert server.ask(file.read_bytes())[2]["labels"] == ["left", "right"]
        assert server.ask(png(source, 0))[2]["labels"] == []
    code, _, stderr = toque("predict", model, file, "--calibrated")
    assert code == 2 and "knows its temperature" in stderr
    code, _, stderr = toque("predict", run, file, "--calibrated")
    assert code == 2 and "knows its temperature" in stderr


def test_a_label_that_changes_is_counted():
    theirs = np.array([[0.9, 0.4], [0.5004, 0.1], [0.2, 0.3]])
    ours = np.array([[0.9, 0.6], [0.4999, 0.1], [0.2, 0.3]])
    lead = _lead("multilabel", ours, theirs)
    np.testing.assert_allclose(lead, [0.1, 0.0004, 0.0])


# Confidence


def softened(run, images, temperature):
    """By the trained model itself: softmax(z / T)."""
    whole = load_model(run)
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    with torch.inference_mode():
        logits = whole.model(whole.pipeline(tensors, key=Key(0, 0, np.arange(len(images)))))
    return (logits / temperature).softmax(1).numpy()


@pytest.fixture(scope="module")
def temperature(run):
    found = outcome.read(run).scores.calibration.temperature
    assert abs(found - 1) > 0.01  # else the tests below would say nothing
    return found


IMAGES = [np.full((20, 20, 3), 30, np.uint8), np.arange(1200, dtype=np.uint8).reshape(20, 20, 3)]


@pytest.mark.parametrize("kind", ["run", "onnx", "safetensors"])
def test_the_temperature_softens_the_answers(run, exported, temperature, kind):
    model = deploy.load(run if kind == "run" else exported[kind].file)
    before = model(IMAGES).probabilities
    np.testing.assert_allclose(before, softened(run, IMAGES, 1.0), atol=1e-5)
    after = calibrated(model)
    np.testing.assert_allclose(
        after(IMAGES).probabilities, softened(run, IMAGES, temperature), atol=1e-5
    )
    assert calibrated(after) is after  # never twice


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_a_file_may_be_calibrated_itself(run, temperature, tmp_path, kind):
    done = deploy.export(run, out=tmp_path / f"m.{kind}", calibrate=True)
    assert done.parity.probability < 1e-5
    model = deploy.load(done.file)
    assert calibrated(model) is model
    np.testing.assert_allclose(
        model(IMAGES).probabilities, softened(run, IMAGES, temperature), atol=1e-5
    )
    assert "was calibrated (temperature" in done.card.read_text()


def test_calibrated_predictions_and_server(run, photos, temperature, toque):
    file = photos / "val" / "left" / "0.jpg"
    pixels = data.decode(file, channels=3).permute(1, 2, 0).numpy()
    wanted = softened(run, [pixels], temperature)[0].max()
    code, stdout, _ = toque("predict", run, file, "--json", "--calibrated")
    assert code == 0 and json.loads(stdout)[0]["confidence"] == pytest.approx(wanted, abs=1e-5)
    with running(run, calibrate=True) as server:
        found = server.ask(file.read_bytes())[2]["confidence"]
    assert found == pytest.approx(wanted, abs=1e-5)
