"""trace_saved and the drawings."""

import xml.etree.ElementTree as ET

import pytest
import torch
from torch import nn

from toque.layers import graph, save_memory, trace_saved


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.body(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def trace():
    return trace_saved(Net(), torch.randn(2, 3, 6, 6))


def test_bytes_are_counted_once_and_without_parameters(trace):
    image, statistics, pooled = 2 * 8 * 4 * 4 * 4, 2 * 8 * 4, 2 * 8 * 4
    assert (
        trace.saved_bytes == 2 * image + statistics + pooled
    )  # conv's output, relu's; mean keeps none
    assert [tensor.num_bytes for _, tensor in trace.largest(2)] == [image, image]


def test_each_node_knows_its_module_and_its_line(trace):
    node = next(node for node in trace.nodes if node.name == "ReluBackward0")
    assert node.module == "" and "torch.relu(self.body(x))" in node.line
    assert node.line.startswith("test_saved.py:") and node.outputs == ("2x8x4x4 float32",)
    conv = next(node for node in trace.nodes if node.name == "ConvolutionBackward0")
    assert conv.module == "body.0" and "self.body(x)" in conv.line
    assert {t.kind for t in conv.saves} == {"input", "parameter"}
    (norm,) = node.inputs
    assert (
        trace.nodes[norm].name == "NativeBatchNormBackward0"
        and trace.nodes[norm].inputs[0] == conv.number
    )


def test_a_plain_function_is_traced_too():
    trace = trace_saved(lambda x: (x.exp() * 2).sum(), torch.ones(5, requires_grad=True))
    assert trace.saved_bytes == 20 and "ExpBackward0.result" in str(trace)


def test_without_a_graph_it_says_so():
    with pytest.raises(ValueError, match=r"leave torch\.no_grad"):
        trace_saved(torch.sin, torch.ones(2))


def test_the_same_place_of_every_block_is_added_up():
    block = lambda: nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 4))  # noqa: E731
    trace = trace_saved(nn.Sequential(block(), block(), block()), torch.randn(2, 4))
    (gelu,) = [place for place in trace.places() if place.saver == "GeluBackward0.self"]
    assert (gelu.module, gelu.count, gelu.num_bytes) == ("*.*", 3, 3 * 2 * 16 * 4)
    assert sum(place.num_bytes for place in trace.places()) == trace.saved_bytes
    assert "3 x GeluBackward0.self in *.*" in str(trace)
    assert "<td>3</td><td>GeluBackward0.self</td><td>*.*</td>" in graph.to_html(trace)


def test_save_memory_shows_in_the_trace():
    class Twice(nn.Sequential):
        pass

    model = Twice(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8))
    before = trace_saved(model, torch.randn(4, 8)).saved_bytes
    assert trace_saved(save_memory(model, min_bytes=0), torch.randn(4, 8)).saved_bytes == before / 2


def test_the_page_folds_by_module_and_lists_the_largest(trace, tmp_path):
    page = graph.write(trace, tmp_path / "graph.html", "a <net>").read_text()
    assert "<details><summary>body" in page and "a &lt;net&gt;" in page and "http" not in page
    assert page.index("The largest") < page.index("NativeBatchNormBackward0")
    assert page.count("<details>") == page.count("</details>") == 4  # body, 0, 1, head


def test_the_svg_has_a_box_for_each_node(trace, tmp_path):
    root = ET.parse(graph.write(trace, tmp_path / "graph.svg")).getroot()
    boxes = root.findall("{http://www.w3.org/2000/svg}g")
    assert len(boxes) == sum(not node.name.endswith("AccumulateGrad") for node in trace.nodes)


def test_another_ending_is_refused(trace, tmp_path):
    with pytest.raises(ValueError, match=r"a \.html or \.svg file"):
        graph.write(trace, tmp_path / "graph.png")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1234567, "1.2 MB"), (5e9, "5.0 GB")]
)
def test_sizes_in_words(count, text):
    assert graph.size(int(count)) == text
