"""docs/guide/scale.md: what can be checked here of its recipes."""

import ast
import re
import subprocess

import pytest

from tests import guides
from toque.train import run as settings
from toque.train.run import DistributedSettings


def blocks(language):
    return [code for _, code in guides.blocks("scale.md", language)]


def test_the_slurm_script_is_bash_and_starts_training():
    (script,) = blocks("bash")
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "-m toque train" in script and "--requeue" in script


def test_the_manifest_is_yaml_of_a_jobset():
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the manifest")
    (manifest,) = map(yaml.safe_load, blocks("yaml"))
    assert manifest["kind"] == "JobSet"
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
