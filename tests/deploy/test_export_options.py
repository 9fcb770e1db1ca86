"""Half precision, int8, one size, fewer layers, machine code; and a reader without PyTorch."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from tests.deploy.serving import running
from tests.deploy.test_export import expected, noise
from toque import augment, deploy, models, random
from toque.deploy import deployed, formats, parity
from toque.deploy.card import how_to_ask
from toque.deploy.details import FileDetails
from toque.deploy.predictor import Network


@pytest.mark.parametrize("kind", ["onnx", "pt2", "safetensors"])
def test_half_halves_the_file_and_keeps_the_answers(run, exported, tmp_path, kind):
    done = deploy.export(run, out=tmp_path / f"m.{kind}", precision="half")
    whole = exported[kind].file.stat().st_size
    assert done.file.stat().st_size < 0.75 * whole  # the graph and the small tensors stay
    images = [noise(16, 16), noise(90, 31)]
    found = deploy.load(done.file)(images)
    for number, image in enumerate(images):
        wanted = expected(run, image)
        np.testing.assert_allclose(found.probabilities[number], wanted, atol=2e-2)
    assert done.parity.probability > exported[kind].parity.probability  # it was rounded
    assert "float16" in done.card.read_text()


def test_half_narrows_matrices_alone(run, tmp_path):
    done = deploy.export(run, out=tmp_path / "m.safetensors", precision="half")
    with safe_open(done.file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            tensor = opened.get_tensor(name)
            if tensor.is_floating_point():
                wanted = torch.float16 if tensor.ndim >= 2 else torch.float32
                assert tensor.dtype == wanted, name


def test_int8_computes_on_whole_numbers(run, tmp_path, exported):
    done = deploy.export(run, out=tmp_path / "m.onnx", precision="int8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "m.onnx"]
    assert done.parity.accuracy == done.parity.accuracy_before
    assert done.file.stat().st_size < 0.6 * exported["onnx"].file.stat().st_size
    graph = onnx.load(done.file)
    stored = {entry.name: entry.data_type for entry in graph.graph.initializer}
    kernels = [
        node.input[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"
        and stored.get(node.input[0]) == onnx.TensorProto.INT8
    ]  # fmt: skip
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert len(kernels) >= len(convolutions) > 0
    labels = json.loads(onnx_metadata(done.file)["labels"])
    assert labels == ["left", "right"] == list(deploy.load(done.file).labels)


def onnx_metadata(file):
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


def test_int8_that_costs_too_much_is_not_kept(run, tmp_path, monkeypatch):
    def flipped(kind, network, details, file, calibration):
        assert kind == "onnx" and calibration[0].shape == (16, 16, 3) and len(calibration) == 24
        file.write_bytes(b"numbers")
        return lambda images: [
            answer[:, ::-1] for answer in parity.network_answers(network, images)
        ], "nothing"

    monkeypatch.setattr(formats, "write", flipped)
    with pytest.raises(ValueError, match=r"points of accuracy lost, more than 1\. .*--max-loss"):
        deploy.export(run, out=tmp_path / "m.onnx", precision="int8")
    assert list(tmp_path.iterdir()) == []
    done = deploy.export(run, out=tmp_path / "m.onnx", precision="int8", max_loss=1.0)
    assert done.file.is_file() and done.parity.accuracy < done.parity.accuracy_before


def test_a_lost_point_and_a_gained_one():
    tolerance = parity.Tolerance(1.0, 1e-3, 0.01)
    for after, kept in ((0.79, False), (0.795, True), (0.9, True)):
        found = parity.Parity(100, 10, 0.3, 0.1, 7, after, 0.8, tolerance)
        assert (found.problem is None) is kept, found.problem
    broken = parity.Parity(100, 10, float("inf"), 0.1, 7, 0.9, 0.8, tolerance)
    assert broken.problem is not None


def test_one_size(run, tmp_path):
    done = deploy.export(run, out=tmp_path / "m.onnx", size=(24, 40))
    model = deploy.load(done.file)
    image = noise(24, 40)
    np.testing.assert_allclose(model([image]).probabilities[0], expected(run, image), atol=1e-5)
    with pytest.raises(ValueError, match=r"of 24 x 40 pixels \(H x W\); got 40 x 24"):
        model([noise(40, 24)])
    with running(done.file) as server:
        for size, status in (((40, 24), 200), ((24, 40), 422)):  # Pillow says the width first
            file = io.BytesIO()
            Image.new("RGB", size).save(file, "PNG")
            assert server.ask(file.getvalue())[0] == status
    assert "H = 24 and W = 40" in done.card.read_text()


def test_batch_norm_is_folded_in_programs_alone(exported):
    with zipfile.ZipFile(exported["pt2"].file) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("models/model.json")]
        graph = archive.read(name).decode()
    assert "aten.conv2d" in graph and "batch_norm" not in graph
    assert " layers to " in exported["pt2"].folded and " layers to " in exported["onnx"].folded
    assert exported["safetensors"].folded.startswith("nothing")


def test_branches_become_one_convolution():
    sizes = {"local": 3, "point": 1, "other": 3}
    branches = models.Parallel(
        {name: nn.Conv2d(3, 4, size, padding=size // 2) for name, size in sizes.items()}, "sum"
    )
    model = nn.Sequential(branches, nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten()).eval()
    images = torch.rand(2, 3, 8, 8)
    fused, words = deployed.fused(model, images)
    convolutions = [part for part in fused.modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 1 and words.startswith("7 layers to 2, scores within ")
    torch.testing.assert_close(fused(images), model(images))


def test_what_cannot_be_folded_stays():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    same, words = deployed.fused(model, torch.rand(1, 3, 2, 2))
    assert same is model and words == "nothing to fold"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"to": "pt2", "precision": "int8"}, "--int8 must be written as onnx; got pt2"),
        ({"precision": "float16"}, "one of float32, half, int8; got float16"),
        ({"size": (0, 10)}, "a height and a width in pixels"),
        ({"to": "safetensors", "size": (8, 8)}, "--size must be for a program"),
        ({"max_loss": 2.0}, "a share of accuracy"),
    ],
)
def test_choices_that_do_not_fit(run, given, words):
    with pytest.raises(ValueError, match=words):
        deploy.export(run, **given)


def test_the_command(run, toque, tmp_path):
    code, _, stderr = toque("export", run, "--size", "24")
    assert code == 2 and "--size 480x640" in stderr
    code, _, stderr = toque("export", run, "--half", "--int8")
    assert code == 2 and "Leave one out" in stderr
    out = tmp_path / "m.onnx"
    code, stdout, _ = toque("export", run, "--half", "--size", "16x16", "-o", out)
    assert code == 0 and out.is_file() and stdout.startswith("folded   ")


# Machine code


def compiled(details, file, name="model.aoti"):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"m/data/aotinductor/{name}", b"")
        if details is not None:
            archive.writestr("m/extra/toque.json", details)
    return file


def test_machine_code_asks_for_trust(tmp_path, toque):
    file = compiled(None, tmp_path / "m.aoti")
    with pytest.raises(
        ValueError, match=r"it is machine code .* load\(file, trust=True\), or --tr"
    ):
        deploy.load(file)
    code, _, stderr = toque("predict", file, "no.jpg")
    assert code == 2 and "--trust" in stderr
    with pytest.raises(ValueError, match="without toque's metadata"):
        deploy.load(file, trust=True)
    file.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="must be a whole compiled file"):
        deploy.load(file, trust=True)


def test_the_command_that_asks_machine_code_trusts_it():
    assert how_to_ask("m.aoti") == "toque predict m.aoti IMAGE --trust"
    assert how_to_ask(Path("runs/m.onnx")) == "toque predict runs/m.onnx IMAGE"


def test_without_a_compiler(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"got none of no-such-compiler. Install one .*--to pt2"):
        deploy.export(run, out=tmp_path / "m.aoti")
    assert list(tmp_path.iterdir()) == []


def test_the_formats_are_told_by_their_endings():
    assert formats.FORMATS == ("onnx", "pt2", "aoti", "safetensors")


# Without PyTorch

WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "toque"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for absent in ("torch", "toque"):
    try:
        __import__(absent)
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit(f"{absent} was there")

import json
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
image = numpy.load(sys.argv[2])
(shares,) = session.run(["probabilities"], {"images": image[None]})
labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
assert not [name for name in sys.modules if name.partition(".")[0] in ("torch", "toque")]
print(json.dumps(dict(zip(labels, shares[0].tolist()))))
"""


def test_an_onnx_file_answers_where_there_is_no_pytorch(run, exported, tmp_path):
    image = noise(40, 23)
    np.save(tmp_path / "image.npy", image)
    command = [sys.executable, "-I", "-c", WITHOUT_TORCH]
    done = subprocess.run(
        [*command, str(exported["onnx"].file), str(tmp_path / "image.npy")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert list(answer) == ["left", "right"]
    np.testing.assert_allclose(list(answer.values()), expected(run, image), atol=1e-5)


# Models of others


@pytest.mark.parametrize(("name", "size"), [("timm/test_resnet", 64), ("timm/test_vit", 160)])
def test_models_of_timm(name, size, tmp_path):
    """A dozen more: benchmarks/deploy.py --parity."""
    random.seed_torch(0, "test")
    module = models.create(name, num_classes=4, in_channels=3, image_size=size).eval()
    for parameter in module.parameters():  # random weights hardly answer: let them
        parameter.data.mul_(1.5)
    network = Network(module, augment.preset("none", size))
    details = FileDetails("test", name, ("a", "b", "c", "d"), 3, size, "", "")
    answers, _ = formats.write("onnx", network, details, tmp_path / "m.onnx")
    images = [noise(90, 120), noise(200, 150)]
    found = parity.measure(network, answers, images, [np.array(0), np.array(1)], channels=3)
    assert found.problem is None and found.logit < 1e-4
    shares = parity.network_answers(network, np.stack(images[:1]))[0]
    assert shares.max() - shares.min() > 1e-3  # else the above would say nothing
