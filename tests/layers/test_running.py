"""Which modules are running: in order, innermost last, and nothing stays on the model."""

import pytest
import torch
from torch import nn

from toque.layers.running import modules_running


class Failing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("here")


def test_each_module_stands_inside_the_one_that_calls_it():
    model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.ReLU())
    seen, left = [], []

    def enter(path: str, module: nn.Module, inputs: tuple[torch.Tensor]) -> str:
        seen.append((path, len(inside), inputs[0].shape))
        return path.upper()

    def leave(path: str, kept: str, output: torch.Tensor) -> None:
        left.append((path, kept, output.item()))

    with modules_running(model.named_modules(), enter, leave) as inside:
        model(torch.tensor(-3.0))
        assert inside == []
    assert seen == [("", 0, ()), ("0", 1, ()), ("0.0", 2, ()), ("1", 1, ())]
    assert left == [("0.0", "0.0", 0.0), ("0", "0", 0.0), ("1", "1", 0.0), ("", "", 0.0)]
    model(torch.tensor(1.0))
    assert len(seen) == len(left) == 4


def test_where_a_forward_raises_its_modules_stay_on_the_list():
    model = nn.Sequential(nn.ReLU(), nn.Sequential(Failing()))
    with (
        pytest.raises(RuntimeError, match="here"),
        modules_running(model.named_modules(), lambda path, *_: path) as inside,
    ):
        model(torch.zeros(1))
    assert inside == ["", "1", "1.0"]
    assert not any(module._forward_hooks for module in model.modules())
