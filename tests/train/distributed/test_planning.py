"""toque plan: the bytes it reckons are the bytes that real ranks send."""

import pytest
import torch
from torch import nn

from tests.train.distributed import ranks
from toque.train import distributed
from toque.train.distributed import sharding, simulated
from toque.train.studies import planning


def network():
    """Two units of more than 100,000 parameters, and small ends."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 400),
        nn.Linear(400, 300), nn.Linear(300, 5),
    )  # fmt: skip


SHAPE = [2, 3, 8, 8]


def counted(strategy):
    """The collectives of one real step on this rank."""
    with distributed.joined(60.0) as world:
        model, counter = network(), simulated.CountCollectives()
        if strategy == "fsdp":
            mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (world.size,))
            sharding.shard(model, mesh)
        else:
            model = nn.parallel.DistributedDataParallel(model)
            for _ in range(2):  # the first passes arrange the buckets
                model(torch.zeros(SHAPE)).sum().backward()
        with counter:
            model(torch.zeros(SHAPE)).sum().backward()
        return counter.traffic.bytes_by_kind


def real(folder):
    return {
        f"{strategy} on {number}": ranks.run(number, counted, strategy)
        for strategy in ("ddp", "fsdp")
        for number in (2, 4)
    }


def test_the_bytes_of_a_plan_are_those_of_real_ranks():
    found, _ = ranks.program(__name__, "real", "-")
    for number in (2, 4):
        for strategy in ("ddp", "fsdp"):
            (plan,) = planning.plan(
                network, SHAPE[1:], [number], strategy=strategy, images_of_a_rank=2
            )
            for rank in found[f"{strategy} on {number}"]:
                assert rank == plan.traffic.bytes_by_kind, (strategy, number)
    weights = sum(p.nbytes for p in network().parameters())
    assert found["ddp on 2"][0]["all_reduce"] == weights


def test_a_pieces_memory_falls_with_the_ranks_and_a_copys_does_not():
    pieces = planning.plan(network, SHAPE[1:], [2, 8], strategy="fsdp", images_of_a_rank=2)
    copies = planning.plan(network, SHAPE[1:], [1, 2, 8], images_of_a_rank=2)
    assert pieces[1].memory_bytes < pieces[0].memory_bytes
    assert len({one.memory_bytes for one in copies}) == 1
    assert copies[0].sent_bytes == 0 and copies[0].efficiency == 1.0
    # 2 (R - 1) / R of the gradients, and the buffers that rank 0 gives.
    gradients = copies[1].traffic.bytes_by_kind["all_reduce"]
    buffers = copies[1].traffic.bytes_by_kind["broadcast"]
    assert copies[2].sent_bytes == pytest.approx(7 / 8 * (2 * gradients + buffers))


@pytest.mark.parametrize("ranks_of_a_step", [2, 3, 7, 64])
def test_the_rule_reckons_what_the_simulation_counts(ranks_of_a_step):
    counted = simulated.step_of_fsdp(network, [1, *SHAPE[1:]], ranks_of_a_step)
    assert simulated.reckoned_step_of_fsdp(network(), ranks_of_a_step) == counted


def test_a_model_that_the_rule_does_not_fit_is_simulated_on_each_number_of_ranks():
    def half_frozen():
        model = network()
        model[3].requires_grad_(False)  # a gradient less to scatter
        return model

    for model, expected in ((network, [3]), (half_frozen, [3, 2, 4])):
        said = []
        plans = planning.plan(
            model, SHAPE[1:], [2, 4], strategy="fsdp", images_of_a_rank=2, say=said.append
        )
        assert said[0].startswith("predicting the memory of a step of 2 images")
        assert said[1:] == [
            f"counting the collectives of a step on {number} simulated ranks" for number in expected
        ]
        for plan in plans:
            counted = simulated.step_of_fsdp(model, [1, *SHAPE[1:]], plan.ranks)
            assert plan.traffic == counted.traffic


def test_mistakes():
    with pytest.raises(ValueError, match="--gpu must be a100 or h100 or h200; got h10"):
        planning.plan(network, SHAPE[1:], [2], gpu="h10")
    with pytest.raises(ValueError, match="--ranks must be >= 1"):
        planning.plan(network, SHAPE[1:], [0])


def test_the_command_prints_figures_and_assumptions(toque):
    code, out, errors = toque(
        "plan", "resnet10_small", "--ranks", "1,8", "--input", "1x28x28", "--classes", "10"
    )
    assert code == 0
    assert errors.startswith("resnet10_small: predicting the memory of a step of 64 images")
    assert "efficiency" in out and out.count("assumed:") == 4
    code, _, errors = toque("plan", "resnet18", "--ranks", "many")
    assert code == 2 and errors.startswith("toque: plan: --ranks must be numbers; got 'many'")
