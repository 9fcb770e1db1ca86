"""The training guide's code blocks run as they stand, one after the other."""

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs/guide/training.md"


@pytest.mark.skipif(not GUIDE.exists(), reason="the guide is not part of an installed package")
def test_the_blocks_of_the_guide_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text(encoding="utf-8")
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    printed, said = capsys.readouterr()
    assert "killed in step 24" in printed
    (planned,) = re.findall(r"```text\n(.*?)\n```", text, flags=re.DOTALL)
    assert planned in said


def test_the_settings_it_names_exist():
    from toque.train.run import Run

    for path in re.findall(r"`([a-z]+\.[a-z_]+)(?: = [^`]*)?`", GUIDE.read_text(encoding="utf-8")):
        section, key = path.split(".")
        if hasattr(Run(), section):
            assert key in type(getattr(Run(), section)).model_fields, path
