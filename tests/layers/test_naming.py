"""Layers and inputs by name, and the two verbs."""

import json

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from toque.cli import graph, verify
from toque.layers.naming import find_layer, make_input

from . import museum


class Wrong(museum.Gate):
    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_w = museum.Gate.backward(ctx, grad)
        return grad_x, 3 * grad_w


def test_layers_by_name():
    layer = find_layer("torch.nn:Linear(5, 4, bias=False)")
    assert isinstance(layer, nn.Linear) and layer.bias is None
    assert isinstance(find_layer("torch.nn:GELU"), nn.GELU)
    assert find_layer("torch.nn.functional:gelu") is torch.nn.functional.gelu
    assert find_layer(f"{__name__}:Wrong") == Wrong.apply


def test_inputs_by_shape():
    assert make_input("2x8x16").shape == (2, 8, 16) and make_input("").shape == ()
    assert torch.equal(make_input("3"), make_input("3"))
    assert not torch.equal(make_input("3"), make_input("3", position=1))
    classes = make_input("50:int4")
    assert classes.dtype == torch.int64 and set(classes.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: find_layer("no.such:Layer"), "importable as package.module:Name"),
        (lambda: find_layer("torch.nn:Linear"), r"write for example torch.nn:Linear\(8,16\)"),
        (lambda: find_layer("torch.nn:Linear(x, 3)"), "plain arguments"),
        (lambda: make_input("2x"), "like 2x8x16x16"),
        (lambda: make_input("2:float"), "like 2x8x16x16"),
    ],
)
def test_a_mistake_is_said_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def invoke(verb, *arguments):
    app = typer.Typer()
    app.command()(verb)
    return CliRunner().invoke(app, list(arguments))


def test_the_verb_verify_prints_a_table_or_json_and_exits_by_the_answer():
    skip = ["--skip", "torch.compile"]
    good = invoke(verify.verify, "torch.nn:GELU", "--input", "2x3", *skip)
    assert good.exit_code == 0 and "gradients" in good.output
    bad = invoke(
        verify.verify, f"{__name__}:Wrong", "--input", "4x3", "--input", "3", "--json", *skip
    )
    assert bad.exit_code == 1
    found = json.loads(bad.output)
    assert "3 times" in next(f["cause"] for f in found["findings"] if f["check"] == "gradients")


def test_the_verb_graph_writes_the_page(tmp_path):
    page = tmp_path / "graph.html"
    done = invoke(graph.graph, "torch.nn:Conv2d(3,4,3)", "--input", "1x3x8x8", "-o", str(page))
    assert done.exit_code == 0 and "ConvolutionBackward0" in page.read_text(), done.output
