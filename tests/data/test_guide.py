"""The guide runs as it stands: its Python, and the commands between."""

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from toque.cli import app

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "data.md"


def test_the_guide_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|console)\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, object] = {}
    for number, (kind, block) in enumerate(blocks):
        if kind == "python":
            exec(compile(block, f"{GUIDE.name}, block {number + 1}", "exec"), names)
            continue
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "toque"
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, (line, result.output, result.exception)
    assert (tmp_path / "check.html").is_file() and (tmp_path / "run" / "report.html").is_file()
    printed = capsys.readouterr().out
    quoted = re.search(r"Prints: `(.*?)`\n", text)
    assert quoted and quoted[1] in printed and "40 images" in printed
