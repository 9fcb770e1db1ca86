"""The guide runs: its blocks of Python, in order, in one namespace."""

import re
import sys
import types
from pathlib import Path

import torch

from toque import random

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "autograd.md"


def test_the_blocks_of_the_guide_run(tmp_path, capsys, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 10
    random.seed_torch(0, "guide")
    module = types.ModuleType("guide")  # torch 2.11's compiler imports the module of a function
    monkeypatch.setitem(sys.modules, "guide", module)
    names = vars(module)
    for number, block in enumerate(blocks):
        # A file of its own: verify and trace_saved read source lines.
        source = tmp_path / f"block{number}.py"
        source.write_text(block)
        exec(compile(block, str(source), "exec"), names)
    assert "AddmmBackward0" in capsys.readouterr().out
    torch._dynamo.reset()
