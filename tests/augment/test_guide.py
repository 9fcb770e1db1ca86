"""The guide's code blocks run as they stand, and its names exist."""

import re
from pathlib import Path

import pytest

from toque import augment

GUIDE = Path(__file__).parents[2] / "docs/guide/augmentation.md"


@pytest.mark.skipif(not GUIDE.exists(), reason="the guide is not part of an installed package")
def test_the_blocks_of_the_guide_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text(encoding="utf-8")
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 7
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    printed = capsys.readouterr().out
    (plan,) = re.findall(r"```text\n(.*?)\n```", text, flags=re.DOTALL)
    assert plan in printed


def test_every_public_name_is_documented():
    for name in augment.__all__:
        assert (getattr(augment, name).__doc__ or "").strip(), name
