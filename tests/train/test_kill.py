"""kill -9 at random moments, also while a checkpoint is written: real processes, a few times.

benchmarks/kill.py does it at length; this runs the same program.
"""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kill.py"


def test_killed_runs_end_in_the_bits_of_one_never_killed():
    command = [sys.executable, str(PROGRAM), "--kills", "5", "--rows", "all at once", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["kills"] >= 5
    assert answer["runs"] >= 1 and answer["equal"] == answer["runs"]
    assert done.stderr == ""
