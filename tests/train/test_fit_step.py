"""fit with the settings of its step: killed in the middle, it ends in the same bits."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.train.runs import TRAIN, Crash, bits, crashing_after, settings, train
from toque.data import Batch
from toque.train.course.early_stop import EarlyStop
from toque.train.run import Run
from toque.train.settings.course import StopSettings
from toque.train.settings.images import MixSettings
from toque.train.steps.mixing import Mixing

EVERYTHING = {
    "precision": "float16",
    "memory": {"micro_batch": 6},
    "clip": {"norm": 1.0},
    "mix": {"mixup": 0.2, "cutmix": 1.0},
    "optimizer": {"name": "sgd", "sam": 0.02, "learning_rate": 0.05},
    "rules": [
        {"match": "[01].*", "frozen_epochs": 1},
        {"match": "5.*", "optimizer": {"name": "adamw"}},
    ],
}
SCHEDULE_FREE = {
    "optimizer": {"name": "adamw_schedule_free", "learning_rate": 0.01},
    "schedule": {"name": "constant"},
    "ema": {"half_life_epochs": 0},
}


@pytest.mark.parametrize(
    ("changed", "calls"),
    [(EVERYTHING, 6 * 11 + 2), (SCHEDULE_FREE, 11)],  # of the loss: parts and passes of a step
)
def test_crashed_and_continued_ends_in_the_same_bits(tmp_path, changed, calls):
    train(tmp_path / "whole", loss=crashing_after(10**9), **changed)
    with pytest.raises(Crash):
        train(tmp_path / "run", loss=crashing_after(calls), **changed)
    train(tmp_path / "run", loss=crashing_after(10**9), **changed)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


TOGETHER = {
    "ema": {"half_life_epochs": 0.3},
    "rules": [
        {"match": "[01].*", "frozen_epochs": 0.7},
        {"match": "5.*", "optimizer": {"name": "adamw", "learning_rate": 0.01}},
    ],
    "stop": {"patience_epochs": 1},
    "epochs": 2,
}
MATRIX = {
    "sgd": {"sam": 0.02, "lookahead": 3},
    "muon": {"sam": 0.02, "lookahead": 3},
    "lion": {"sam": 0.02, "lookahead": 3},
    "adamw_schedule_free": {"sam": 0.02},
}


@pytest.mark.parametrize("name", MATRIX)
def test_average_freezing_sam_lookahead_two_optimisers_and_an_early_stop_together(tmp_path, name):
    changed = {**TOGETHER, "optimizer": {"name": name, "learning_rate": 0.01, **MATRIX[name]}}
    if "free" in name:
        changed["schedule"] = {"name": "constant"}
    train(tmp_path / "whole", loss=crashing_after(10**9), **changed)
    for calls in (9, 8):  # of the loss, two for each of 13 steps: crashed twice, at other places
        with pytest.raises(Crash):
            train(tmp_path / "run", loss=crashing_after(calls), **changed)
    train(tmp_path / "run", loss=crashing_after(10**9), **changed)
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


@pytest.mark.parametrize("free", ["optimizer", "rule"])
def test_lookahead_around_a_schedule_free_optimiser_is_refused(tmp_path, free):
    name, other = "adamw_schedule_free", {"name": "sgd_schedule_free", "learning_rate": 0.1}
    changed = {"optimizer": {"name": name if free == "optimizer" else "sgd", "lookahead": 5}}
    if free == "rule":
        changed["rules"] = [{"match": "5.*", "optimizer": other}]
    with pytest.raises(ValueError, match=r"lookahead must be 0 with \w+ScheduleFree; got 5"):
        train(tmp_path / "run", schedule={"name": "constant"}, **changed)
    assert not (tmp_path / "run").exists()


def test_validation_and_the_kept_weights_are_those_of_the_average(tmp_path):
    result = train(tmp_path / "run", epochs=6, **SCHEDULE_FREE)
    rows = [row for row in bits(tmp_path / "run")[1] if row["split"] == "val"]
    assert result.accuracy == max(row["accuracy"] for row in rows)
    best = max(rows, key=lambda row: row["accuracy"])
    assert result.loss == pytest.approx(best["loss"], rel=1e-5)


def plain():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))


def test_a_run_that_gets_no_better_stops_and_stays_stopped(tmp_path):
    still = {"optimizer": {"name": "sgd", "learning_rate": 1e-30, "momentum": 0.0}, "epochs": 9}
    still |= {"stop": {"patience_epochs": 2}, "ema": {"half_life_epochs": 0}}
    result = train(tmp_path / "run", model=plain, loss=crashing_after(10**9), **still)
    assert result.images_seen == 304  # the end of the third epoch
    before = bits(tmp_path / "run")
    again = train(tmp_path / "run", model=plain, loss=crashing_after(0), **still)
    assert again.images_seen == 304 and bits(tmp_path / "run") == before


def test_patience_counts_from_the_last_real_gain():
    early = EarlyStop(StopSettings(patience_epochs=2, least_gain=0.1))
    assert [early.add(score) for score in (0.5, 0.7, 0.75, 0.9, 0.95, 0.99)] == [
        False, False, False, False, False, True,
    ]  # fmt: skip
    resumed = EarlyStop(StopSettings(patience_epochs=2, least_gain=0.1))
    resumed.scores = early.scores[:-1]
    assert not resumed.due and resumed.add(0.99)
    never = EarlyStop(StopSettings())
    assert not any(never.add(0.0) for _ in range(50))


def test_mixing_is_a_function_of_the_key_and_keeps_the_labels_sum():
    def mixed(mix, seed=0, epoch=0):
        indices = np.arange(8)
        batch = Batch(torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(1)),
                      torch.arange(8) % 3, indices, np.full(8, epoch))  # fmt: skip
        return Mixing(MixSettings(**mix), 3, seed)(batch.images, batch.targets, batch)

    both = {"mixup": 0.2, "cutmix": 1.0}
    for one, other in zip(mixed(both), mixed(both), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(mixed(both)[0], mixed(both, seed=5)[0])
    torch.testing.assert_close(mixed(both)[1].sum(1), torch.ones(8))
    alone = {kind: [mixed({kind: both[kind]}, epoch=n)[0] for n in range(20)] for kind in both}
    chosen = [mixed(both, epoch=n)[0] for n in range(20)]
    counts = {
        kind: sum(torch.equal(a, b) for a, b in zip(alone[kind], chosen, strict=True))
        for kind in both
    }
    assert sum(counts.values()) == 20 and all(counts.values())


def test_mixed_images_train_on_soft_targets(tmp_path):
    seen = []

    def loss(outputs, targets):
        if outputs.requires_grad:
            seen.append(targets)
        return cross_entropy(outputs, targets)

    train(tmp_path / "run", loss=loss, epochs=1, mix={"mixup": 0.4})
    assert all(targets.shape == (16, 2) and targets.is_floating_point() for targets in seen)
    assert any(((targets > 0.01) & (targets < 0.99)).any() for targets in seen)


def test_rules_go_through_toml_and_a_wrong_one_is_named(tmp_path):
    import tomllib

    run = settings(tmp_path, rules=EVERYTHING["rules"])
    assert Run(**tomllib.loads(run.as_toml())) == run
    with pytest.raises(
        ValueError, match=r"\[rules.0\]: lr_scal is not a setting. Did you mean lr_"
    ):
        Run(rules=[{"match": "*", "lr_scal": 2}])


def test_a_micro_batch_gives_the_same_run_within_rounding(tmp_path):
    """Where the model does nothing across images: the same losses to four digits."""
    train(tmp_path / "whole", model=plain)
    train(tmp_path / "parts", model=plain, memory={"micro_batch": 5})
    for one, other in zip(bits(tmp_path / "whole")[1], bits(tmp_path / "parts")[1], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert len(TRAIN) == 100
