"""Which files among images are images, and which are strays: passed over, counted and said.

The ending of a name decides. Where it is no word (cat/0001, photo.jpg_large, img.jpg.2), the first
bytes of the file do, if there is one to look at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from toque.data import folder

ENDINGS = frozenset([
    ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib",
    ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif",
    ".heic", ".heif", ".jxl", ".tga", ".ico", ".pcx", ".qoi",
])  # fmt: skip
"""Of images. Some of them Pillow cannot read: such a file is said to be bad, not passed over."""

_WORD = re.compile(r"\.[a-z][a-z0-9]*")
_STARTS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*",
    b"\0\0\0\x0cjP  ",
)  # fmt: skip
_START_BYTES = 16
_MOST_KINDS = 6


def is_image(name: str) -> bool:
    """Whether the end of a name is that of an image."""
    return PurePosixPath(name).suffix.lower() in ENDINGS


def parted(names: Iterable[str], path: Callable[[str], Path | None]) -> tuple[list[str], list[str]]:
    """Names of images, and of other files, in their order.

    Args: path: where a file lies, if its first bytes can be looked at
    """
    images: list[str] = []
    others: list[str] = []
    for name in names:
        taken = is_image(name) or (not _ends_in_a_word(name) and _starts_as_image(path(name)))
        (images if taken else others).append(name)
    return images, others


def _ends_in_a_word(name: str) -> bool:
    return _WORD.fullmatch(PurePosixPath(name).suffix.lower()) is not None


def _starts_as_image(path: Path | None) -> bool:
    """Whether the first bytes are an image's; what cannot be looked at is left to whoever reads
    it, who says why."""
    if path is None:
        return False
    if not path.is_file():  # opening a pipe would wait for its writer
        return True
    try:
        with path.open("rb", buffering=0) as file:
            start = file.read(_START_BYTES)
    except OSError:
        return True
    bitmap = start.startswith(b"BM") and start[6:10] == b"\0\0\0\0"
    webp = start.startswith(b"RIFF") and start[8:12] == b"WEBP"
    boxed = start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1")
    return start.startswith(_STARTS) or bitmap or webp or boxed


def counted(names: Sequence[str]) -> str:
    """How many strays there are, and of which kinds, the most frequent first.

    Example: >>> counted(["cat/1.json", "cat/2.JSON", "cat/README", "cat/.DS_Store"])
             '4 (2 .json, 1 .DS_Store, 1 README)'
             >>> counted(["cat/1.json", "cat/2.JSON"])
             '2 (.json)'
    """
    kinds = Counter(map(_kind, names))
    if len(kinds) == 1:
        return f"{len(names):,} ({next(iter(kinds))})"
    ordered = sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))
    said = [f"{count:,} {kind}" for kind, count in ordered[:_MOST_KINDS]]
    if len(ordered) > _MOST_KINDS:
        said.append(f"{sum(count for _, count in ordered[_MOST_KINDS:]):,} others")
    return f"{len(names):,} ({', '.join(said)})"


def _kind(name: str) -> str:
    last = PurePosixPath(name).name
    if last.startswith("._"):  # what macOS leaves beside each file on other disks
        return "._*"
    named = folder.is_ignored(last) or not _ends_in_a_word(last)
    return last if named else PurePosixPath(last).suffix.lower()


def notes(strays: Sequence[str], loose: Sequence[str] = ()) -> tuple[str, ...]:
    """What a person should be told once.

    Args: loose: images that lie beside the class folders
    """
    said = []
    if strays:
        said.append(f"Files passed over, hidden or no images by their names: {counted(strays)}.")
    if loose:
        said.append(
            f"Images beside the class folders, which belong to no class, passed over: "
            f"{counted(loose)}. Move them into a folder of their class."
        )
    return tuple(said)
