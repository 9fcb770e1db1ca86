"""Loggers: they get every number, a restart goes on in the same run, and none ends a training.

wandb and mlflow stand in as modules that record what they are asked: that the calls are theirs was
tried by hand with the packages (wandb 0.31 offline, mlflow-skinny 3.17 in a local folder).
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

import toque
from tests.train import runs
from toque.train.logs import loggers
from toque.train.logs.log import read_rows


class FakeWandb(ModuleType):
    """Remembers what `wandb.init` and its run were told."""

    def __init__(self):
        super().__init__("wandb")
        self.inits, self.rows, self.finished = [], [], 0

    def init(self, **settings):
        self.inits.append(settings)
        return self

    def define_metric(self, name, step_metric=None):
        pass

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished += 1


class FakeMlflow(ModuleType):
    """`mlflow.tracking` with a client that keeps everything in memory."""

    def __init__(self):
        super().__init__("mlflow.tracking")
        self.runs, self.params, self.metrics, self.ended = [], {}, [], []
        self.MlflowClient = lambda: self

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return "7"

    def search_runs(self, experiments, query):
        assert experiments == ["7"]
        return [run for run in self.runs if query == f"tags.toque_run = '{run.tag}'"]

    def create_run(self, experiment, run_name, tags):
        info = SimpleNamespace(run_id=f"run{len(self.runs)}")
        self.runs.append(SimpleNamespace(tag=tags["toque_run"], info=info, name=run_name))
        return self.runs[-1]

    def update_run(self, number, status):
        self.ended.remove(number)

    def log_param(self, number, key, value):
        assert (number, key) not in self.params, "MLflow refuses to change a parameter"
        self.params[number, key] = value

    def log_metric(self, number, name, value, step):
        self.metrics.append((number, name, value, step))

    def set_terminated(self, number):
        self.ended.append(number)


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(loggers, "_installed", lambda name: True)
    return fake


@pytest.fixture
def mlflow(monkeypatch):
    fake = FakeMlflow()
    parent = ModuleType("mlflow")
    parent.tracking = fake
    monkeypatch.setitem(sys.modules, "mlflow", parent)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", fake)
    monkeypatch.setattr(loggers, "_installed", lambda name: True)
    return fake


def test_wandb_gets_every_number_of_metrics_jsonl(wandb, tmp_path):
    run = runs.train(tmp_path / "run", epochs=2, log={"to": ["wandb"], "every_images": 48})
    rows = read_rows(run.out / "metrics.jsonl")
    assert len(wandb.rows) == len(rows) and wandb.finished == 1
    for told, row in zip(wandb.rows, rows, strict=True):
        assert told["images_seen"] == row["images_seen"]
        assert told[f"loss/{row['split']}"] == row["loss"]
        assert told[f"data_s/{row['split']}"] == row["data_s"]
    (init,) = wandb.inits
    assert init["config"]["epochs"] == 2 and init["name"] == "run" and init["resume"] == "allow"


def test_a_run_that_goes_on_is_the_same_run_and_a_new_one_another(wandb, tmp_path):
    for _ in range(2):
        loggers.Wandb(toque.Run(), runs.train(tmp_path / "a", epochs=1).out)
    loggers.Wandb(toque.Run(), runs.train(tmp_path / "b", epochs=1).out)
    first, again, other = (init["id"] for init in wandb.inits)
    assert first == again != other


def test_mlflow_gets_settings_once_and_every_number(mlflow, tmp_path):
    settings = {"epochs": 2, "log": {"to": ["mlflow"], "every_images": 48}}
    run = runs.train(tmp_path / "run", **settings)
    rows = read_rows(run.out / "metrics.jsonl")
    losses = [(value, step) for _, name, value, step in mlflow.metrics if name.startswith("loss/")]
    assert losses == [(row["loss"], row["images_seen"]) for row in rows]
    assert mlflow.params["run0", "epochs"] == "2.0" and mlflow.ended == ["run0"]
    # The same command again: the same run is opened and closed once more.
    client = loggers.MLflow(run.run, run.out)
    assert mlflow.ended == [] and len(mlflow.runs) == 1
    client.close()
    assert mlflow.ended == ["run0"]


def test_a_logger_that_fails_is_warned_of_once_and_the_training_goes_on(wandb, tmp_path, capsys):
    def broken(row):
        raise ConnectionError("no server\nlong traceback")

    wandb.log = broken
    run = runs.train(tmp_path / "run", epochs=1, log={"to": ["wandb"], "every_images": 48})
    warnings = [line for line in capsys.readouterr().err.splitlines() if "wandb" in line]
    assert len(warnings) == 1 and "no server" in warnings[0] and "traceback" not in warnings[0]
    assert len(read_rows(run.out / "metrics.jsonl")) == 4


def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "_installed", lambda name: False)
    with pytest.raises(ImportError, match="pip install mlflow"):
        runs.train(tmp_path / "run", log={"to": ["tensorboard", "mlflow"]})
    assert not (tmp_path / "run").exists()


def test_tensorboard_alone_is_the_default_and_its_old_name_is_read():
    assert toque.Run().log.to == ("tensorboard",)
    assert toque.Run(log={"tensorboard": False}).log.to == ()
    assert toque.Run(log={"tensorboard": False, "to": ["wandb"]}).log.to == ("wandb",)
    assert toque.Run(log={"tensorboard": True}).log.to == ("tensorboard",)
    assert toque.Run(log={"tensorboard": True, "to": ["tensorboard"]}).log.to == ("tensorboard",)
    with pytest.raises(ValueError, match=r"Run \[log"):
        toque.Run(log={"to": ["wndb"]})


def test_places_are_no_numbers_to_plot():
    row = {"images_seen": 5, "epoch": 0.1, "time_s": 3.0, "split": "val", "loss": 1, "note": "x"}
    assert loggers.scalars(row) == {"loss/val": 1.0}
