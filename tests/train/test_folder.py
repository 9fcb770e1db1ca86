"""The run folder: one run, one writer, and nothing left behind by a mistake."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys

import pytest

from toque import checks
from toque.train import run as settings_of
from toque.train.run import Run
from toque.train.run_folder import folder
from toque.train.state import checkpoint

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
        "import sys\nfrom toque.train.run_folder import folder\nfrom toque.train.run import Run\n"
        f"with folder.opened(Run(out={str(tmp_path / 'r')!r}), {ENVIRONMENT!r}):\n"
        "    print('in', flush=True)\n    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        with (
            pytest.raises(ValueError, match=f"process {other.pid} on .+ trains in it"),
            folder.opened(run, ENVIRONMENT),
        ):
            pass
        assert (tmp_path / "r" / "run.toml").is_file()
        other.communicate("\n")
    assert other.returncode == 0
    with folder.opened(run, ENVIRONMENT):
        pass


def test_a_worker_that_outlives_its_killed_parent_does_not_hold_the_lock(tmp_path):
    code = (
        "import os, signal, time\nfrom toque.train.run_folder import folder\nfrom toque.train.run import Run\n"
        f"with folder.opened(Run(out={str(tmp_path / 'r')!r}), {ENVIRONMENT!r}):\n"
        "    worker = os.fork()\n"
        "    if not worker:\n"
        "        time.sleep(60)\n"
        "        os._exit(0)\n"
        "    print(worker, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as trainer:
        worker = int(trainer.stdout.readline())
        try:
            assert trainer.wait(60) == -signal.SIGKILL
            os.kill(worker, 0)  # it is there
            with folder.opened(run_in(tmp_path / "r"), ENVIRONMENT) as opened:
                assert opened.locked and not opened.fresh
        finally:
            os.kill(worker, signal.SIGKILL)


def test_no_run_folder_suggests_the_nearest(tmp_path):
    with folder.opened(run_in(tmp_path / "flowers"), ENVIRONMENT):
        pass
    with pytest.raises(FileNotFoundError, match=r"Did you mean flowers\?"):
        folder.read_run(tmp_path / "flower")
    with pytest.raises(FileNotFoundError, match="Train one with: toque train"):
        folder.read_run(tmp_path / "zzz")


def test_a_kill_before_the_settings_were_written_is_no_obstacle(tmp_path):
    path = tmp_path / "r"
    path.mkdir()
    (path / ".lock").touch()
    (path / ".writing-run.toml").write_text("epo")
    with folder.opened(run_in(path), ENVIRONMENT) as opened:
        assert opened.fresh
    assert folder.read_run(path)[0] == run_in(path)
    assert sorted(one.name for one in path.iterdir()) == [".lock", "run.toml"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_and_not_taken_for_another_process(
    tmp_path, monkeypatch, number
):
    def no_locks(*_):
        raise OSError(number, "no locks here")

    with folder.opened(run_in(tmp_path / "r"), ENVIRONMENT) as opened:
        assert opened.locked
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with folder.opened(run_in(tmp_path / "r"), ENVIRONMENT) as opened:
        assert not opened.locked


def test_a_moved_folder_is_continued_by_its_own_settings(tmp_path, monkeypatch):
    with folder.opened(run_in(tmp_path / "old" / "r", epochs=5), ENVIRONMENT):
        pass
    moved = shutil.move(tmp_path / "old", tmp_path / "new")
    file = tmp_path / "new" / "r" / "run.toml"
    run = settings_of.load(file)
    assert run.epochs == 5 and run.out == str(file.parent)
    with folder.opened(run, ENVIRONMENT) as opened:
        assert not opened.fresh and opened.path == file.parent
    assert settings_of.load(file, out="elsewhere").out == "elsewhere"
    assert settings_of.load(file, {"out": "elsewhere"}).out == "elsewhere"
    monkeypatch.chdir(file.parent)
    assert settings_of.load(type(file)("run.toml")).out == "."
    assert moved.is_dir()
    # A file of settings that is not of a run folder says itself where to.
    (tmp_path / "mine.toml").write_text(run_in(tmp_path / "there").as_toml())
    assert settings_of.load(tmp_path / "mine.toml").out == str(tmp_path / "there")


def test_settings_of_another_toque_that_this_one_does_not_know(tmp_path):
    with folder.opened(run_in(tmp_path / "r"), ENVIRONMENT | {"toque": "9.9"}):
        pass
    file = tmp_path / "r" / "run.toml"
    file.write_text("telepathy = true\n" + file.read_text())
    with pytest.raises(ValueError, match=r"is of toque 9.9, this is 0.*telepathy is not a setting"):
        folder.read_run(tmp_path / "r")
