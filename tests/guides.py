"""The pages of docs/guide: their blocks of code, and what they say these print."""

import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toque.cli import app

FOLDER = Path(__file__).parents[1] / "docs" / "guide"


def text(page):
    if not FOLDER.is_dir():
        pytest.skip("the guide is not part of an installed package")
    return (FOLDER / page).read_text(encoding="utf-8")


def blocks(page, *languages):
    """The blocks of code in these languages, in order: [(language, code), ...]."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text(page), re.DOTALL | re.MULTILINE)
    assert len(found) == len(re.findall(r"^```\w+", text(page), re.MULTILINE)), "a block has no end"
    return [(language, code) for language, code in found if language in languages]


def printed(page):
    """What the page says is printed: the texts behind "Prints:", and its blocks of text."""
    quoted = re.findall(r"Prints: `(.*?)`\n", text(page), re.DOTALL)
    return [" ".join(one.split()) for one in quoted] + [
        shown.rstrip("\n") for _, shown in blocks(page, "text")
    ]


def run(page, folder):
    """Run the blocks as they stand, in order, from inside a folder; the names that Python made.

    python: one namespace; bash: a script each; console: one toque command a line, in this process
    """
    guide = types.ModuleType("guide")  # torch 2.11's compiler imports the module of a function
    runnable = blocks(page, "python", "bash", "console")
    assert runnable
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, guide.__name__, guide)
        patch.chdir(folder)
        for number, (language, code) in enumerate(runnable):
            if language == "python":
                # A file of its own: verify and trace_saved read source lines.
                source = Path(folder, f"{page} block {number}.py")
                source.write_text(code, encoding="utf-8")
                exec(compile(code, str(source), "exec"), vars(guide))
            elif language == "bash":
                script = code.replace("toque ", f"{sys.executable} -m toque ")
                subprocess.run(["bash", "-euc", script], check=True, capture_output=True)
            else:
                for line in code.splitlines():
                    program, *arguments = shlex.split(line)
                    assert program == "toque"
                    result = CliRunner().invoke(app, arguments)
                    assert result.exit_code == 0, (line, result.output, result.exception)
    return vars(guide)
