"""Serving: images/s and latency of `toque serve`, beside the bare model and LitServe.

    python benchmarks/deploy.py [--model resnet18 --size 224] [--clients 16] [--rounds 5] [--record]

The same exported file answers three ways, in turns: the bare model (decoding and asking in batches of
16, in one process, without HTTP: the floor), `toque serve` and, where it is installed, LitServe with
the same predictor and batching. Clients keep their connections and send one JPEG after the other over
loopback from a process of their own; LitServe gets it as it is, by three lines that replace its reading of
requests, and in JSON as base64, its documented way. Exported files are measured by --parity, --speed and
--start: see exporting.py.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from toque import augment, deploy, models, random
from toque.deploy import torch_file
from toque.deploy.details import FileDetails

IMAGE = Path(__file__).parents[1] / "tests/images/china.jpg"
LITSERVE = """
import base64, sys
import litserve as ls
from litserve.server import BaseRequestHandler
from toque import deploy

RAW = sys.argv[3] == "raw"

async def body_of(self, request, request_type):
    return {"image": await request.body()}

if RAW:  # it has no way of its own to take a body as it is
    BaseRequestHandler._prepare_request = body_of

class API(ls.LitAPI):
    def setup(self, device):
        self.predictor = deploy.load(sys.argv[1])
    def decode_request(self, request):
        image = request["image"]
        return self.predictor.pixels(image if RAW else base64.b64decode(image))
    def batch(self, inputs):
        return list(inputs)
    def predict(self, batch):
        return self.predictor.ask(batch)
    def unbatch(self, output):
        return list(output)
    def encode_response(self, shares):
        ranked = sorted(zip(self.predictor.labels, shares.tolist()), key=lambda pair: -pair[1])
        return {"label": ranked[0][0], "confidence": ranked[0][1], "probabilities": dict(ranked)}

if __name__ == "__main__":
    api = API(max_batch_size=16, batch_timeout=0.002)
    ls.LitServer(api, accelerator="cpu").run(
        host="127.0.0.1", port=int(sys.argv[2]), log_level="error", generate_client_file=False
    )
"""


def exported(model: str, size: int, folder: Path) -> Path:
    """An untrained model as a file: how fast it is does not depend on what it has learned."""
    random.seed_torch(0, "benchmark")
    labels = tuple(f"class {number}" for number in range(10))
    network = models.create(model, num_classes=10, in_channels=3, image_size=size)
    pipeline = augment.preset("none", size)
    details = FileDetails(
        version="benchmark", model=model, classes=labels, in_channels=3, image_size=size,
        preprocessing=str(pipeline), weights_sha256="",
    )  # fmt: skip
    file = folder / "model.safetensors"
    torch_file.write_weights(network.eval(), details, file)
    return file


def bare(file: Path, body: bytes, count: int) -> float:
    """Images/s without HTTP."""
    predictor = deploy.load(file)
    batch = [body] * 16
    predictor(batch)
    began = time.perf_counter()
    for _ in range(count // 16):
        predictor(batch)
    return count // 16 * 16 / (time.perf_counter() - began)


async def clients(port: int, request: bytes, number: int, count: int) -> tuple[float, float, float]:
    """Images/s, p50 and p99 in milliseconds."""
    times: list[float] = []

    async def client(share: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(share):
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            (length,) = re.findall(rb"content-length: (\d+)", head.lower())
            await reader.readexactly(int(length))
            times.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client(2) for _ in range(number)))  # warm
    times.clear()
    began = time.perf_counter()
    await asyncio.gather(*(client(count // number) for _ in range(number)))
    seconds = time.perf_counter() - began
    cuts = statistics.quantiles(times, n=100)
    return len(times) / seconds, 1000 * cuts[49], 1000 * cuts[98]


def http(body: bytes, kind: str) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def wait_for(port: int) -> None:
    async def try_one() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        writer.close()

    for _ in range(300):
        try:
            return asyncio.run(try_one())
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the server did not start")


def _files(options: argparse.Namespace) -> None:
    """Measurements of exported files: see exporting.py."""
    import exporting
    import record

    rows: list[str] = []
    if options.parity:
        rows += exporting.measure_parity(options.kinds)
    if options.speed:
        rows += exporting.measure_speed(options.model, options.size, options.rounds, options.aoti)
    if options.start:
        rows += exporting.measure_start(options.rounds)
    if options.record:
        for row in rows:
            record.append("Exported files", row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--images", type=int, default=480, help="of each way in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, help="toque serve with so many processes, too")
    parser.add_argument("--litserve", help="the folder of packages with LitServe in it")
    parser.add_argument("--parity", action="store_true", help="of 15 models as files, instead")
    parser.add_argument("--kinds", nargs="+", default=["onnx", "pt2"], help="of --parity")
    parser.add_argument("--speed", action="store_true", help="of each format, instead")
    parser.add_argument("--aoti", action="store_true", help="with --speed: AOTInductor too")
    parser.add_argument("--start", action="store_true", help="of toque predict, instead")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    if options.parity or options.speed or options.start:
        _files(options)
        return
    body = IMAGE.read_bytes()
    as_json = json.dumps({"image": base64.b64encode(body).decode()}).encode()
    found: dict[str, list[tuple[float, float, float]]] = {"toque serve": []}
    floor: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        file = exported(options.model, options.size, Path(folder))
        script = Path(folder) / "litserve_server.py"
        script.write_text(LITSERVE)
        ways = {
            "toque serve": (
                [sys.executable, "-m", "toque", "serve", str(file), "--port", "8761"],
                8761, http(body, "image/jpeg"),
            )
        }  # fmt: skip
        if options.workers:
            name, (command, _, request) = f"{options.workers} workers", ways["toque serve"]
            found[name] = []
            several = [*command[:-1], "8760", "--workers", str(options.workers)]
            ways[name] = (several, 8760, request)
        environment = dict(os.environ)
        if options.litserve:
            environment["PYTHONPATH"] += f":{options.litserve}"
            for number, (name, form, request) in enumerate([
                ("LitServe", "raw", http(body, "image/jpeg")),
                ("LitServe, base64", "json", http(as_json, "application/json")),
            ]):  # fmt: skip
                found[name] = []
                command = [sys.executable, str(script), str(file), str(8762 + number), form]
                ways[name] = (command, 8762 + number, request)
        for _ in range(options.rounds):
            floor.append(bare(file, body, options.images))
            for name, (command, port, request) in ways.items():
                process = subprocess.Popen(
                    command, env=environment, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
                try:
                    wait_for(port)
                    # LitServe's worker loads the model after the port is open, and other processes
                    # of toque serve come after the first one.
                    time.sleep(4 if not name.endswith("workers") else 12)
                    found[name].append(
                        asyncio.run(clients(port, request, options.clients, options.images))
                    )
                finally:
                    os.killpg(process.pid, signal.SIGTERM)
                    process.wait(30)
    print(
        f"{options.model} at {options.size}, {options.clients} clients, {torch.get_num_threads()} threads"
    )
    print(f"bare model   {statistics.median(floor):7.1f} images/s")
    for name, rows in found.items():
        speeds, p50, p99 = zip(*rows, strict=True)
        print(
            f"{name:12} {statistics.median(speeds):7.1f} images/s ({min(speeds):.0f} .. "
            f"{max(speeds):.0f}), p50 {statistics.median(p50):.1f} ms, p99 {statistics.median(p99):.1f} ms"
        )
    if options.record:
        import record

        ours = [row[0] for row in found["toque serve"]]
        text = (
            f"{options.model} at {options.size}, {options.clients} clients, n = {options.rounds}: "
            f"{statistics.median(ours):.0f} images/s ({min(ours):.0f} .. {max(ours):.0f}), "
            f"p50 {statistics.median(row[1] for row in found['toque serve']):.0f} ms, "
            f"p99 {statistics.median(row[2] for row in found['toque serve']):.0f} ms; "
            f"x{statistics.median(o / f for o, f in zip(ours, floor, strict=True)):.2f} of the bare model"
        )
        if len(found) > 1:
            for name in list(found)[1:]:
                theirs = [row[0] for row in found[name]]
                ratio = statistics.median(o / t for o, t in zip(ours, theirs, strict=True))
                text += (
                    f", x{ratio:.2f} of {name} ({statistics.median(theirs):.0f} images/s, p50 "
                    f"{statistics.median(row[1] for row in found[name]):.0f}, p99 "
                    f"{statistics.median(row[2] for row in found[name]):.0f} ms)"
                )
        record.append("Serving", text)


if __name__ == "__main__":
    main()
