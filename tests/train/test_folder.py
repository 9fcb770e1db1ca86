"""The run folder: one run, one writer, and nothing left behind by a mistake."""

import subprocess
import sys

import pytest

from toque import checks
from toque.train import checkpoint, folder
from toque.train.run import Run

ENVIRONMENT = {"data_fingerprint": "abc", "train_images": 8, "val_images": 2, "classes": ["a", "b"]}


def run_in(path, **settings):
    return Run(out=str(path), **settings)


def test_it_stores_the_settings_and_the_environment(tmp_path):
    run = run_in(tmp_path / "r", seed=3)
    with folder.opened(run, ENVIRONMENT) as opened:
        assert opened.fresh
    stored, environment = folder.read_run(tmp_path / "r")
    assert stored == run and environment == ENVIRONMENT
    with folder.opened(run, ENVIRONMENT) as opened:
        assert not opened.fresh


def test_other_settings_are_refused_and_named(tmp_path):
    path = tmp_path / "r"
    with folder.opened(run_in(path), ENVIRONMENT):
        pass
    before = (path / "run.toml").read_bytes()
    with (
        pytest.raises(ValueError, match=r"other settings \(epochs: 12.0 there, 20.0 here\)"),
        folder.opened(run_in(path, epochs=20), ENVIRONMENT),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"other data: .*\(8 \+ 2 images then, 9 \+ 2 now"),
        folder.opened(run_in(path), ENVIRONMENT | {"data_fingerprint": "x", "train_images": 9}),
    ):
        pass
    assert (path / "run.toml").read_bytes() == before


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with (
        pytest.raises(ValueError, match=r"holds other files \(thesis.txt\)"),
        folder.opened(run_in(tmp_path), ENVIRONMENT),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with (
        pytest.raises(ValueError, match="must be a folder; got the file"),
        folder.opened(run_in(tmp_path / "thesis.txt"), ENVIRONMENT),
    ):
        pass


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match=r"a folder that can be written; got .*Not a directory"),
        folder.opened(run_in(tmp_path / "file" / "r"), ENVIRONMENT),
    ):
        pass


@pytest.mark.parametrize("existed", [True, False])
def test_a_mistake_before_the_first_checkpoint_leaves_nothing(tmp_path, existed):
    path = tmp_path / "r"
    if existed:
        path.mkdir()
    with (
        pytest.raises(ValueError, match="mistake"),
        folder.opened(run_in(path), ENVIRONMENT) as opened,
    ):
        opened.metrics.write_text("{}\n")
        raise checks.InvalidValue("mistake")
    assert path.exists() == existed
    assert not existed or list(path.iterdir()) == []


def test_a_mistake_after_a_checkpoint_keeps_everything(tmp_path):
    path = tmp_path / "r"
    with (
        pytest.raises(ValueError, match="mistake"),
        folder.opened(run_in(path), ENVIRONMENT) as opened,
    ):
        checkpoint.save(opened.checkpoints, {"a": 1}, images_seen=1, score=None)
        raise checks.InvalidValue("mistake")
    assert (path / "run.toml").is_file()
    assert len(checkpoint.found(path / "checkpoints")) == 1


def test_a_second_process_is_refused(tmp_path):
    run = run_in(tmp_path / "r")
    code = (
        "import sys\nfrom toque.train import folder\nfrom toque.train.run import Run\n"
        f"with folder.opened(Run(out={str(tmp_path / 'r')!r}), {ENVIRONMENT!r}):\n"
        "    print('in', flush=True)\n    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        with (
            pytest.raises(ValueError, match=f"process {other.pid} trains in it"),
            folder.opened(run, ENVIRONMENT),
        ):
            pass
        assert (tmp_path / "r" / "run.toml").is_file()
        other.communicate("\n")
    assert other.returncode == 0
    with folder.opened(run, ENVIRONMENT):
        pass


def test_no_run_folder_suggests_the_nearest(tmp_path):
    with folder.opened(run_in(tmp_path / "flowers"), ENVIRONMENT):
        pass
    with pytest.raises(FileNotFoundError, match=r"Did you mean flowers\?"):
        folder.read_run(tmp_path / "flower")
    with pytest.raises(FileNotFoundError, match="Train one with: toque train"):
        folder.read_run(tmp_path / "zzz")
