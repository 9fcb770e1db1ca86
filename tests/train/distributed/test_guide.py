"""docs/guide/scale.md: what can be checked here of its recipes."""

import ast
import re
import subprocess

import pytest

from tests import guides
from toque.train import run as settings
from toque.train.settings.machines import DistributedSettings


def blocks(language):
    return [code for _, code in guides.blocks("scale.md", language)]


def test_the_slurm_script_is_bash_and_starts_training():
    (script,) = blocks("bash")
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "-m toque train" in script and "--requeue" in script


def test_the_manifests_are_yaml_and_start_training():
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the manifests")
    manifest, of_kubeflow = map(yaml.safe_load, blocks("yaml"))
    assert (manifest["kind"], of_kubeflow["kind"]) == ("JobSet", "PyTorchJob")
    for role in of_kubeflow["spec"]["pytorchReplicaSpecs"].values():
        (container,) = role["template"]["spec"]["containers"]
        assert container["name"] == "pytorch" and container["command"] == ["torchrun"]
        assert container["args"][:3] == ["-m", "toque", "train"]
        # As many processes as GPUs.
        gpus = container["resources"]["limits"]["nvidia.com/gpu"]
        assert of_kubeflow["spec"]["nprocPerNode"] == str(gpus)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = job["template"]["spec"]["containers"][0]
    # As many hosts as torchrun waits for.
    assert f"--nnodes={job['parallelism']}" in container["args"]
    assert job["completions"] == job["parallelism"]


def test_the_python_compiles():
    for text in blocks("python"):
        ast.parse(text)


def test_every_setting_that_is_named_is_one():
    text = guides.text("scale.md")
    named = set(re.findall(r"distributed\.(\w+)", text)) - {"py"}
    assert named <= set(DistributedSettings.model_fields)
    for setting in re.findall(r"--set (\S+)", text):
        key, _, value = setting.partition("=")
        settings.load(None, {key: value})
