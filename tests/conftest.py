"""What every test shares: hypothesis without deadlines, a small folder of images, the command."""

import io
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from toque import cli
from toque.random import Key

settings.register_profile(
    "toque", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("toque")


def write_photos(root, counts, size=16, part=""):
    """Pictures of two kinds, by class: bright at the left, or bright at the right; PNG and JPEG."""
    for label, (name, count) in enumerate(counts.items()):
        folder = root / part / name
        folder.mkdir(parents=True, exist_ok=True)
        noise = Key(label, 0, np.arange(count)).uniform("noise", size * size * 3).numpy()
        pixels = 90 * noise.reshape(count, size, size, 3)
        half = slice(0, size // 2) if label % 2 == 0 else slice(size // 2, size)
        pixels[:, :, half] += 120
        for number, picture in enumerate(pixels.astype(np.uint8)):
            ending = "png" if number % 2 else "jpg"
            Image.fromarray(picture).save(folder / f"{number}.{ending}", quality=95)
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder train/CLASS + val/CLASS of 2 x 12 and 2 x 4 pictures of 16 x 16 pixels."""
    root = tmp_path_factory.mktemp("data") / "photos"
    write_photos(root, {"left": 12, "right": 12}, part="train")
    return write_photos(root, {"left": 4, "right": 4}, part="val")


@pytest.fixture
def toque(monkeypatch, capsys):
    """Runs one command in this process: (exit code, stdout, stderr)."""

    def type_in(*words, stdin=b""):
        monkeypatch.setattr(sys, "argv", ["toque", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return type_in
