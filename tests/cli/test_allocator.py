"""Memory that a command freed is there for its next step."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")

PROGRAM = """
import json, resource, sys
from toque.cli.allocator import keep_freed_memory
import torch

kept = keep_freed_memory() if sys.argv[1] == "kept" else None
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (40, 24, 40, 33):  # MiB, as the activations of several layers
        torch.empty(size * 2**18).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(5):  # an aligned piece needs a little more than one that was freed: the heap grows
    faults()
print(json.dumps([kept, faults()]))
"""


def ran(how, **environ):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **environ},
    )  # fmt: skip
    return json.loads(done.stdout)


def test_what_was_freed_is_not_mapped_again():
    kept, again = ran("kept")
    if not kept:
        pytest.skip("another C library than glibc")
    _, usually = ran("usual")
    # Pages of 4 KiB, or of 2 MiB where the system gives them unasked: then a few are a fault less.
    assert again < min(100, usually)


def test_what_the_environment_says_stands():
    assert ran("kept", MALLOC_TRIM_THRESHOLD_="65536")[0] is False
    assert ran("kept", GLIBC_TUNABLES="glibc.malloc.trim_threshold=65536")[0] is False
