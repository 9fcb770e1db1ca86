"""A step without a number: skipped, told with its images, and after too many the defined end."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.train.runs import Crash, bits, train
from tests.train.test_fit_step import plain
from toque.train.course.nonfinite import NonFinite
from toque.train.logs.window import Settled
from toque.train.settings.course import NonFiniteSettings
from toque.train.state import checkpoint
from toque.train.steps.step import Outcome


def outcome(loss, skipped, images_seen=16, outputs=None):
    outputs = torch.zeros(4, 2) if outputs is None else outputs
    made = Outcome(torch.tensor(loss), torch.tensor(float(skipped)), outputs, None,
                   np.array([5, 6, 7, 8]), images_seen)  # fmt: skip
    return Settled(made, loss, skipped)


def judged(steps, *, scaled=False, cuts=(), **settings):
    """The judge and what it told, after steps that were settled in pieces."""
    said = []

    def new():
        return NonFinite(NonFiniteSettings(**settings), 4, name_of=str, warn=said.append,
                         scaled=scaled)  # fmt: skip

    judge, answers, pending = new(), [], []
    for number, one in enumerate(steps):
        pending.append(one)
        if number in cuts:
            answers.append(judge.judge(pending, 0.1))
            pending, state = [], judge.state_dict()
            judge = new()  # another process goes on
            judge.load_state_dict(state)
    answers.append(judge.judge(pending, 0.1))
    return judge, said, any(answers)


GOOD, BAD = outcome(0.5, False), outcome(float("nan"), True)


@pytest.mark.parametrize("cuts", [(), (0,), (1, 2), (3,)])
def test_steps_in_a_row_are_counted_however_they_were_settled(cuts):
    judge, said, _ = judged([BAD, BAD, GOOD, BAD, GOOD], cuts=cuts, limit=3)
    assert (judge.skipped_steps, judge.streak) == (3, 0)
    assert len(said) == 3 and said[0] == "step 5 was skipped: the loss is nan (images: 5, 6, 7, 8)"
    with pytest.raises(
        ValueError, match=r"got nan at image 20 \(step 5, learning rate 0.1; images"
    ):
        judged([BAD, BAD, BAD], cuts=cuts, limit=3)
    assert judged([BAD, BAD, BAD], cuts=cuts, limit=3, then="roll_back")[2]


def test_the_first_step_of_a_run_is_never_skipped():
    for then in ("stop", "roll_back"):
        with pytest.raises(ValueError, match="got nan at image 4"):
            judged([outcome(float("nan"), True, images_seen=0)], limit=99, then=then)


def test_the_images_without_a_number_are_named():
    outputs = torch.zeros(4, 2)
    outputs[2, 1] = torch.inf
    _, said, _ = judged([outcome(float("inf"), True, outputs=outputs)])
    assert said == ["step 5 was skipped: the loss is inf (images without a number: 7)"]
    _, said, _ = judged([outcome(0.5, True)])
    assert "a gradient is not finite (images: 5" in said[0]


def test_a_loss_scale_that_finds_its_height_is_no_trouble():
    overflow = outcome(0.5, True)
    judge, said, _ = judged([overflow] * 20, scaled=True, limit=2)
    assert judge.skipped_steps == 0 and said == []
    judge, said, _ = judged([BAD, overflow, GOOD], scaled=True)
    assert judge.skipped_steps == 1
    with pytest.raises(ValueError, match="a gradient that is not"):
        judged([overflow] * 30, scaled=True, limit=2)


def poisoned(*steps, crash=10**9):
    """Cross-entropy that is no number in some training steps, counted in one process."""
    count = 0

    def loss(outputs, targets):
        nonlocal count
        value = cross_entropy(outputs, targets)
        if outputs.requires_grad:
            count += 1
            if count == crash:
                raise Crash
            value = value * (torch.nan if count in steps else 1)
        return value

    loss.__qualname__ = "poisoned"
    return loss


def test_a_skipped_step_is_told_and_the_run_goes_on(tmp_path, capsys):
    result = train(tmp_path / "run", loss=poisoned(5), show="lines")
    assert result.images_seen == 304
    assert "warning: step 5 was skipped: the loss is nan (images: " in capsys.readouterr().err
    rows = [row for row in bits(tmp_path / "run")[1] if row["split"] == "train"]
    assert "skipped_steps" not in rows[0] and rows[-1]["skipped_steps"] == 1
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_crashed_in_the_middle_of_bad_steps_ends_in_the_same_bits(tmp_path):
    whole = train(tmp_path / "whole", loss=poisoned(5, 6, 9), nonfinite={"limit": 4})
    with pytest.raises(Crash):
        train(tmp_path / "run", loss=poisoned(5, 6, 9, crash=7), nonfinite={"limit": 4})
    found = checkpoint.found(tmp_path / "run" / "checkpoints")[-1]
    assert found.images_seen == 64  # no checkpoint between bad steps
    train(tmp_path / "run", loss=poisoned(1, 2, 5), nonfinite={"limit": 4})  # 5, 6 and 9 again
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
    assert whole.images_seen == 304


def growing(crash=10**9):
    """It drives the outputs up, at the speed of the rate, and is no number once they are large."""
    count = 0

    def loss(outputs, targets):
        nonlocal count
        value = -outputs.mean()
        if outputs.requires_grad:
            count += 1
            if count == crash:
                raise Crash
            value = value * torch.where(outputs.detach().max() > 4, torch.nan, 1.0)
        return value

    loss.__qualname__ = "growing"
    return loss


HOT = {
    "model": plain, "epochs": 4, "ema": {"half_life_epochs": 0},
    "optimizer": {"name": "sgd", "learning_rate": 0.03, "momentum": 0.0},
    "schedule": {"name": "constant", "warmup_fraction": 0},
    "nonfinite": {"limit": 2, "then": "roll_back"},
}  # fmt: skip


def test_a_run_rolls_back_and_ends_and_a_crash_changes_nothing(tmp_path, capsys):
    result = train(tmp_path / "whole", loss=growing(), show="lines", **HOT)
    said = capsys.readouterr().err
    assert "the run went back to image" in said and result.images_seen == 400
    rows = bits(tmp_path / "whole")[1]
    assert [r["images_seen"] for r in rows] == sorted(r["images_seen"] for r in rows)
    assert [r["images_seen"] for r in rows if r["split"] == "val"] == [112, 208, 304, 400]
    for crash in (8, 14, 19, 24):
        out = tmp_path / f"run{crash}"
        with pytest.raises(Crash):
            train(out, loss=growing(crash), **HOT)
        train(out, loss=growing(), **HOT)
        assert bits(out) == bits(tmp_path / "whole")


def test_without_a_whole_epoch_there_is_no_way_back(tmp_path):
    with pytest.raises(ValueError, match="no whole epoch before to go back to"):
        train(tmp_path / "run", loss=poisoned(3, 4), nonfinite={"limit": 2, "then": "roll_back"})


def test_the_way_back_is_kept_and_what_came_after_goes(tmp_path):
    """Scores at 10 (the best), 20 and 50; all others by the clock."""
    for images in range(5, 50, 5):
        score = {10: 0.9, 20: 0.5}.get(images)
        checkpoint.save(tmp_path, {"at": images}, images_seen=images, score=score)
        checkpoint.prune(tmp_path, keep=2)
    checkpoint.save(tmp_path, {"at": 50}, images_seen=50, score=0.6)
    assert [one.images_seen for one in checkpoint.found(tmp_path)] == [10, 20, 40, 45, 50]
    _, state, _ = checkpoint.load_chosen(tmp_path, partial(checkpoint.scored, images_seen=47))
    assert state == {"at": 20}
    assert [one.images_seen for one in checkpoint.found(tmp_path)] == [10, 20]
    assert checkpoint.scored(tmp_path, 9) is None
