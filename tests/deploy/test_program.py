"""What cannot be exported is named, with its place in the model."""

import pytest
import torch
from torch import nn

from toque import augment
from toque.deploy import onnx_file
from toque.deploy.details import FileDetails
from toque.deploy.preprocess import Preprocess
from toque.deploy.program import Program, noise, trace


class Choosing(nn.Module):
    """Its path depends on the values."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def program(*layers):
    return Program(Preprocess(augment.preset("none", 8), 3), nn.Sequential(*layers)).eval()


def test_a_path_that_depends_on_values_is_named():
    model = program(nn.Flatten(), Choosing(), nn.Linear(192, 2))
    with pytest.raises(
        ValueError, match="one graph of tensor operations; got 1, a Choosing"
    ) as error:
        trace(model, 3)
    assert "--to safetensors" in str(error.value)


class Doing(nn.Module):
    """Whatever a model of one's own may do."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(x)


def nested(what):
    return program(nn.Flatten(), nn.Sequential(nn.Identity(), Doing(what)), nn.Linear(192, 2))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda x: torch.from_numpy(x.detach().numpy() * 2), r"got 1\.1, a Doing \(RuntimeError"),
        (lambda x: sum(x for _ in range(int(x.mean() + 3))), r"got 1\.1, a Doing \(Guard"),
        (lambda x: x.reshape(2, 192), "got a model whose code fixes the batch"),
    ],
)
def test_what_is_no_graph_is_named_with_its_place(what, words, capfd):
    with pytest.raises(ValueError, match=words) as error:
        trace(nested(what), 3)
    assert "torch.where" in str(error.value) or "x.flatten(1)" in str(error.value)
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")  # no graph, no warnings


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            lambda x: x + torch.linalg.svdvals(x).sum(),
            r"got aten\._linalg_svd\.default in 1\.1\. R",
        ),
        (lambda x: x + torch.histc(x, 10).sum(), r"got aten\.histc\.default in 1\.1\. R"),
    ],
)
def test_an_operation_that_onnx_lacks_is_named_with_its_place(what, words, tmp_path):
    details = FileDetails("0", "own", ("a", "b"), 3, 8, "", "")
    with pytest.raises(ValueError, match=words) as error:
        onnx_file.write(trace(nested(what), 3), details, tmp_path / "m.onnx")
    assert "--to pt2" in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_model_that_is_no_classifier_is_refused():
    with pytest.raises(ValueError, match=r"scores \[B, K\]; got \[2, 4, 6, 6\]"):
        trace(program(nn.Conv2d(3, 4, 3)), 3)


def test_sizes_of_images_stay_free():
    model = program(nn.Flatten(), nn.Linear(192, 2))
    graph = trace(model, 3).module()
    for batch, height, width in ((1, 1, 1), (3, 40, 9), (2, 8, 8)):
        images = noise(batch, height, width, 3)
        torch.testing.assert_close(graph(images), model(images))


def test_one_size_is_kept_to():
    model = program(nn.Flatten(), nn.Linear(192, 2))
    graph = trace(model, 3, (20, 30)).module()
    for batch in (1, 5):
        images = noise(batch, 20, 30, 3)
        torch.testing.assert_close(graph(images), model(images))
    with pytest.raises(AssertionError, match=r"Guard failed: images\.size\(\)\[2\] == 30"):
        graph(noise(1, 20, 31, 3))
