"""Many processes on this machine: what a step, a checkpoint, a death and a huge index cost.

    python benchmarks/distributed.py step      # DDP of toque beside raw DDP, 2 ranks
    python benchmarks/distributed.py shards    # virtual_shards on 1 rank, V = 1, 2, 4, 8
    python benchmarks/distributed.py save      # 2 ranks that save together, beside gathered on one
    python benchmarks/distributed.py recovery  # from the kill of a rank to the next step
    python benchmarks/distributed.py index     # order and shares at 10 million and 1 billion images
    python benchmarks/distributed.py cache     # opening a packed cache of 1 and 10 million images
    python benchmarks/distributed.py record    # the list of the images of a run, written and compared

Add --record to append to RESULTS.md. Two ranks with one thread each; rounds of the two sides of a
comparison alternate, and the median of the ratios is given.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import pickle
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function gives on each of so many forked ranks."""
    port, pipes, children = free_port(), [], []
    for rank in range(ranks):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks),
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo",
            )  # fmt: skip
            torch.set_num_threads(1)
            try:
                with os.fdopen(writing, "wb") as pipe:
                    pickle.dump(function(*arguments), pipe)
                os._exit(0)
            except BaseException as error:
                print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        os.close(writing)
        pipes.append(reading)
        children.append(child)
    answers = []
    for reading in pipes:
        with os.fdopen(reading, "rb") as pipe:
            answers.append(pickle.load(pipe))
    for child in children:
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"a rank ended with status {status}")
    return answers


def parts(
    world: Any, shards: int | None, batch_size: int, size: int, strategy: str = "ddp", ema: int = 0
) -> tuple[Any, Any]:
    """A step of toque and its batch on this rank; with AdamW where there is an average."""
    from toque import Run, losses, models
    from toque.data import Batch
    from toque.models.ema import EMA
    from toque.train.distributed import preparing
    from toque.train.optimisation import optimise
    from toque.train.steps.precision import Precision
    from toque.train.steps.step import Step

    optimizer = {"name": "adamw"} if ema else {"momentum": 0.9}
    run = Run(
        batch_size=batch_size,
        optimizer={"learning_rate": 0.01, **optimizer},
        distributed={"virtual_shards": shards, "strategy": strategy},
    )
    torch.manual_seed(0)
    network = models.create("resnet18", num_classes=100).to(memory_format=torch.channels_last)
    network = preparing.place(run, world, network).train()
    loss = losses.create("cross_entropy")
    step = Step(
        network, loss, optimise.build(run, network, torch.device("cpu")), seed=0,
        precision=Precision("float32", torch.device("cpu")),
        ema=EMA(network, half_life_images=ema) if ema else None,
        exchange=preparing.exchange(run, world, network, loss),
    )  # fmt: skip
    images = batch_size // world.size
    pixels = torch.randn(images, 3, size, size).to(memory_format=torch.channels_last)
    numbers = np.arange(images)
    return step, Batch(pixels, torch.arange(images) % 100, numbers, np.zeros_like(numbers))


def timed(work: Callable[[], Any], steps: int) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        work()
    return (time.perf_counter() - began) / steps


def ddp_beside_raw(
    rounds: int, steps: int, batch_size: int, size: int
) -> tuple[float, float, float]:
    """Seconds of a step by toque and by raw DDP, and the median ratio of alternating rounds."""
    from toque import models
    from toque.train import distributed

    with distributed.joined(600.0) as world:
        step, batch = parts(world, None, batch_size, size)
        torch.manual_seed(0)
        network = models.create("resnet18", num_classes=100).to(memory_format=torch.channels_last)
        raw = nn.parallel.DistributedDataParallel(network.train(), gradient_as_bucket_view=True)
        optimizer = torch.optim.SGD(raw.parameters(), lr=0.01, momentum=0.9, fused=True)

        def raw_step() -> None:
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(raw(batch.images), batch.targets).backward()
            optimizer.step()

        decisions = distributed.Decisions(world)

        def own_step() -> None:
            step(batch, 0, 0.01)
            decisions.agree(False, None)

        for work in (own_step, raw_step) * 2:
            work()
        pairs = []
        for _ in range(rounds):
            world.barrier("a round")
            pairs.append((timed(own_step, steps), timed(raw_step, steps)))
        decisions.settle()
        own, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
        return own, plain, statistics.median(a / b for a, b in pairs)


def measure_step(quick: bool) -> str:
    rounds, steps = (3, 2) if quick else (9, 5)
    own, raw, ratio = on_ranks(2, ddp_beside_raw, rounds, steps, 32, 112)[0]
    return (
        f"DDP, ResNet-18, 2 ranks of 16 images at 112 px: toque {1e3 * own:.0f} ms a step, raw DDP "
        f"{1e3 * raw:.0f} ms, ratio {ratio:.3f} (median of {rounds} rounds)"
    )


def shards_on_one_rank(rounds: int) -> list[tuple[int, float]]:
    from toque.train.distributed import ALONE

    torch.set_num_threads(1)
    found = []
    for shards in (None, 1, 2, 4, 8):
        step, batch = parts(ALONE, shards, 32, 112)
        step(batch, 0, 0.01)
        seconds = statistics.median(
            timed(lambda step=step, batch=batch: step(batch, 0, 0.01), 1) for _ in range(rounds)
        )
        found.append((shards or 0, seconds))
    return found


def measure_shards(quick: bool) -> str:
    found = shards_on_one_rank(2 if quick else 7)
    plain = found[0][1]
    told = ", ".join(f"V = {shards} {1e3 * s:.0f} (x{s / plain:.2f})" for shards, s in found[1:])
    return f"virtual_shards, ResNet-18, 32 images at 112 px on one rank and thread, ms a step: without {1e3 * plain:.0f}, {told}"


def memory_bytes(name: str) -> int:
    """VmRSS: what this process holds; VmHWM: the most it held since `memory_begins`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return 0


def memory_begins() -> int:
    """Forget the peak; what is held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_bytes("VmRSS")


def saved_and_restored(folder: Path, strategy: str, way: str, rounds: int) -> dict[str, float]:
    """What one rank finds: "together" as on a shared folder, "gathered" as on one of rank 0."""
    from toque.train import distributed
    from toque.train.distributed.checkpoints import ByAll, ByFirst
    from toque.train.settings.course import CheckpointSettings
    from toque.train.state import checkpoint

    with distributed.joined(600.0) as world:
        step, batch = parts(world, None, 16, 96, strategy, ema=1000)
        step(batch, 0, 0.01)
        found = (
            ByAll(world, folder, step.network, step.optimizers.parts, step.ema, 600.0)
            if way == "together"
            else ByFirst(world, folder, [1])
        )

        def one_step(saver: Any) -> tuple[float, bool]:
            began = time.perf_counter()
            step(batch, 0, 0.01)
            seconds = time.perf_counter() - began
            # All ranks go on until the last of them has saved, or a step would wait for ever.
            return seconds, any(world.objects(not saver.due(), "a save"))

        alone, during, halted, saved = [], [], [], []
        grown = peak = 0
        # Due again at once: `due` is false only while a save is under way.
        settings = CheckpointSettings(every_s=1e-6)
        with found.saver(settings, print) as saver:
            for number in range(1, rounds + 1):
                alone += [one_step(saver)[0] for _ in range(3)]
                world.barrier("a round")
                before = memory_begins()
                began = time.perf_counter()
                saver.save(step.state_dict(), number, None)
                halted.append(time.perf_counter() - began)
                busy = True
                while busy:
                    seconds, busy = one_step(saver)
                    if busy:
                        during.append(seconds)
                saved.append(time.perf_counter() - began)
                assert saver.settle()
                if number == 1:
                    grown = memory_bytes("VmRSS") - before
                    peak = memory_bytes("VmHWM") - before
        path = checkpoint.newest(folder).path
        own = path / f"tensors-{world.rank + 1}-of-{world.size}.safetensors"
        whole = path / "tensors.safetensors"
        written = own if own.exists() else whole if world.first else None
        world.barrier("the end of saving")
        before = memory_begins()
        began = time.perf_counter()
        _, state, _ = found.load(checkpoint.newest)
        step.load_state_dict(state)
        restored = time.perf_counter() - began
        middle = statistics.median
        return {
            "MB written": written.stat().st_size / 1e6 if written else 0.0,
            "first halt s": halted[0],
            "halt s": middle(halted[1:]),
            "on the disk after s": middle(saved),
            "step ms": 1e3 * middle(alone),
            "step while saving ms": 1e3 * middle(during or [float("nan")]),
            "MB kept": grown / 1e6,
            "MB at the most": peak / 1e6,
            "restored s": restored,
            "MB restoring": (memory_bytes("VmHWM") - before) / 1e6,
        }


def measure_save(quick: bool) -> str:
    lines = []
    for strategy in ("ddp", "fsdp"):
        for way in ("together", "gathered"):
            with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                every = on_ranks(
                    2, saved_and_restored, Path(folder), strategy, way, 2 if quick else 6
                )
            told = ", ".join(_of_ranks(name, [one[name] for one in every]) for name in every[0])
            lines.append(f"{strategy}, {way}: {told}")
    what = "checkpoint of ResNet-18 with AdamW and an average, 2 ranks (rank 0 / rank 1): "
    return what + "; ".join(lines)


def _of_ranks(name: str, values: list[float]) -> str:
    if any(math.isnan(value) for value in values):
        return f"{name}: none, no step fell into a save"
    return f"{name} {' / '.join(f'{value:.3g}' for value in values)}"


_LIGHTNING = """
import sys, torch, lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from toque import data, models
import numpy as np

out = sys.argv[1]
source = data.open("fashion", seed=0, val_fraction=0.1).train
pixels = torch.from_numpy(np.stack([np.asarray(source.read(i)) for i in range(8192)])).float() / 255
labels = torch.arange(8192) % 10

class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.inside = models.create("resnet10_small", num_classes=10, in_channels=1)
    def training_step(self, batch, number):
        return torch.nn.functional.cross_entropy(self.inside(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)

loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(pixels, labels), 32)
saving = ModelCheckpoint(out + "/checkpoints", filename="images-{step}", every_n_train_steps=2,
                         save_top_k=-1, save_last=True)
lightning.Trainer(max_epochs=100, accelerator="cpu", devices=2, strategy="ddp", logger=False,
                  callbacks=[saving], enable_progress_bar=False, enable_model_summary=False,
                  ).fit(Net(), loader, ckpt_path="last")
"""


def measure_recovery(quick: bool) -> str:
    """From SIGKILL of a rank to the next checkpoint of the run, by toque and by Lightning."""
    toque = [
        sys.executable, "-m", "toque", "train", "fashion", "--quiet", "--devices", "2",
        "--restarts", "1", "--set", "checkpoint.every_s=0.2", "--set", "log.tensorboard=false",
        "--set", "epochs=100", "--out",
    ]  # fmt: skip
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts",
        "1", "--no-python", sys.executable, "-c", _LIGHTNING,
    ]  # fmt: skip
    sides = {"toque": toque}
    try:
        version = importlib.metadata.version("lightning")
        sides[f"Lightning {version} under torchrun"] = torchrun
    except importlib.metadata.PackageNotFoundError:
        print("without Lightning: pip install lightning, or name it in PYTHONPATH", file=sys.stderr)
    rounds = 1 if quick else 5
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, words in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds[side].append(_recovered(words, Path(folder) / "run"))
    told = ", ".join(
        f"{side} {statistics.median(found):.1f} s ({min(found):.1f} to {max(found):.1f})"
        for side, found in seconds.items()
    )
    return (
        f"2 ranks, one killed: until all run again and the next checkpoint is on the disk: {told}; "
        f"median of {rounds}; imports, data and the last checkpoint read again"
    )


def _recovered(words: list[str], out: Path) -> float:
    """Seconds from the kill of rank 1 to the next checkpoint of those that took over."""
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    process = subprocess.Popen(
        [*words, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        _until(lambda: _saved(out))
        victim = _worker_of_rank(process.pid, 1)
        assert victim is not None, "rank 1 trains"
        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        # What rank 0 still saves before it notices does not count.
        _until(lambda: _worker_of_rank(process.pid, 1) not in (None, victim))
        before = _saved(out)
        _until(lambda: _saved(out) - before)
        return time.monotonic() - began
    finally:
        process.terminate()
        process.wait(120)


def _saved(out: Path) -> set[str]:
    return {path.name for path in (out / "checkpoints").glob("images-*")}


def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("nothing came within 300 s")
        time.sleep(0.02)


def _worker_of_rank(launcher: int, rank: int) -> int | None:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if parent == launcher and re.search(rb"(^|\0)RANK=%d\0" % rank, environment):
            return int(entry.name)
    return None


def measure_index(quick: bool) -> str:
    """Time of a rank's next batch from the order, and the memory that takes."""
    from functools import partial

    from toque.data.order import share, stream

    told = []
    for num_images in (10_000_000, 1_000_000_000):
        order, size = share(partial(stream, 0, num_images), 65_536, 517, 1024)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = statistics.median(
            timed(lambda at=at, order=order, size=size: order(at, at + size), 1)
            for at in range(0, 200 * 977 * size, 977 * size)
        )
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        told.append(f"{num_images:,} images {1e6 * seconds:.0f} us, {grown / 1024:.1f} MB more")
    return f"the next {size} images of one of 1,024 ranks, anywhere in the order: " + "; ".join(
        told
    )


_OPEN = """
import json, sys, time
from functools import partial
from toque import data
from toque.data.order import share, stream

def held(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":"))

open("/proc/self/clear_refs", "w").write("5")
before, began = held("RssAnon"), time.perf_counter()
splits = data.open(sys.argv[1], seed=0)
opened, grown = time.perf_counter() - began, held("RssAnon") - before
source = splits.train
order, size = share(partial(stream, 0, len(source)), 65_536, 517, 1024)
times = []
for number in range(200):
    begin = 977 * number * size
    began = time.perf_counter()
    indices, _ = order(begin, begin + size)
    source.read_many(indices)
    times.append(time.perf_counter() - began)
print(json.dumps([len(source), opened, grown, held("VmHWM"), sorted(times)[len(times) // 2]]))
"""


def _huge_cache(folder: Path, num_images: int, part: str, sub: str) -> Any:
    """A part of a cache as pack writes it, of images of 8 x 8 pixels that are holes in a file."""
    import zlib

    from safetensors.numpy import save_file

    from toque import durable
    from toque.data.packed.format import PackedPart, Shard, StoredFile, names_as_bytes
    from toque.data.packed.writing import COLUMNS

    inside = folder / sub
    inside.mkdir(parents=True, exist_ok=True)

    def stored(path: Path, sha256: str = "") -> StoredFile:
        return StoredFile(path.name, path.stat().st_size, sha256 or durable.sha256(path))

    crc, shards = zlib.crc32(bytes(64)), []
    for start in range(0, num_images, 250_000):
        count = min(250_000, num_images - start)
        rows = np.arange(count, dtype=np.uint64)
        known = {"offset": 64 * rows, "num_bytes": 64, "height": 8, "width": 8, "crc": crc}
        index, pixels = inside / f"{part}-{start:010d}.index", inside / f"{part}-{start:010d}.bin"
        columns = {name: np.broadcast_to(np.uint64(known.get(name, 0)), count) for name in COLUMNS}
        save_file({name: np.ascontiguousarray(one) for name, one in columns.items()}, index)
        with pixels.open("wb") as file:
            file.truncate(64 * count)
        shards.append(Shard(count, stored(pixels, "not compared at opening"), stored(index)))
    names = np.concatenate(
        [
            names_as_bytes([f"class {n % 1000:03d}/{n:010d}.jpg" for n in range(start, stop)])
            for start in range(0, num_images, 100_000)
            for stop in [min(num_images, start + 100_000)]
        ]
    )
    facts = inside / f"{part}.facts"
    save_file({"names": names, "labels": np.arange(num_images) % 1000}, facts)
    return PackedPart(part, num_images, None, False, (), stored(facts), tuple(shards))


@contextlib.contextmanager
def _huge(num_images: int, drawn: bool) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """A packed cache of so many images, and its parts; drawn: validation is not given."""
    from toque.data.packed.format import FORMAT, MANIFEST, Manifest, Settings

    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        counts = {"all": num_images} if drawn else {"train": num_images, "val": 1000}
        parts = tuple(_huge_cache(folder, n, part, "id") for part, n in counts.items())
        manifest = Manifest(
            FORMAT, "", "", "id", Settings(None, "raw", 0, 1), "classification",
            tuple(f"class {n:03d}" for n in range(1000)), parts,
        )  # fmt: skip
        (folder / MANIFEST).write_text(manifest.as_json())
        yield name, parts


def measure_cache(quick: bool) -> str:
    """Opening a packed cache of so many images, and a rank's batch from anywhere in it."""
    told = []
    for num_images in (100_000, 1_000_000) if quick else (1_000_000, 10_000_000):
        for drawn in (False, True):
            with _huge(num_images, drawn) as (name, parts):
                on_disk = sum(file.num_bytes for part in parts for file in _read_whole(part))
                done = subprocess.run(
                    [sys.executable, "-c", _OPEN, name], capture_output=True, text=True, check=True
                )
            _, opened, grown, _, batch = json.loads(done.stdout)
            told.append(
                f"{num_images:,} images, validation {'drawn by name' if drawn else 'given'}: opened "
                f"in {opened:.1f} s, {grown / 1e6:.0f} MB more held ({grown / num_images:.2f} bytes "
                f"an image; index, names and labels are {on_disk / num_images:.0f} on the disk), 64 "
                f"images from anywhere in {1e6 * batch:.0f} us"
            )
    return "packed cache: " + "; ".join(told)


_RECORD = """
import json, sys, time
from pathlib import Path
from toque import data
from toque.train.run_folder.inventory import FILE, Inventory

def held(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":"))

folder = Path(sys.argv[1])
splits = data.open(folder, seed=0)
images, times, grown = Inventory(splits), [], []
for work in (images.write, images.changes, images.rewritten):
    open("/proc/self/clear_refs", "w").write("5")
    before, began = held("RssAnon"), time.perf_counter()
    work(folder)
    times.append(time.perf_counter() - began)
    grown.append(held("RssAnon") - before)
print(json.dumps([times, max(grown), (folder / FILE).stat().st_size]))
"""


def measure_record(quick: bool) -> str:
    """What a run keeps of the names of packed images: writing it, and comparing it anew."""
    told = []
    for num_images in (100_000,) if quick else (1_000_000, 10_000_000):
        for drawn in (False, True):
            with _huge(num_images, drawn) as (name, _):
                done = subprocess.run(
                    [sys.executable, "-c", _RECORD, name],
                    capture_output=True,
                    text=True,
                    check=True,
                )
            (written, compared, dates), grown, size = json.loads(done.stdout)
            told.append(
                f"{num_images:,} images, validation {'drawn by name' if drawn else 'given'}: "
                f"written in {written:.1f} s ({size / 1e6:.0f} MB), compared in {compared:.1f} s, "
                f"dates of files in {1e3 * dates:.1f} ms, {grown / 1e6:.0f} MB more held"
            )
    return "list of the images of a run on a packed cache: " + "; ".join(told)


def _read_whole(part: Any) -> list[Any]:
    """The files that opening reads."""
    return [part.facts, *(shard.index for shard in part.shards)]


MEASURES = {
    "step": measure_step,
    "shards": measure_shards,
    "save": measure_save,
    "recovery": measure_recovery,
    "index": measure_index,
    "cache": measure_cache,
    "record": measure_record,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", choices=[*MEASURES, []], default=[])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for what in options.what or MEASURES:
        told = MEASURES[what](options.quick)
        print(json.dumps({what: told}) if options.json else told, flush=True)
        if options.record:
            from record import append

            append("Many processes", told)


if __name__ == "__main__":
    main()
