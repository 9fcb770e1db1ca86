"""Exported files: parity of many models, speed of each format, and the start of `toque predict`.

    python benchmarks/deploy.py --parity [--kinds onnx pt2 aoti]
    python benchmarks/deploy.py --speed [--model resnet18 --size 224] [--rounds 5]
    python benchmarks/deploy.py --start [--rounds 5]

Models have random weights: nothing is downloaded. Parity compares on the photographs of tests/images
and on the hard cases; each ONNX file is also asked in a process that cannot import torch.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from toque import augment, data, models, random
from toque.deploy import formats, parity, quantised
from toque.deploy.details import FileDetails
from toque.deploy.predictor import Network

IMAGES = sorted((Path(__file__).parents[1] / "tests/images").glob("*.jpg"))
PARITY = (
    "toque/resnet18", "toque/repvgg_a0", "toque/mobileone_s0", "timm/resnet18",
    "timm/mobilenetv3_small_050", "timm/efficientnet_b0", "timm/convnext_atto",
    "timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224", "timm/regnetx_002",
    "timm/ghostnet_100", "timm/mobilevit_xxs", "timm/edgenext_xx_small", "timm/repvgg_a0",
    "timm/levit_128s",
)  # fmt: skip
WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "toque"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
image = numpy.load(sys.argv[2])
assert "torch" not in sys.modules
print(json.dumps(session.run(["probabilities"], {"images": image[None]})[0][0].tolist()))
"""


def network_of(name: str, size: int) -> tuple[Network, FileDetails]:
    random.seed_torch(0, "benchmark")
    classes = tuple(f"class {number}" for number in range(10))
    module = models.create(name, num_classes=10, in_channels=3, image_size=size).eval()
    pipeline = augment.preset("none", size)
    details = FileDetails(
        version="benchmark", model=name, classes=classes, in_channels=3, image_size=size,
        preprocessing=str(pipeline), weights_sha256="",
    )  # fmt: skip
    return Network(module, pipeline), details


def photographs() -> list[np.ndarray]:
    return [
        np.ascontiguousarray(data.decode(file, channels=3).permute(1, 2, 0).numpy())
        for file in IMAGES
    ]


def measure_parity(kinds: list[str], names: tuple[str, ...] = PARITY) -> list[str]:
    """Print a row for each model and format; return the sentences for RESULTS.md."""
    images = photographs()
    worst = dict.fromkeys(kinds, 0.0)
    for name in names:
        network, details = network_of(name, 224)
        own = [int(parity.network_answers(network, one[None])[0].argmax()) for one in images]
        with tempfile.TemporaryDirectory() as folder:
            for kind in kinds:
                began = time.perf_counter()
                file = Path(folder) / f"model.{kind}"
                answers, folded = formats.write(kind, network, details, file)
                found = parity.measure(
                    network, answers, images, [np.array(one) for one in own], channels=3
                )
                assert found.problem is None, f"{name} as {kind}: {found.problem}"
                worst[kind] = max(worst[kind], found.logit)
                print(
                    f"{name:36} {kind:5} probabilities {found.probability:.1e}, logits "
                    f"{found.logit:.1e} of the largest, {found.changed} changed; {folded}; "
                    f"{file.stat().st_size / 1e6:.1f} MB, {time.perf_counter() - began:.0f} s",
                    flush=True,
                )
                if kind == "onnx":
                    _without_torch(file, images[0], network)
    return [
        f"{len(names)} models, {len(images)} photographs and the hard cases, {kind}: logits within "
        f"{off:.1e} of the largest, no prediction changed"
        for kind, off in worst.items()
    ]  # fmt: skip


def _without_torch(file: Path, image: np.ndarray, network: Network) -> None:
    pixels = file.with_suffix(".npy")
    np.save(pixels, image)
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_TORCH, str(file), str(pixels)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    wanted = parity.network_answers(network, image[None])[0][0]
    np.testing.assert_allclose(json.loads(done.stdout), wanted, atol=1e-4)


def measure_speed(name: str, size: int, rounds: int, aoti: bool) -> list[str]:
    """Milliseconds an image of each format, batches of 16 of the model's own size, in turns."""
    network, details = network_of(name, size)
    batch = np.random.default_rng(0).integers(0, 256, (16, size, size, 3), np.uint8)
    ways = {"eager": lambda images: parity.network_answers(network, images)}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("onnx", "pt2", *(["aoti"] if aoti else [])):
            began = time.perf_counter()
            file = Path(folder) / f"model.{kind}"
            ways[kind] = formats.write(kind, network, details, file)[0]
            print(f"{kind} written in {time.perf_counter() - began:.0f} s", flush=True)
        quantised.quantise(Path(folder) / "model.onnx", Path(folder) / "int8.onnx", list(batch))
        from toque.deploy import onnx_file

        ways["onnx int8"] = onnx_file.open_file(Path(folder) / "int8.onnx")[0]
        wall: dict[str, list[float]] = {way: [] for way in ways}
        cpu: dict[str, list[float]] = {way: [] for way in ways}
        for answers in ways.values():
            answers(batch)
        for _ in range(rounds):
            for way, answers in ways.items():
                start, used = time.perf_counter(), time.process_time()
                for _ in range(4):
                    answers(batch)
                wall[way].append((time.perf_counter() - start) / 64 * 1000)
                cpu[way].append((time.process_time() - used) / 64 * 1000)
    rows = []
    for way in ways:
        ratio = statistics.median(
            eager / own for eager, own in zip(cpu["eager"], cpu[way], strict=True)
        )
        rows.append(
            f"{name} at {size}, {way}: {statistics.median(wall[way]):.1f} ms an image, "
            f"{statistics.median(cpu[way]):.1f} CPU-ms, x{ratio:.2f} of eager (CPU time)"
        )
        print(rows[-1])
    return rows


def measure_start(rounds: int) -> list[str]:
    """Seconds from the command to the answer, and what the imports alone take."""
    network, details = network_of("resnet18", 224)
    with tempfile.TemporaryDirectory() as folder:
        commands = {"python": ["-c", "pass"], "import torch": ["-c", "import torch"]}
        commands["import toque.deploy"] = ["-c", "import toque.deploy"]
        for kind in ("safetensors", "onnx", "pt2"):
            file = Path(folder) / f"model.{kind}"
            formats.write(kind, network, details, file)
            commands[f"predict {kind}"] = ["-m", "toque", "predict", str(file), str(IMAGES[0])]
        found: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, words in commands.items():
                began = time.perf_counter()
                subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
                if number:  # the first round warms the disk's cache
                    found[name].append(time.perf_counter() - began)
    rows = [
        f"{name}: {statistics.median(times):.2f} s ({min(times):.2f} .. {max(times):.2f})"
        for name, times in found.items()
    ]
    print("\n".join(rows))
    return rows
