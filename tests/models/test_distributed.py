"""The average of the weights, and the parameter groups, on models wrapped by DDP and FSDP2."""

import subprocess
import sys

PROGRAM = """
import copy, sys, torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from toque import models
from toque.models import EMA

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
torch.manual_seed(0)
plain = models.create("resnet10_small", num_classes=4, in_channels=1)
sharded, inside = copy.deepcopy(plain), copy.deepcopy(plain)
images = torch.randn(4, 1, 16, 16)

wrapped = nn.parallel.DistributedDataParallel(inside)
average = EMA(inside, 100)
wrapped(images).sum().backward()
average.update(wrapped, 4)

mesh = init_device_mesh("cpu", (1,))
for stage in sharded.features:
    fully_shard(stage, mesh=mesh)
fully_shard(sharded, mesh=mesh)
averages = []
for model in (plain, sharded):
    average = EMA(model, 100)
    optimiser = torch.optim.SGD(models.parameters.groups(model, weight_decay=0.1), lr=0.1)
    for _ in range(3):
        model(images).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        average.update(model, 4)
    model.eval()
    averages.append(average)
own = sharded(images)
torch.testing.assert_close(own, plain(images))
with averages[1].applied(sharded):
    answer = sharded(images)
torch.testing.assert_close(answer, averages[0].model(images))
assert not torch.allclose(answer, own) and torch.equal(sharded(images), own)
dist.destroy_process_group()
print("whole")
"""


def test_the_average_follows_wrapped_and_sharded_models(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "store")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip() == "whole", done.stderr[-2000:]
