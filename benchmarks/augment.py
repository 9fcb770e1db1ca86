"""CPU time per image of whole augmentation pipelines beside torchvision, kornia and albumentationsx.

    python benchmarks/augment.py [--rounds 9] [--only i ii] [--record]
    python benchmarks/augment.py --threads          two threads over one, wall time
    python benchmarks/augment.py --host [--record]  what a batch costs before its pixels: draw and resolve
    python benchmarks/augment.py --gpu [--record]   where there is a CUDA device: images a second
    python benchmarks/augment.py --psnr PHOTO...    resize + rotation: how near to a supersampled picture
    python benchmarks/augment.py --linear PHOTO...  color="linear": how near to exact

    i    RandomResizedCrop + flip + normalise          256 -> 224, batch of 64, float32
    ii   i + ColorJitter(.4, .4, .4, .1) + RandomErasing(.25)
    iii  ii + rotation by -15 .. 15 degrees, bilinear
    32   crop of 32 with padding 4 + flip + normalise + cut-out, batch of 512
    ra   RandAugment, ta TrivialAugmentWide: on 224, + normalise

One thread, the drawing of parameters included, every contender once in each round in an order drawn anew, median
over the rounds. The allocator is told to keep large blocks (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_),
which is worth more to the peers than to toque. Peers that are not installed are left out; none of
them is needed by toque. The floor is out.copy_(batch) from uint8 at the size of the result.

--gpu measures (i) to (iii) at batch 256 on one device, sources in its memory, beside torchvision v2 (one
draw for the batch, and sample by sample) and kornia on the same device: images a second from the wall
clock with everything included, and for the pass alone, parameters drawn and resolved before, the part
of the time that its traffic needs at the bandwidth that copying 1 GiB reaches.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32 - 1),
    "OMP_NUM_THREADS": "1",
}
if __name__ == "__main__" and any(os.environ.get(name) != value for name, value in TUNED.items()):
    os.execve(
        sys.executable,
        [sys.executable, *sys.argv],
        {**os.environ, **TUNED, "NO_ALBUMENTATIONS_UPDATE": "1"},
    )

import numpy as np  # noqa: E402
import torch  # noqa: E402

from toque import augment  # noqa: E402
from toque.augment import kernels  # noqa: E402
from toque.augment.kernels import cuda  # noqa: E402
from toque.augment.plan import Transform  # noqa: E402
from toque.augment.resolve import canvas_of, resolve  # noqa: E402
from toque.random import Key  # noqa: E402

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
JITTER = (0.4, 0.4, 0.4, 0.1)
SIZES = {
    "i": (64, 256, 224),
    "ii": (64, 256, 224),
    "iii": (64, 256, 224),
    "32": (512, 32, 32),
    "ra": (64, 224, 224),
    "ta": (64, 224, 224),
}
Contenders = dict[str, Callable[[], object]]


def pictures(number: int, size: int) -> torch.Tensor:
    """Smooth pictures with grain, uint8 [B, 3, size, size] in channels_last, as decoders give them."""
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.uniform(0, 255, (number, 3, 9, 9)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(small, (size, size), mode="bicubic")
    grain = torch.from_numpy(rng.normal(0, 9, (number, 3, size, size)).astype(np.float32))
    images = (smooth + grain).clamp(0, 255).to(torch.uint8)
    return images.contiguous(memory_format=torch.channels_last)


def chains() -> dict[str, list[Transform]]:
    """The transforms of each pipeline."""
    crop, flip = augment.RandomResizedCrop(224), augment.RandomHorizontalFlip()
    jitter, erase = augment.ColorJitter(*JITTER), augment.RandomErasing(0.25)
    turn, normalize = augment.RandomRotation(15, "bilinear"), augment.Normalize(MEAN, STD)
    return {
        "i": [crop, flip, normalize],
        "ii": [crop, flip, jitter, normalize, erase],
        "iii": [crop, flip, turn, jitter, normalize, erase],
        "32": [augment.RandomCrop(32, padding=4), flip, normalize, augment.Cutout(8)],
        "ra": [augment.RandAugment(), normalize],
        "ta": [augment.TrivialAugmentWide(), normalize],
    }


def ours(which: str, images: torch.Tensor) -> Contenders:
    steps, key = chains()[which], Key(0, 0, np.arange(len(images)))

    def contender(kernel: str, **options: object) -> Callable[[], object]:
        pipeline = augment.Compose(steps, kernel=kernel, **options)
        layout = torch.channels_last if pipeline.channels_last else torch.contiguous_format
        size = SIZES[which][2]
        out = torch.empty((len(images), 3, size, size), dtype=pipeline.dtype, memory_format=layout)
        return lambda: pipeline(images, key=key, out=out)

    best = kernels.available()[-1]
    found = {"toque": contender("auto")}
    if best != "reference":
        found |= {f"toque ({kernel})": contender(kernel) for kernel in kernels.available()[-2:-1]}
        found["toque, bfloat16 channels_last"] = contender(
            best, dtype=torch.bfloat16, channels_last=True
        )
        if which in ("ii", "iii"):
            found["toque, linear colour"] = contender("auto", color="linear")
    found["toque (reference)"] = contender("reference")
    return found


def floor(which: str, images: torch.Tensor) -> Contenders:
    size = SIZES[which][2]
    source = torch.zeros(len(images), 3, size, size, dtype=torch.uint8)
    out = torch.empty(source.shape)
    return {"floor: out.copy_(uint8)": lambda: out.copy_(source)}


def torchvision(which: str, images: torch.Tensor) -> Contenders:
    from torchvision.transforms import InterpolationMode, v2

    flip, jitter = v2.RandomHorizontalFlip(), v2.ColorJitter(*JITTER)
    crop = v2.RandomResizedCrop(224, antialias=True)
    turn = v2.RandomRotation(15, InterpolationMode.BILINEAR)
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    square = v2.RandomErasing(1.0, scale=(1 / 16, 1 / 16), ratio=(1, 1))
    steps = {
        "i": [crop, flip, *last],
        "ii": [crop, flip, jitter, *last, v2.RandomErasing(0.25)],
        "iii": [crop, flip, turn, jitter, *last, v2.RandomErasing(0.25)],
        "32": [v2.RandomCrop(32, padding=4), flip, *last, square],
        "ra": [v2.RandAugment(), *last],
        "ta": [v2.TrivialAugmentWide(), *last],
    }
    pipeline = v2.Compose(steps[which])
    contiguous = images.contiguous()
    return {
        "torchvision, per sample": lambda: torch.stack([pipeline(image) for image in contiguous]),
        "torchvision, one draw a batch": lambda: pipeline(contiguous),
    }


def kornia(which: str, images: torch.Tensor) -> Contenders:
    import kornia.augmentation as K

    flip, jitter = K.RandomHorizontalFlip(0.5), K.ColorJitter(*JITTER, p=1.0)
    crop = K.RandomResizedCrop((224, 224), scale=(0.08, 1.0), cropping_mode="slice")
    normalize = K.Normalize(
        torch.tensor(MEAN, device=images.device), torch.tensor(STD, device=images.device)
    )
    erase = K.RandomErasing(p=0.25, scale=(0.02, 0.33))
    square = K.RandomErasing(p=1.0, scale=(1 / 16, 1 / 16), ratio=(1.0, 1.0))
    steps = {
        "i": [crop, flip, normalize],
        "ii": [crop, flip, jitter, normalize, erase],
        "iii": [crop, flip, K.RandomRotation(15.0, p=1.0), jitter, normalize, erase],
        "32": [K.RandomCrop((32, 32), padding=4), flip, normalize, square],
    }
    if which in ("ra", "ta"):
        from kornia.augmentation.auto import RandAugment, TrivialAugment

        policy = RandAugment(2, 9) if which == "ra" else TrivialAugment()
        contiguous = images.contiguous()
        return {"kornia": lambda: normalize(policy(contiguous.float().div_(255)))}
    pipeline = K.AugmentationSequential(*steps[which], data_keys=["input"])
    contiguous = images.contiguous()
    return {"kornia": lambda: pipeline(contiguous.float().div_(255))}


def albumentationsx(which: str, images: torch.Tensor) -> Contenders:
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    cv2.setNumThreads(0)
    jitter = A.ColorJitter(
        brightness=(0.6, 1.4), contrast=(0.6, 1.4), saturation=(0.6, 1.4), hue=(-0.1, 0.1), p=1.0
    )
    crop = A.RandomResizedCrop(size=(224, 224), scale=(0.08, 1.0), interpolation=cv2.INTER_LINEAR)
    flip, normalize = A.HorizontalFlip(p=0.5), A.Normalize(MEAN, STD)
    turn = A.Rotate((-15, 15), p=1.0, border_mode=cv2.BORDER_CONSTANT)
    erase = A.Erasing(scale=(0.02, 0.33), p=0.25)
    square = A.CoarseDropout(
        num_holes_range=(1, 1), hole_height_range=(8, 8), hole_width_range=(8, 8), p=1.0
    )
    steps = {
        "i": [crop, flip, normalize],
        "ii": [crop, flip, jitter, normalize, erase],
        "iii": [crop, flip, turn, jitter, normalize, erase],
        "32": [
            A.Pad(padding=4, border_mode=cv2.BORDER_CONSTANT),
            A.RandomCrop(32, 32),
            flip,
            normalize,
            square,
        ],
    }
    if which not in steps:
        return {}
    pipeline = A.Compose([*steps[which], ToTensorV2()])
    arrays = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]
    return {
        "albumentationsx, per sample (no anti-alias)": lambda: torch.stack(
            [pipeline(image=a)["image"] for a in arrays]
        )
    }


def measure(contenders: Contenders, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each call, all contenders in each round, after two rounds of warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 2):
        order = list(contenders.items())
        # Whoever comes after a contender that reads the same images finds them in the cache.
        np.random.default_rng(turn).shuffle(order)
        for name, call in order:
            began = time.process_time()
            call()
            if turn >= 2:
                seconds[name].append(time.process_time() - began)
    return seconds


def quality(photos: list[str]) -> str:
    """PSNR of photos at 500 x 375 -> 224, turned by 15 degrees, against 6 x supersampling; the middle."""
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    def turned(images: torch.Tensor, size: int) -> torch.Tensor:
        steps = [augment.Resize((size, size)), augment.RandomRotation((15, 15), "bilinear")]
        return augment.Compose(steps)(images, key=Key(0, 0, np.arange(len(images))))

    arrays = [
        np.array(Image.open(photo).convert("RGB").resize((500, 375), Image.Resampling.LANCZOS))
        for photo in photos
    ]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    truth = F.resize(turned(images, 6 * 224), [224, 224], antialias=True)
    twice = F.resize(images.float() / 255, [224, 224], antialias=True)
    results = {
        "toque": turned(images, 224),
        "torchvision (resize, rotate)": F.rotate(twice, 15, InterpolationMode.BILINEAR),
    }
    inner = slice(40, 184)
    errors = {
        name: (result - truth)[..., inner, inner].square().mean()
        for name, result in results.items()
    }
    return ", ".join(
        f"{name} {-10 * float(torch.log10(error)):.1f} dB" for name, error in errors.items()
    )


def two_threads(rounds: int) -> str:
    """Wall time of (ii) on slices of a batch, one thread over two; both processors have to be free.

    Slices of 16 are what the loader hands to a thread; the part of Python is what threads cannot share.
    """
    from concurrent.futures import ThreadPoolExecutor

    images = pictures(64, 256)
    pipeline = augment.Compose(chains()["ii"])
    parameters = pipeline.draw(Key(0, 0, np.arange(64)))
    out = torch.empty(64, 3, 224, 224)

    def part(some: slice) -> None:
        pipeline.apply(images[some], parameters[some], out=out[some])

    found = []
    with ThreadPoolExecutor(2) as pool:
        for size in (8, 16, 32):
            slices = [slice(first, first + size) for first in range(0, 64, size)]
            ratios = []
            for _ in range(rounds + 2):
                began = time.perf_counter()
                for some in slices:
                    part(some)
                alone = time.perf_counter()
                list(pool.map(part, slices))
                ratios.append((alone - began) / (time.perf_counter() - alone))
            ratios = sorted(ratios[2:])
            found.append(
                f"slices of {size}: x {statistics.median(ratios):.2f} ({ratios[0]:.2f} .. {ratios[-1]:.2f})"
            )
    return f"two threads over one, (ii), n = {rounds}: {', '.join(found)}"


def host(rounds: int) -> str:
    """CPU-microseconds of drawing and of resolving one batch: the least of many short windows, which a busy
    machine does not reach."""
    found = []
    for which, number in (("i", 256), ("ii", 256), ("32", 512), ("ii", 16), ("32", 16)):
        size = SIZES[which][1]
        images = torch.zeros(number, 3, size, size, dtype=torch.uint8)
        pipeline, key = augment.Compose(chains()[which]), Key(0, 0, np.arange(number))
        parameters, canvas = pipeline.draw(key), canvas_of(images)
        calls: Contenders = {
            "draw": lambda p=pipeline, k=key: p.draw(k),
            "resolve": lambda p=pipeline, q=parameters, c=canvas: resolve(p._passes[0], q, c, 3),
        }
        least = dict.fromkeys(calls, float("inf"))
        for _ in range(20 * rounds):
            for name, call in calls.items():
                began = time.process_time()
                for _ in range(10):
                    call()
                least[name] = min(least[name], (time.process_time() - began) / 10 * 1e6)
        found.append(
            f"{which} x {number}: draw {least['draw']:.1f}, resolve {least['resolve']:.1f}"
        )
    return f"CPU-us a batch before its pixels, n = {20 * rounds}: {'; '.join(found)}"


def kernel_seconds(call: Callable[[], object]) -> float:
    """Of the device's own work in one call."""
    call()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(10):
            call()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in profile.key_averages()) / 10 / 1e6


def on_gpu(which: str, rounds: int) -> str:
    """Images a second on the device: toque, and the peers that are installed."""
    number, size, result = 256, 256, 224
    images = pictures(number, size).cuda()
    steps, key = chains()[which], Key(0, 0, np.arange(number))

    def seconds(call: Callable[[], object], repeats: int) -> float:
        """Of one call, device work included."""
        call()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / repeats

    calls: Contenders = {}
    alone: Contenders = {}
    for name, dtype, last, color, kernel in (
        ("toque float32", torch.float32, False, "exact", "auto"),
        ("toque float32, linear colour", torch.float32, False, "linear", "auto"),
        ("toque bfloat16 channels_last", torch.bfloat16, True, "exact", "auto"),
        ("toque reference", torch.float32, False, "exact", "reference"),
    ):
        pipeline = augment.Compose(
            steps, dtype=dtype, channels_last=last, color=color, kernel=kernel
        )
        out = pipeline(images, key=key)
        parameters = pipeline.draw(key)
        calls[name] = lambda p=pipeline, o=out: p(images, key=key, out=o)
        if kernel == "auto":
            resolved = resolve(pipeline._passes[0], parameters, canvas_of(images), 3)
            alone[name] = lambda r=resolved, o=out: cuda.run(images, r, o)
    for side in (torchvision, kornia):
        try:
            calls |= side(which, images)
        except ImportError as missing:
            print(f"({side.__name__} is left out: {missing})")
    slow = ("per sample", "reference", "kornia", "one draw")
    kernels = {name: kernel_seconds(call) for name, call in alone.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    device: dict[str, list[float]] = {name: [] for name in alone}
    with torch.cuda.device(images.device):
        big = torch.empty(2**30, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(big)
        bandwidth = 2 * 2**30 / seconds(lambda: target.copy_(big), 20)
        for turn in range(rounds):
            order = list(calls)
            np.random.default_rng(turn).shuffle(order)
            for name in order:
                repeats = 1 if any(word in name for word in slow) else 20
                times[name].append(seconds(calls[name], repeats))
            for name, call in alone.items():
                device[name].append(seconds(call, 20))
    rows = []
    for name, values in times.items():
        median = statistics.median(values)
        row = f"{name} {number / median:,.0f} ({number / max(values):,.0f} .. {number / min(values):,.0f})"
        if name in device:
            written = 3 * result**2 * (2 if "bfloat16" in name else 4)
            traffic = number * (written + 3 * result**2)
            per_pass = statistics.median(device[name])
            pure = kernels[name]
            row += (
                f" [tables and pass {number / per_pass:,.0f}; kernels alone {number / pure:,.0f}, "
                f"{traffic / bandwidth / pure:.0%} of the roofline]"
            )
        rows.append(row)
    return f"{which}: images a second, {size} -> {result}, batch {number}, n = {rounds}, copy {bandwidth / 1e12:.2f} TB/s: {'; '.join(rows)}"


def linear_error(photos: list[str]) -> str:
    """How far color="linear" is from exact, on crops of photos at 224, in units of 1/255."""
    from PIL import Image

    images = [
        torch.from_numpy(np.array(Image.open(photo).convert("RGB"))).permute(2, 0, 1)
        for photo in photos
    ]
    rows = []
    for amounts in (
        (0.4, 0.4, 0.4, 0), JITTER, (0.2, 0.2, 0.2, 0.05), (0.8, 0.8, 0.8, 0.2), (0, 0, 0, 0.1)
    ):  # fmt: skip
        chain = [augment.RandomResizedCrop(224), augment.ColorJitter(*amounts)]
        errors, changes = [], []
        for epoch in range(20):
            key = Key(0, epoch, np.arange(len(images)))
            exact = augment.Compose(chain)(images, key=key)
            errors.append((augment.Compose(chain, color="linear")(images, key=key) - exact).abs())
            changes.append(
                float((augment.Compose(chain[:1])(images, key=key) - exact).abs().mean())
            )
        error = torch.cat(errors) * 255
        values = error.flatten().sort().values
        rows.append(
            f"{amounts}: mean {float(error.mean()):.2f}, worst picture "
            f"{float(error.mean((1, 2, 3)).max()):.1f}, 99 % below "
            f"{float(values[int(0.99 * len(values))]):.1f}, exact changes {255 * statistics.mean(changes):.1f}"
        )
    return "; ".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--record", action="store_true", help="append the figures to RESULTS.md")
    parser.add_argument(
        "--psnr", nargs="+", metavar="PHOTO", help="measure quality instead of time"
    )
    parser.add_argument("--threads", action="store_true", help="measure two threads over one")
    parser.add_argument("--host", action="store_true", help="measure drawing and resolving alone")
    parser.add_argument("--gpu", action="store_true", help="measure on the CUDA device")
    parser.add_argument(
        "--linear", nargs="+", metavar="PHOTO", help='measure the error of color="linear"'
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.threads:
        text = two_threads(max(options.rounds, 9))
        print(text)
        if options.record:
            from record import append

            append("Augmentation on the CPU", text)
        return
    if options.host:
        text = host(options.rounds)
        print(text)
        if options.record:
            from record import append

            append("Augmentation on the CPU", text)
        return
    if options.gpu:
        if not torch.cuda.is_available():
            sys.exit("There is no CUDA device here.")
        warnings.simplefilter("ignore")
        for which in ("i", "ii", "iii"):
            text = on_gpu(which, options.rounds)
            print(text)
            if options.record:
                from record import append

                append("Augmentation on a GPU", text)
        return
    if options.linear:
        text = f'color="linear" against exact, {len(options.linear)} photos at 224, 20 draws each, in 1/255: {linear_error(options.linear)}'
        print(text)
        if options.record:
            from record import append

            append("Augmentation: error of linear colour", text)
        return
    if options.psnr:
        text = f"resize to 224 + rotation by 15 degrees, {len(options.psnr)} photos at 500 x 375, PSNR against 6 x supersampling: {quality(options.psnr)}"
        print(text)
        if options.record:
            from record import append

            append("Augmentation: quality of one resample", text)
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for which in options.only:
        number, size, _ = SIZES[which]
        images = pictures(number, size)
        contenders: Contenders = {}
        for side in (ours, floor, torchvision, kornia, albumentationsx):
            try:
                contenders |= side(which, images)
            except ImportError as missing:
                print(f"({side.__name__} is left out: {missing})")
        seconds = measure(contenders, options.rounds)
        medians = {name: statistics.median(times) / number * 1e6 for name, times in seconds.items()}
        if not any(name.startswith("toque") for name in medians):
            continue
        own = next(iter(medians.values()))
        print(
            f"\n{which}: CPU-microseconds per image, n = {options.rounds}, load {os.getloadavg()[0]:.1f}"
        )
        for name, median in medians.items():
            low, high = (edge / number * 1e6 for edge in (min(seconds[name]), max(seconds[name])))
            print(f"  {name:46s} {median:9.1f}   {low:9.1f} .. {high:9.1f}   x {median / own:6.2f}")
        if options.record:
            from record import append

            found = []
            for package in ("torchvision", "kornia", "albumentationsx"):
                try:
                    found.append(f"{package} {version(package)}")
                except PackageNotFoundError:
                    continue
            rows = ", ".join(
                f"{name} {median:.3g} (x {median / own:.2f})" for name, median in medians.items()
            )
            append(
                "Augmentation on the CPU",
                f"{which}: CPU-us per image, median of {options.rounds}, one thread, load {os.getloadavg()[0]:.1f}, {', '.join(found)}: {rows}",
            )


if __name__ == "__main__":
    main()
