"""The parts of a run that differ where there are several ranks: chosen once, at its beginning."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from toque import checks, cores
from toque.models.ema import EMA
from toque.train.distributed import batch_norm, sharding, virtual
from toque.train.distributed.checkpoints import Alone, ByAll, ByFirst, Checkpoints, who_cannot_write
from toque.train.distributed.exchange import Exchange
from toque.train.distributed.replicas import Replicas
from toque.train.distributed.virtual import VirtualShards
from toque.train.distributed.world import World
from toque.train.run import Run
from toque.train.run_folder import environment
from toque.train.steps.precision import Precision

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def check(run: Run, world: World) -> None:
    """Raise ValueError where the settings do not fit the number of ranks."""
    if run.batch_size < world.size:
        raise checks.invalid(
            "data", "batch_size", f"at least one image for each of the {world.size} ranks",
            run.batch_size, "Raise it, or start fewer ranks.",
        )  # fmt: skip
    if run.distributed.virtual_shards is not None:
        virtual.check(run, world.size)
    elif run.distributed.strategy != "ddp" or run.distributed.sync_batch_norm:
        # Every rank must go through the model as often.
        fewest, most = run.batch_size // world.size, -(-run.batch_size // world.size)
        if -(-most // (run.memory.micro_batch or most)) > fewest:
            raise checks.invalid(
                "run.toml", "batch_size",
                f"a multiple of the {world.size} ranks with memory.micro_batch = 1", run.batch_size,
                f"Set it to {fewest * world.size}, or memory.micro_batch to 2.",
            )  # fmt: skip


def place(run: Run, world: World, network: nn.Module) -> nn.Module:
    """The network as this rank trains it: rank 0's weights, BatchNorm over all ranks if asked."""
    if world.alone:
        return network
    world.share(network, "the first weights")
    if run.distributed.sync_batch_norm and run.distributed.virtual_shards is None:
        network = batch_norm.synchronise(network)
    if run.distributed.strategy != "ddp" and run.distributed.virtual_shards is None:
        world.mesh = _mesh(run, world, network)
        network = sharding.shard(network, world.mesh)
    return network


def _mesh(run: Run, world: World, network: nn.Module) -> DeviceMesh:
    """The ranks as one axis; for hsdp as two: hosts, each with a copy, by the ranks of a host."""
    from torch.distributed.device_mesh import init_device_mesh

    kind = next(network.parameters()).device.type
    if run.distributed.strategy == "fsdp":
        return init_device_mesh(kind, (world.size,))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    if world.size % here:
        raise checks.invalid(
            "distributed", "strategy hsdp", "used with as many ranks on every host",
            f"{world.size} ranks, {here} on this host", 'Set distributed.strategy = "fsdp".',
        )  # fmt: skip
    return init_device_mesh(
        kind, (world.size // here, here), mesh_dim_names=("hosts", "ranks of a host")
    )


def checkpoints(
    run: Run,
    world: World,
    folder: Path,
    network: nn.Module,
    parts: Mapping[str, torch.optim.Optimizer],
    ema: EMA | None,
) -> Checkpoints:
    """How this run's checkpoints are saved and restored: by whom depends on who sees the folder.

    Raises: OSError: on rank 0, a folder that it cannot write
    """
    if world.alone:
        return Alone(folder)
    unseen = who_cannot_write(world, folder)
    if unseen:
        return ByFirst(world, folder, unseen)
    return ByAll(world, folder, network, parts, ema, run.distributed.timeout_s)


def lockstep(
    run: Run, world: World, network: nn.Module, num_images: int, shape: Sequence[int]
) -> tuple[int, torch.Tensor] | None:
    """How many forward passes every rank makes in an evaluation, and what fills a missing one.

    None where a pass needs no other rank. Sharded weights are gathered from all in every pass, so
    a rank with fewer batches goes on with zeros [1, C, H, W] until the others are done.
    """
    if world.alone or not sharding.is_sharded(network):
        return None
    batches = -(-num_images // run.batch_size)
    device = next(network.parameters()).device
    return -(-batches // world.size), torch.zeros(1, *shape, device=device)


def exchange(run: Run, world: World, network: nn.Module, loss: Any) -> Exchange | None:
    """How gradients are taken together with the other ranks; None where a step is one's own."""
    settings = run.distributed
    if settings.virtual_shards is not None:
        return VirtualShards(
            network, loss, world, batch_size=run.batch_size, shards=settings.virtual_shards
        )
    if world.alone:
        return None
    return Replicas(
        network,
        loss,
        world,
        batch_size=run.batch_size,
        strategy=settings.strategy,
        unused_parameters=settings.unused_parameters,
        timeout_s=settings.timeout_s,
    )


def fingerprint(run: Run, world: World, precision: Precision) -> environment.Fingerprint:
    """What besides settings, data and seed can change the bits of a run: the environment, the
    precision, and the number of ranks unless shards are fixed."""
    found = environment.fingerprint(precision.device) | {"precision": precision.name}
    return found if run.distributed.virtual_shards is not None else {**found, "ranks": world.size}


@contextlib.contextmanager
def steady_threads(run: Run, device: torch.device) -> Iterator[None]:
    """With virtual shards on the CPU: as many torch threads for any number of ranks.

    The number of threads is part of the order of sums, and torchrun gives fewer to more ranks.
    """
    shards = run.distributed.virtual_shards
    if shards is None or device.type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, cores.usable() // shards))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def notes(run: Run, world: World, network: nn.Module) -> list[str]:
    """What a person should know about training on these ranks."""
    settings = run.distributed
    if world.alone or settings.sync_batch_norm or settings.virtual_shards is not None:
        return []
    normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    if not normed:
        return []
    images = -(-run.batch_size // world.size)
    return [
        f"batch normalisation sees the {images} images of each rank, not the batch of "
        f"{run.batch_size}, so the weights depend on the number of ranks; "
        "distributed.sync_batch_norm = true makes it see all."
    ]
