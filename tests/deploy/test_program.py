"""What cannot be exported is named, with its place in the model."""

import pytest
import torch
from torch import nn

from toque import augment
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


def test_a_model_that_is_no_classifier_is_refused():
    with pytest.raises(ValueError, match=r"scores \[B, K\]; got \[2, 4, 6, 6\]"):
        trace(program(nn.Conv2d(3, 4, 3)), 3)


def test_sizes_of_images_stay_free():
    model = program(nn.Flatten(), nn.Linear(192, 2))
    graph = trace(model, 3).module()
    for batch, height, width in ((1, 1, 1), (3, 40, 9), (2, 8, 8)):
        images = noise(batch, height, width, 3)
        torch.testing.assert_close(graph(images), model(images))
