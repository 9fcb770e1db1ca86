"""Faults of the world around a run, made for real: the disk, the rights, the files, the clock."""

import contextlib
import errno
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

import toque
from tests.train.runs import TRAIN, VAL, bits, network, settings
from tests.waiting import until
from toque import data
from toque.train import Stopped
from toque.train.state import checkpoint, saving


def train(out, *, loss=cross_entropy, show="quiet", **changed):
    return toque.fit(
        settings(out, **changed), train=TRAIN, val=VAL, model=network, loss=loss, show=show
    )


def at_step(actions):
    """The usual loss, that does something in some of its training steps, counted from 1."""
    count = 0

    def loss(outputs, targets):
        nonlocal count
        if outputs.requires_grad:
            count += 1
            actions.get(count, lambda: None)()
        return cross_entropy(outputs, targets)

    return loss


class Saves:
    """What becomes of the saves that a run asks for; the thread that writes may be far behind."""

    def __init__(self, monkeypatch):
        self.asked = self.ended = self.failed = 0
        take, write = saving.OneFile.take, saving.OneFile.write

        def taking(medium, state):
            self.asked += 1
            return take(medium, state)

        def writing(medium, *what):
            try:
                write(medium, *what)
            except OSError:
                self.failed += 1
                raise
            finally:
                self.ended += 1

        monkeypatch.setattr(saving.OneFile, "take", taking)
        monkeypatch.setattr(saving.OneFile, "write", writing)
        monkeypatch.setattr(saving, "_RETRY_S", 1e-6)

    def settle(self):
        """Return once the save under way, if there is one, is done."""
        until(lambda: self.ended == self.asked, "the end of a save")

    def fail(self):
        """Return once a save has failed."""
        until(lambda: self.failed, "a save that fails")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "run"
    train(out, loss=at_step({}))
    return bits(out)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs the rights of root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


BACKGROUND = pytest.mark.parametrize("background", [True, False])


@BACKGROUND
def test_a_disk_that_is_full_for_a_while(small_disk, reference, capsys, monkeypatch, background):
    saves = Saves(monkeypatch)
    before = []

    def fill():
        if not before:
            saves.settle()
        before.extend(checkpoint.found(small_disk / "run" / "checkpoints"))
        with (small_disk / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))

    def mend():
        saves.fail()
        # All the while, what was there was whole.
        for one in before:
            assert checkpoint.load(one.path)["images_seen"] == one.images_seen
        (small_disk / "ballast").unlink()

    # Nothing is pruned, which would make room; what a failed save gives back is filled again.
    often = {"every_s": 1e-6, "background": background, "keep": 99}
    actions = dict.fromkeys(range(5, 12), fill) | {12: mend}
    train(small_disk / "run", loss=at_step(actions), checkpoint=often)
    said = capsys.readouterr().err
    assert "could not be saved" in said and "toque tries again" in said and "No space left" in said
    assert bits(small_disk / "run") == reference


def test_a_disk_that_stays_full_ends_the_run_with_a_sentence_and_the_command_continues_it(
    small_disk, reference
):
    out = small_disk / "run"

    def fill():
        with (small_disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))

    with pytest.raises(ValueError, match=r"last checkpoint can be saved in; got .*No space left"):
        train(out, loss=at_step({5: fill}))
    assert not (out / "weights.safetensors").exists()
    (small_disk / "ballast").unlink()
    train(out, loss=at_step({}))
    assert bits(out) == reference


def test_the_right_to_write_lost_for_a_while(tmp_path, reference, capsys, monkeypatch):
    saves = Saves(monkeypatch)
    root, checkpoints = os.geteuid() == 0, tmp_path / "run" / "checkpoints"

    def lose():
        saves.settle()
        if root:  # for whom permission bits do not count: become somebody else
            os.seteuid(65534)
        else:
            checkpoints.chmod(0o500)

    def regain():
        if root:
            os.seteuid(0)
        else:
            checkpoints.chmod(0o700)

    def mend():
        saves.fail()
        regain()

    often = {"every_s": 1e-6, "background": True}
    try:
        train(tmp_path / "run", loss=at_step({5: lose, 12: mend}), checkpoint=often)
    finally:
        regain()
    assert "could not be saved ([Errno 13] Permission denied" in capsys.readouterr().err
    assert bits(tmp_path / "run") == reference


def test_a_file_size_limit_is_a_failed_save_and_no_death(tmp_path, reference, capsys, monkeypatch):
    import resource

    saves = Saves(monkeypatch)
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit():
        saves.settle()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, kept[1]))

    def lift():
        saves.fail()
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)

    try:
        often = {"every_s": 1e-6, "background": True}
        train(tmp_path / "run", loss=at_step({5: limit, 12: lift}), checkpoint=often)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    assert os.strerror(errno.EFBIG) in capsys.readouterr().err
    assert bits(tmp_path / "run") == reference


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_saves_and_the_same_command_continues(
    tmp_path, reference, number, code
):
    rare = {"every_s": 1e6}  # what is saved is saved because of the signal
    sent = at_step({4: lambda: os.kill(os.getpid(), number)})
    with pytest.raises(Stopped, match="stopped and saved at image 64") as stop:
        train(tmp_path / "run", loss=sent, checkpoint=rare)
    assert stop.value.code == code
    assert [one.images_seen for one in checkpoint.found(tmp_path / "run" / "checkpoints")] == [64]
    train(tmp_path / "run", loss=at_step({}), checkpoint=rare)
    assert bits(tmp_path / "run") == reference


@pytest.fixture
def interruptible():
    """SIGINT as in a terminal: a shell starts its background jobs with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_leaves_at_once_and_the_same_command_continues(
    tmp_path, reference, interruptible
):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as stop:
        train(tmp_path / "run", loss=at_step({9: twice}), checkpoint={"every_s": 1e6})
    assert not isinstance(stop.value, Stopped)
    assert [one.images_seen for one in checkpoint.found(tmp_path / "run" / "checkpoints")] == [112]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(tmp_path / "run", loss=at_step({}))
    assert bits(tmp_path / "run") == reference


def test_a_clock_that_jumps_decides_nothing(tmp_path, reference, monkeypatch):
    now, jumps = [1e9], itertools.cycle([1e8, -3e8, 2.5e8])

    def jumping():
        now[0] += next(jumps)
        return now[0]

    saved, write = [], checkpoint.write

    def written(*arguments, images_seen, **given):
        saved.append(images_seen)
        return write(*arguments, images_seen=images_seen, **given)

    monkeypatch.setattr(checkpoint, "write", written)
    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    began = time.monotonic()
    result = train(tmp_path / "run", loss=at_step({}), checkpoint={"every_s": 1e6})
    took = time.monotonic() - began
    assert bits(tmp_path / "run") == reference
    # Saved at the ends of the epochs, and never because a clock said that an hour had passed.
    assert saved == [112, 208, 304]  # of 100 images in batches of 16
    assert 0 < result.seconds <= took
    rows = [json.loads(line) for line in (result.out / "metrics.jsonl").read_text().splitlines()]
    said = {name: value for row in rows for name, value in row.items() if name.endswith("_s")}
    assert {"time_s", "data_s", "device_s", "images_per_s"} <= said.keys()
    for row in rows:
        for name, value in row.items():
            if name.endswith("_s") and name != "images_per_s":
                assert 0 <= value <= took, (name, row)
        assert row.get("images_per_s", 1) > 0


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run that was stopped in the middle, with the names of its newest checkpoint's files."""
    out = tmp_path_factory.mktemp("half") / "run"
    with pytest.raises(Stopped):
        train(out, loss=at_step({9: lambda: os.kill(os.getpid(), signal.SIGTERM)}))
    newest = checkpoint.found(out / "checkpoints")[-1].path
    return out, newest.name, sorted(file.name for file in newest.iterdir())


@given(draw=st.data())
@hypothesis.settings(max_examples=8, deadline=None)
def test_any_damage_to_a_file_of_a_checkpoint_is_named_and_the_bits_are_made_again(
    half, reference, tmp_path_factory, draw
):
    whole, newest, names = half
    out = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(whole, out)
    file = out / "checkpoints" / newest / draw.draw(st.sampled_from(names))
    content = bytearray(file.read_bytes())
    place = draw.draw(st.integers(0, len(content) - 1))
    if draw.draw(st.booleans()):
        content[place] ^= 1 << draw.draw(st.integers(0, 7))
    else:
        del content[place:]
    file.write_bytes(content)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        train(out, loss=at_step({}), show="lines")
    assert f"damaged checkpoint: {file} " in said.getvalue()
    assert bits(out) == reference
    assert (out / "checkpoints" / f"damaged-{newest}" / file.name).read_bytes() == bytes(content)
    shutil.rmtree(out)


def test_a_second_command_on_the_same_folder_is_refused_and_harms_nothing(tmp_path, reference):
    program = (
        "import sys\nfrom tests.train.test_faults import at_step, train\n"
        "train(sys.argv[1], loss=at_step({}))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    others = []

    def start_another():
        root = Path(__file__).parents[2]
        others.append(
            subprocess.run(
                command, cwd=root, capture_output=True, text=True, check=False, timeout=120
            )
        )

    train(tmp_path / "run", loss=at_step({5: start_another}))
    assert others[0].returncode != 0
    assert f"is in use: process {os.getpid()} on " in others[0].stderr
    assert "choose another folder with --out" in others[0].stderr
    assert bits(tmp_path / "run") == reference


def test_every_fault_of_the_table_has_its_test():
    root = Path(__file__).parents[2]
    rows = (root / "docs" / "faults.md").read_text().splitlines()
    named = [row.split("|")[3].strip() for row in rows if row.startswith("| ") and "::" in row]
    assert len(named) > 25 and len(set(named)) == len(named)
    for name in named:
        file, _, test = name.partition("::")
        assert f"def {test}(" in (root / file).read_text(), name


def test_a_folder_moved_between_two_commands(tmp_path, reference):
    stopped = at_step({8: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    with pytest.raises(Stopped):
        train(tmp_path / "here" / "run", loss=stopped)
    shutil.move(tmp_path / "here", tmp_path / "there")
    result = train(tmp_path / "there" / "run", loss=at_step({}))
    assert result.out == tmp_path / "there" / "run"
    assert bits(result.out) == reference
    assert not (tmp_path / "here").exists()


@pytest.fixture
def photos(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(20):
            pixels = np.random.default_rng(number).integers(0, 255, (12, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{number}.png")
    return tmp_path / "photos"


def color_network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(64, 2),
    )  # fmt: skip


def on_photos(photos, out, *, loss=cross_entropy, **changed):
    run = settings(
        out, data=str(photos), batch_size=4, threads=1, image_size=8, **{"epochs": 2, **changed}
    )
    return toque.fit(run, model=color_network, loss=loss, show="quiet")


def test_data_that_cannot_be_written_is_only_read(photos, tmp_path):
    on_photos(photos, tmp_path / "free", epochs=1)
    command = ["mount", "--bind", "-o", "ro", str(photos), str(photos)]
    mounted = os.geteuid() == 0 and not subprocess.run(command, capture_output=True, check=False).returncode  # fmt: skip
    for path in [photos, *photos.rglob("*")]:
        if not mounted:
            path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        with pytest.raises(OSError, match=r"Read-only|denied"):
            (photos / "x").touch()
        on_photos(photos, tmp_path / "run", epochs=1)
    finally:
        if mounted:
            subprocess.run(["umount", str(photos)], check=True)
        for path in [photos, *photos.rglob("*")]:
            path.chmod(0o700)
    assert bits(tmp_path / "run") == bits(tmp_path / "free")


@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_a_file_that_vanishes_is_named_and_put_back_the_run_ends_in_the_same_bits(
    photos, tmp_path, on_bad
):
    on_photos(photos, tmp_path / "whole", on_bad=on_bad, loss=at_step({}))
    last = data.open(photos, seed=0).train.name(7)
    aside = tmp_path / "aside.png"
    hidden = at_step({10: lambda: shutil.move(photos / last, aside)})
    with pytest.raises(FileNotFoundError, match=last) as stop:
        on_photos(photos, tmp_path / "run", on_bad=on_bad, loss=hidden)
    assert "Put the file back" in str(stop.value)
    assert checkpoint.found(tmp_path / "run" / "checkpoints")
    with pytest.raises(ValueError, match=rf"1 \(train/{last}\) removed"):
        on_photos(photos, tmp_path / "run", on_bad=on_bad, loss=at_step({}))
    shutil.move(aside, photos / last)
    on_photos(photos, tmp_path / "run", on_bad=on_bad, loss=at_step({}))
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
