"""The guide's blocks run as they stand, in order; what cannot run here is held to what can."""

import json
import re
import shlex

import pytest
import typer

from tests import guides
from tests.deploy.serving import Model, running
from toque.cli import app
from toque.deploy.serving import reloading
from toque.deploy.serving.settings import DRAIN_S


def test_the_guide_runs(run, photos, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/photos").symlink_to(run)
    (tmp_path / "photos").symlink_to(photos)
    guides.run("deploy.md", tmp_path)
    assert (tmp_path / "photos.onnx").is_file() and (tmp_path / "answers.csv").is_file()


def served(words):
    """What `toque serve` understands of a command line."""
    command = typer.main.get_command(app).commands["serve"]
    with command.make_context("serve", [str(word) for word in words]) as context:
        return context.params


def dockerfile():
    """The last stage of the guide's Dockerfile: {instruction: [what follows, ...]}."""
    ((_, text),) = guides.blocks("deploy.md", "dockerfile")
    found = {}
    for line in text[text.rindex("\nFROM") :].splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest)
    return found


def manifests():
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the manifests")
    ((_, text),) = guides.blocks("deploy.md", "yaml")
    return list(yaml.safe_load_all(text))


def test_the_image_serves_what_it_holds():
    told = dockerfile()
    (entry,), (command,) = told["ENTRYPOINT"], told["CMD"]
    assert json.loads(entry) == ["toque", "serve"]  # a list, so no shell keeps signals back
    understood = served(json.loads(command))
    assert understood["host"] == "0.0.0.0" and str(understood["port"]) in told["EXPOSE"]
    assert any(line.split()[1] == understood["model"] for line in told["COPY"])
    assert told["USER"] == ["1000"] and "--uid 1000" in " ".join(told["RUN"])
    extras = re.search(r"whl\)\[([\w,]+)\]", " ".join(told["RUN"])).group(1)
    assert set(extras.split(",")) == {"serve", "export"}  # what an .onnx file is served with


def test_the_deployment_agrees_with_itself_and_with_the_server(monkeypatch):
    deployment, service = manifests()
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    understood = served(container["args"])
    assert container["args"] == json.loads(dockerfile()["CMD"][0])
    # The pod is left the time that its server may take to end.
    assert pod["spec"]["terminationGracePeriodSeconds"] > understood["linger"] + DRAIN_S
    # It is sent nothing more well before it stops listening.
    ready = container["readinessProbe"]
    assert ready["periodSeconds"] * (ready["failureThreshold"] + 1) < understood["linger"]
    (port,) = container["ports"]
    assert port["containerPort"] == understood["port"] and port["name"] == "http"
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(understood["port"])
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    labels = pod["metadata"]["labels"]
    assert labels == service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    threads = {one["name"]: one["value"] for one in container["env"]}["OMP_NUM_THREADS"]
    assert threads == container["resources"]["limits"]["cpu"]
    # What the probes ask is answered, without a token.
    monkeypatch.setattr(reloading, "load", Model().predictor)
    with running("made up", token="secret") as server:
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[name]["httpGet"]
            assert server.ask(path=probe["path"], method="GET")[0] == 200
            assert probe["port"] == port["name"]


def test_every_command_line_of_the_guide_is_understood():
    """Those that serve, which are shown and not run."""
    lines = [line for _, text in guides.blocks("deploy.md", "text") for line in text.splitlines()]
    shown = [line.partition("#")[0] for line in lines if line.startswith("toque serve")]
    assert len(shown) >= 2
    for line in shown:
        assert served(shlex.split(line)[2:])["model"]
    with pytest.raises(Exception, match="No such option"):
        served(["m.onnx", "--wrokers", "2"])
