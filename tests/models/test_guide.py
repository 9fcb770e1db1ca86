"""The guide's code runs as it stands, from the first block to the last."""

import torch

from tests import guides


def test_the_guide_runs(tmp_path, capsys):
    torch.manual_seed(0)
    guides.run("architectures.md", tmp_path)
    printed = capsys.readouterr().out
    (quoted,) = guides.printed("architectures.md")
    assert quoted in printed
    assert "would cost more" in printed or "more multiplications" in printed
