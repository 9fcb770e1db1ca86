"""The guide's code runs as it stands, from the first block to the last."""

import re
from pathlib import Path

import torch

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "architectures.md"


def test_the_guide_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 9
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{GUIDE.name}, block {number + 1}", "exec"), names)
    printed = capsys.readouterr().out
    quoted = re.search(r"Prints: `(.*?)`\n", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert quoted and " ".join(quoted[1].split()) in printed
    assert "would cost more" in printed or "more multiplications" in printed
