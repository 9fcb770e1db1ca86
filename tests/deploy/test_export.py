"""Exported files answer as the run does, and a file that does not is not kept."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors import safe_open

from toque import data, deploy
from toque.deploy import formats, parity
from toque.random import Key
from toque.train import load_model

KINDS = ("onnx", "pt2", "safetensors")


def noise(height, width, seed=0):
    numbers = Key(seed, 0, np.arange(1)).uniform("test", height * width * 3)
    return (numbers * 256).to(torch.uint8).view(height, width, 3).numpy()


def expected(run, image):
    """By the trained model itself, through the pipeline of validation."""
    trained = load_model(run)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    with torch.inference_mode():
        pixels = trained.pipeline([tensor], key=Key(0, 0, np.arange(1)))
        return trained.model(pixels).softmax(1)[0].numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_answers_as_the_run(run, exported, kind):
    images = [noise(16, 16), noise(90, 31), noise(1, 7), noise(16, 16, seed=1)]
    found = deploy.load(exported[kind].file)(images)
    assert found.labels == ("left", "right") and len(found) == 4
    for number, image in enumerate(images):
        np.testing.assert_allclose(found.probabilities[number], expected(run, image), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_image_files(photos, exported, kind, run):
    file = photos / "val" / "right" / "0.jpg"
    pixels = data.decode(file, channels=3).permute(1, 2, 0).numpy()
    (answer,) = deploy.load(exported[kind].file)([file])
    assert answer.image == str(file)
    wanted = expected(run, pixels)
    assert answer.label == ("left", "right")[wanted.argmax()]
    np.testing.assert_allclose(list(answer.probabilities.values()), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parity_that_is_reported(exported, kind):
    found = exported[kind].parity
    assert found.images == 8 and found.hard_cases > 10 and found.changed == 0
    assert found.probability < 1e-5 and found.problem is None
    assert found.accuracy == found.accuracy_before


def test_onnx_needs_nothing_of_toque(run, exported):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(exported["onnx"].file))
    assert [entry.name for entry in session.get_inputs()] == ["images"]
    assert [entry.name for entry in session.get_outputs()] == ["probabilities", "logits"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == ["left", "right"] and metadata["version"]
    image = noise(40, 23)
    shares, logits = session.run(None, {"images": np.stack([image] * 3)})
    assert shares.shape == logits.shape == (3, 2)
    np.testing.assert_allclose(shares[2], expected(run, image), atol=1e-5)


def test_a_card_stands_beside_each_file(exported):
    cards = {kind: exported[kind].card for kind in KINDS}
    assert len(set(cards.values())) == 3 and cards["onnx"].name == "README.md"
    text = cards["pt2"].read_text()
    assert "model.pt2" in text and "License" in text and "8 validation images" in text


def test_a_readme_of_someone_else_is_left_alone(run, tmp_path):
    (tmp_path / "README.md").write_text("# Mine\n")
    done = deploy.export(run, out=tmp_path / "m.safetensors")
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    assert done.card == tmp_path / "m.safetensors.md"
    again = deploy.export(run, out=tmp_path / "m.safetensors")
    assert again.card == done.card and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_answers_otherwise_is_not_kept(run, tmp_path, monkeypatch, kind):
    old = tmp_path / f"m.{kind}"
    old.write_bytes(b"the one before")
    write = formats.write

    def wrong(*arguments):
        answers, folded = write(*arguments)

        def off(images):
            shares, logits = answers(images)
            return shares[:, ::-1], logits

        return off, folded

    monkeypatch.setattr(formats, "write", wrong)
    with pytest.raises(ValueError, match=r"as right as the run; got a probability differs by"):
        deploy.export(run, out=old)
    assert old.read_bytes() == b"the one before" and list(tmp_path.iterdir()) == [old]


def test_answers_that_are_no_numbers_are_a_problem():
    found = parity.Parity(1, 0, float("nan"), 0.0, 0, None, None)
    assert found.problem is not None
    assert parity.Parity(1, 0, 1e-6, 0.0, 1, None, None).problem == "1 predictions changed"
    assert parity.Parity(1, 0, 1e-6, 0.0, 0, None, None).problem is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"to": "onx"}, "Did you mean onnx"),
        ({"to": "pt2", "out": "model.onnx"}, "ends in .pt2"),
        ({"out": "model.bin"}, "ends in .onnx"),
        ({"out": "nowhere/model.onnx"}, "folder that exists"),
    ],
)
def test_mistakes_are_told_apart(run, given, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        deploy.export(run, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there_is_told_before_anything_is_loaded(run, exported):
    for source in (run, exported["safetensors"].file):
        with pytest.raises(ValueError, match=r"one this machine has; got cuda:77 \(\w"):
            deploy.load(source, device="cuda:77")
        with pytest.raises(ValueError, match=r"got gpu \(torch knows no such device\)"):
            deploy.load(source, device="gpu")
    with pytest.raises(ValueError, match=r"cpu for a .onnx file; got cuda\. For a GPU, load the"):
        deploy.load(exported["onnx"].file, device="cuda")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_damaged_files_are_refused(exported, tmp_path, kind, damage):
    whole = exported[kind].file.read_bytes()
    content = {"half": whole[: len(whole) // 2], "empty": b"", "text": b"this is no model"}[damage]
    file = tmp_path / f"m.{kind}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="must be a whole"):
        deploy.load(file)


def changed_archive(source, target, change):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return target


def test_an_archive_that_holds_more_than_data_is_refused(exported, tmp_path):
    file = exported["pt2"].file

    def other_call(name, content):
        if not name.endswith("models/model.json"):
            return content
        assert b"torch.ops.aten.conv2d.default" in content
        return content.replace(b"torch.ops.aten.conv2d.default", b"torch.hub.load")

    with pytest.raises(ValueError, match=r"got the operation torch\.hub\.load"):
        deploy.load(changed_archive(file, tmp_path / "a.pt2", other_call))

    def pickled(name, content):
        return content.replace(b'"use_pickle": false', b'"use_pickle": true')

    with pytest.raises(ValueError, match="got a pickle"):
        deploy.load(changed_archive(file, tmp_path / "b.pt2", pickled))
    more = changed_archive(file, tmp_path / "c.pt2", lambda name, content: content)
    assert deploy.load(more).labels == ("left", "right")
    with zipfile.ZipFile(more, "a") as archive:
        archive.writestr("c/data/aotinductor/model.so", b"")
    with pytest.raises(ValueError, match="an entry c/data"):
        deploy.load(more)


def test_a_file_of_someone_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="one without toque's metadata"):
        deploy.load(tmp_path / "a.safetensors")


def test_loading_a_file_imports_no_training(exported):
    code = (
        "import sys, numpy as np\nfrom toque import deploy\n"
        "for file in sys.argv[1:]:\n"
        "    found = deploy.load(file)([np.zeros((9, 9, 3), np.uint8)])\n"
        "    assert len(found) == 1\n"
        "    assert not [name for name in sys.modules if name.startswith('toque.train')]\n"
        "    if file.endswith('.onnx'):  # no network is built: the start stays short\n"
        "        assert 'toque.models' not in sys.modules\n"
    )
    files = [str(exported[kind].file) for kind in KINDS]
    assert files[0].endswith(".onnx")  # before anything else could have loaded what it must not
    subprocess.run([sys.executable, "-c", code, *files], check=True)


def test_the_weights_are_the_runs(run, exported):
    with (
        safe_open(run / "weights.safetensors", "pt") as ours,
        safe_open(exported["safetensors"].file, "pt") as theirs,
    ):
        assert set(ours.keys()) == set(theirs.keys())
        for name in ours.keys():  # noqa: SIM118
            assert torch.equal(ours.get_tensor(name), theirs.get_tensor(name))
