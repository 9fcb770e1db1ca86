"""A small finished run, and a file of each format exported from it."""

import pytest

import toque
from toque import deploy


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
