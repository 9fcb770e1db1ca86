"""The guide runs: its blocks of Python, in order, in one namespace."""

import torch

from tests import guides
from toque import random


def test_the_guide_runs(tmp_path, capsys):
    random.seed_torch(0, "guide")
    guides.run("autograd.md", tmp_path)
    assert "AddmmBackward0" in capsys.readouterr().out
    torch._dynamo.reset()
