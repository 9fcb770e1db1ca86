"""The profile: what it counts, what it writes, and the sentence that it draws from it."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from torch import nn
from torch.autograd import DeviceType

from tests.train import runs
from toque.train.metrics.stages import STAGES
from toque.train.prepare import Own
from toque.train.studies.profiling import Cost, Profile, dearest, profile_run

OWN = Own(runs.TRAIN, runs.VAL, lambda: nn.Sequential(runs.network(), nn.Identity()))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    settings = runs.settings(folder / "run", threads=1)
    return profile_run(settings, steps=4, trace=folder / "trace.json", own=OWN), folder


def test_the_trace_is_a_chrome_trace_of_the_real_step(found):
    _, folder = found
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    names = {event.get("name") for event in events}
    assert any("convolution_backward" in str(name) for name in names)
    assert any("AdamW" in str(name) for name in names)  # the optimiser of the settings
    assert not (folder / "run").exists()


def test_shares_and_speeds_make_sense(found):
    profile, _ = found
    assert sum(profile.stages.values()) == pytest.approx(1)
    assert min(profile.images_per_s, profile.computing_per_s, profile.loading_per_s) > 0
    shares = [cost.share for cost in profile.operators]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1 + 1e-9
    paths = {cost.name for cost in profile.modules}
    assert {"0.0", "0.1", "0.5"} <= paths and not {"", "0"} & paths  # leaves only


def made(**changed):
    stages = dict.fromkeys(STAGES, 0.0) | {"device": 0.95, "host": 0.05}
    base = Profile(
        20, 64, stages, 100.0, 110.0, 900.0, (Cost("aten::mm", 0.6, 3.0),), (), 5.0, 4, 4, False
    )
    return replace(base, **changed)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ["Computing is the bottleneck (95 %", "60 % of it in aten::mm"]),
        ({"stages": made().stages | {"data": 0.4}}, ["Loading is", "40 %", "`toque pack`."]),
        (
            {"stages": made().stages | {"data": 0.4}, "threads": 2},
            ["`toque pack` or raise threads to 4."],
        ),
        (
            {"stages": made().stages | {"data": 0.4}, "in_memory": True},
            ["Choose a lighter augment."],
        ),
        ({"stages": made().stages | {"host": 0.9, "device": 0.1}}, ["Python is", "90 %"]),
    ],
)
def test_the_sentence_names_the_bottleneck(changed, words):
    for word in words:
        assert word in made(**changed).sentence()


def test_operators_are_ranked_by_the_time_in_themselves():
    def event(key, own_us, whole_us, device=DeviceType.CPU):
        return SimpleNamespace(
            key=key, self_cpu_time_total=own_us, cpu_time_total=whole_us,
            self_device_time_total=whole_us, count=6, device_type=device,
        )  # fmt: skip

    found = dearest([event("outer", 100, 1000), event("inner", 900, 900)], on_gpu=False)
    assert [(cost.name, cost.share, cost.calls) for cost in found] == [
        ("inner", 0.9, 2), ("outer", 0.1, 2),
    ]  # fmt: skip
    assert found[0].ms == pytest.approx(0.3)
    kernel = event("a kernel", 0, 6, DeviceType.CUDA)  # counted with the operator that queued it
    on_gpu = dearest([event("outer", 0, 5), event("inner", 9, 1), kernel], on_gpu=True)
    assert [(cost.name, cost.ms) for cost in on_gpu] == [("outer", 5e-3 / 3), ("inner", 1e-3 / 3)]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="--steps must be >= 1"):
        profile_run(runs.settings("x"), steps=0)
    with pytest.raises(FileNotFoundError, match="a folder that exists"):
        profile_run(runs.settings("x"), trace=tmp_path / "no" / "t.json")
