"""What the ranks of a world tell each other, with real processes."""

import os
import re
import signal
import sys
import time

import numpy as np
import torch

from tests.train.distributed import ranks
from toque import checks
from toque.train import distributed
from toque.train.distributed.failing import _reason


def told(timeout_s=30.0):
    """What every method of a world gives on this rank."""
    with distributed.joined(timeout_s) as world:
        rank = world.rank
        counts = [3, 0, 5]
        rows = np.full((counts[rank], 2), rank, np.float32)
        decisions = distributed.Decisions(world)
        agreed = [
            decisions.agree(save=False, signal_number=15 if rank == 2 and step == 1 else None)
            for step in range(4)
        ]
        agreed.append(decisions.settle())
        return {
            "rank": rank,
            "size": world.size,
            "part": world.part(10),
            "gather": world.gather(torch.tensor([rank, 10 * rank]), "a test").tolist(),
            "rows": world.gather_rows(rows, "a test").tolist(),
            "flags": world.gather_rows(np.arange(counts[rank]) % 2 == 0, "a test").tolist(),
            "objects": world.objects("abc"[rank], "a test"),
            "from_first": world.from_first({"tensor": [1.5, rank]}, "a test"),
            "sum": world.sum(torch.tensor(2.0**rank), "a test").item(),
            "agreed": agreed,
        }


def three_ranks(folder):
    return ranks.run(3, told)


def test_every_rank_hears_the_same():
    answers, errors = ranks.program(__name__, "three_ranks", "-")
    for rank, answer in enumerate(answers):
        assert (answer.pop("rank"), answer["size"]) == (rank, 3)
    assert [answer.pop("part") for answer in answers] == [[0, 3], [3, 6], [6, 10]]
    assert answers[0] == answers[1] == answers[2]
    first = answers[0]
    assert first["gather"] == [[0, 0], [1, 10], [2, 20]]
    assert first["rows"] == [[0, 0]] * 3 + [[2, 2]] * 5
    assert first["flags"] == [True, False, True, True, False, True, False, True]
    assert first["objects"] == ["a", "b", "c"]
    assert first["from_first"] == {"tensor": [1.5, 0]}
    assert first["sum"] == 7.0
    # What one rank knew at step 1 is known to all one step later, and once.
    nothing = [False, None]
    assert first["agreed"] == [nothing, nothing, [False, 15], nothing, nothing]
    assert errors == ""


def test_alone_nothing_is_started_and_everything_is_ones_own():
    with distributed.joined(1.0) as world:
        assert world.alone and world.first
        assert not torch.distributed.is_initialized()
        assert world.objects(3, "a test") == [3]
        assert distributed.Decisions(world).agree(True, 15) == (True, 15)


def in_a_group_of_the_callers():
    """A process group made before, as Ray Train makes it, is used and left standing."""
    torch.distributed.init_process_group("gloo")
    with distributed.joined(30.0) as world:
        heard = world.objects(world.rank, "a test")
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    torch.distributed.destroy_process_group()
    return [heard, total.item()]


def two_in_a_group(folder):
    return ranks.run(2, in_a_group_of_the_callers)


def test_a_process_group_of_the_caller_is_used_and_left():
    answers, _ = ranks.program(__name__, "two_in_a_group", "-")
    assert answers == [[[0, 1], 2.0]] * 2


def joined_again():
    """Two starts over one store, as torchrun makes them after a death: the second meets old keys."""
    with distributed.joined(30.0) as world:
        return world.objects(os.environ["START"], "a test")


def over_one_store(folder):
    store = torch.distributed.TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)

    def environment(_rank, start):
        return {
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "START": start,
        }

    answers = []
    for size, start in ((2, "a"), (2, "b"), (1, "c"), (2, "d")):
        children = ranks.start(
            size, joined_again, rank_environment=lambda rank, start=start: environment(rank, start)
        )
        answers.append(ranks.wait(children))
    return answers


def test_ranks_started_again_over_the_same_store_find_each_other():
    answers, _ = ranks.program(__name__, "over_one_store", "-")
    assert answers[0] == [[["a", "a"]] * 2, [0, 0]]
    assert answers[1] == [[["b", "b"]] * 2, [0, 0]]
    assert answers[3] == [[["d", "d"]] * 2, [0, 0]]


def failing(how):
    """Rank 1 fails in its way while the others wait for it; what each says and how it ends."""
    with distributed.joined(4.0) as world:
        try:
            with distributed.together(world):
                world.barrier("the beginning")
                if world.rank == 1:
                    if how == "mistake":
                        raise checks.InvalidValue("photos/3.jpg must be an image; got text. Mend.")
                    if how == "bug":
                        raise ZeroDivisionError("division by zero")
                    if how == "killed":
                        os.kill(os.getpid(), signal.SIGKILL)
                    world.doing.now("a long nap")
                    time.sleep(20 if how == "hung" else 0)
                world.barrier("the gradients")
        except (checks.UserMistake, distributed.LostRank) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            raise SystemExit(2 if isinstance(error, checks.UserMistake) else 1) from None


def all_ways(folder, ways):
    codes = {}
    for how in ways:
        print(f"== {how}", file=sys.stderr, flush=True)
        children = ranks.start(3, failing, how)
        if how == "hung":
            # Only the ranks that wait: the sleeper is ended as torchrun would end it.
            sleeper = next(child for child, (rank, _) in children.items() if rank == 1)
            others = {child: place for child, place in children.items() if child != sleeper}
            deadline = time.monotonic() + 40
            ended = set()
            while len(ended) < len(others) and time.monotonic() < deadline:
                for child in others.keys() - ended:
                    state = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    if state is not None:
                        ended.add(child)
                time.sleep(0.02)
            os.kill(sleeper, signal.SIGKILL)
        codes[how] = ranks.wait(children)[1]
    return codes


def test_when_one_fails_all_end_and_rank_0_says_why_once():
    ways = ["mistake", "bug", "killed", "hung"]
    codes, errors = ranks.program(__name__, "all_ways", "-", ways, TORCH_CPP_LOG_LEVEL="ERROR")
    said = {}
    for line in errors.splitlines():
        if line.startswith("== "):
            said[way := line[3:]] = []
        else:
            said[way].append(line)
    assert codes["mistake"] == [2, 2, 2]
    assert said["mistake"] == [
        "InvalidValue: rank 1: photos/3.jpg must be an image; got text. Mend."
    ]
    assert codes["bug"] == [1, 1, 1]
    assert sorted(line.partition(":")[0] for line in said["bug"]) == [
        "LostRank",
        "ZeroDivisionError",
    ]
    assert "rank 1: ZeroDivisionError: division by zero" in " ".join(said["bug"])
    assert codes["killed"] == [1, -signal.SIGKILL, 1]
    (sentence,) = said["killed"]
    assert sentence.startswith("LostRank: rank 1 did not answer in the gradients (rank 1 in ")
    assert codes["hung"] == [1, -signal.SIGKILL, 1]
    (sentence,) = said["hung"]
    assert "rank 1 did not answer in the gradients (rank 1 in a long nap, alive" in sentence
    if torch.__version__ >= "2.14":  # before, the flight recorder may know NCCL alone
        # The sleeper has done one collective, and the others wait in their second.
        last = int(re.search(r"alive, last collective gloo:\w+ (\d+)", sentence)[1])
        assert int(re.search(r"rank 0 waits in gloo:\w+ (\d+)", sentence)[1]) == last + 1


def test_torchs_reason_is_told_without_places_in_its_sources():
    gloo = (
        "[/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error "
        "[127.0.0.1]:5330: Connection reset by peer. This is typically caused by a remote worker "
        "hanging or bugs in the application.\nmore"
    )
    assert _reason(RuntimeError(gloo)) == ("Read error [127.0.0.1]:5330: Connection reset by peer")
    assert _reason(RuntimeError("\n")) == ""
