"""Whether the process of a rank is known to have ended: as the kernel says, and only then."""

import json
import os
import subprocess
import sys

import pytest
import torch.distributed as dist

from toque.train.distributed import presence

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")


@pytest.fixture
def store():
    return dist.HashStore()


def left_by(store, rank, process):
    """What a process would have left of itself."""
    presence.leave(store, rank)
    machine, _, _ = json.loads(store.get(f"process/{rank}"))
    started = presence._started(process)
    assert started
    store.set(f"process/{rank}", json.dumps([machine, process, started]))


def test_a_killed_process_has_ended_also_before_its_parent_looks(store):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    left_by(store, 3, child.pid)
    assert not presence.is_gone(store, 3)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie
    assert presence.is_gone(store, 3)
    child.communicate()
    assert presence.is_gone(store, 3)


def test_this_process_is_there_and_one_that_got_its_number_later_is_another(store):
    presence.leave(store, 0)
    assert not presence.is_gone(store, 0)
    machine, process, started = json.loads(store.get("process/0"))
    store.set("process/0", json.dumps([machine, process, str(int(started) - 1)]))
    assert presence.is_gone(store, 0)


def test_of_other_machines_and_of_ranks_that_left_nothing_it_knows_nothing(store):
    assert not presence.is_gone(store, 5)
    for machine in ("another boot pid:[4026531836]", ""):
        store.set("process/1", json.dumps([machine, 2**22 + 1, "1"]))
        assert not presence.is_gone(store, 1)
