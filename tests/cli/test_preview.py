"""toque preview writes one picture, and says what is wrong in one sentence."""

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from toque import checks
from toque.cli.preview import preview

app = typer.Typer()
app.command()(preview)


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_it_writes_originals_and_draws(tmp_path):
    out = tmp_path / "grids" / "grid.png"
    result = run(
        "fashion", "-o", str(out), "--images", "3", "--draws", "2", "--set", "augment=cifar"
    )
    assert result.exit_code == 0, result.output
    assert "3 images, 2 draws of each" in result.output and "pass 1" in result.output
    with Image.open(out) as sheet:
        assert sheet.size == (3 * 198, 3 * 246)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fashion", "-o", "grid.txt"], "-o grid.png"),
        (["fashion", "--set", "augment"], "KEY=VALUE"),
        (["fashion", "--set", "augment=off"], "augment=light"),
        (["fashion", "--set", "augment=imagnet"], "imagenet"),
    ],
)
def test_each_mistake_has_its_sentence(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert isinstance(result.exception, checks.UserMistake) and words in str(result.exception)
    assert not list(tmp_path.iterdir())
