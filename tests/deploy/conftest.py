"""A small finished run, and a file of each format exported from it; a model made up to be served."""

import pytest

import toque
from tests.deploy.serving import Model
from toque import deploy
from toque.deploy.serving import reloading


@pytest.fixture(scope="session")
def run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("deploy") / "run"
    toque.fit(
        toque.Run(
            data=str(photos),
            out=str(out),
            batch_size=8,
            epochs=4,
            log={"tensorboard": False},
        )
    )
    return out


@pytest.fixture(scope="session")
def exported(run):
    return {kind: deploy.export(run, to=kind) for kind in ("onnx", "pt2", "safetensors")}


@pytest.fixture
def model(monkeypatch):
    made = Model()
    monkeypatch.setattr(reloading, "load", made.predictor)
    return made
