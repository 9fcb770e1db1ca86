"""What lies in a packed cache.

    cache/manifest.json            written last: without it there is no cache
    cache/ID/all-00000.bin         a shard: the images one after the other, each at a multiple of 64
    cache/ID/all-00000.index       where each image of the shard lies, its size and its CRC-32
    cache/ID/all.names, .labels    what belongs to the images of a part
    cache/ID/finished.jsonl        the shards that are whole, one a line, also while packing
    cache/.toque-pack              locked while packing; says that the folder is ours

ID is drawn from the settings and the data: other settings never meet the shards of these. The parts
are "train" and "val", or "all" where the validation images are drawn by name when a run begins.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toque import checks, durable
from toque.data.targets import Task

MANIFEST = "manifest.json"
FINISHED = "finished.jsonl"
LOCK = ".toque-pack"
FORMAT = 1
ALIGN_BYTES = 64

Encoding = Literal["raw", "jpeg"]
ENCODINGS: tuple[Encoding, ...] = ("raw", "jpeg")


@dataclass(frozen=True)
class Settings:
    """How images are kept.

    size:     short side in pixels, of larger images; None keeps them as they are
    encoding: "raw" pixels, or "jpeg"
    quality:  of the JPEG, 1 .. 100
    channels: 1 or 3
    """

    size: int | None
    encoding: Encoding
    quality: int
    channels: int


@dataclass(frozen=True)
class StoredFile:
    """A file of the cache, as it was written."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """Some images of a part, one after the other; masks likewise where there are any."""

    num_images: int
    pixels: StoredFile
    index: StoredFile
    masks: StoredFile | None = None

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All of them."""
        both = (self.pixels, self.index)
        return both if self.masks is None else (*both, self.masks)


@dataclass(frozen=True)
class PackedPart:
    """One of train, val or all. `root` is where its files lay, if they were files; `whole_folders`
    says that every file in a folder of images is one of them."""

    name: str
    num_images: int
    root: str | None
    class_folders: bool
    left_out: tuple[str, ...]
    facts: StoredFile
    shards: tuple[Shard, ...]
    whole_folders: bool = False


@dataclass(frozen=True)
class WatchedFile:
    """A file besides the images that the data was read from, as it was: a table, arrays, shards."""

    path: str
    num_bytes: int
    time_ns: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything about a cache that is not pixels."""

    format: int
    toque: str
    data: str
    folder: str
    settings: Settings
    task: Task
    classes: tuple[str, ...]
    parts: tuple[PackedPart, ...]
    watched: tuple[WatchedFile, ...] = ()

    def as_json(self) -> str:
        """The text of manifest.json, with a digest of itself."""
        content = asdict(self)
        return json.dumps({"sha256": _digest(content), **content}, indent=1) + "\n"

    @property
    def num_images(self) -> int:
        return sum(part.num_images for part in self.parts)

    @property
    def files(self) -> list[StoredFile]:
        """Every file of the cache."""
        found = []
        for part in self.parts:
            found.append(part.facts)
            for shard in part.shards:
                found += shard.files
        return found


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_cache(folder: Path) -> bool:
    """Whether the folder holds a packed cache, whole or unfinished."""
    return (folder / MANIFEST).is_file() or (folder / LOCK).is_file()


def read_manifest(cache: Path) -> Manifest:
    """The manifest of a cache.

    Raises: ValueError: there is none (unfinished), it is damaged, or of another format
    """
    path = cache / MANIFEST
    if not path.is_file():
        raise checks.invalid(
            "data", "a packed cache", "finished", f"{cache}, which is not",
            f"Run the same command again and it goes on: toque pack DATA {cache}.",
        )  # fmt: skip
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stored = content.pop("sha256")
        version = int(content["format"])
        if version != FORMAT:
            raise checks.invalid(
                "data", f"the format of {path}", f"{FORMAT}", version,
                "Pack again with this version of toque.",
            )  # fmt: skip
        if stored != _digest(content):
            raise ValueError("its content is not what was written")
        return _manifest(content)
    except checks.UserMistake:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, str(error)) from None


def _manifest(content: dict[str, Any]) -> Manifest:
    def file(values: dict[str, Any] | None) -> StoredFile | None:
        return None if values is None else StoredFile(**values)

    def known(values: dict[str, Any]) -> StoredFile:
        return StoredFile(**values)

    parts = tuple(
        PackedPart(
            **{
                **part,
                "left_out": tuple(part["left_out"]),
                "facts": known(part["facts"]),
                "shards": tuple(
                    Shard(
                        shard["num_images"],
                        known(shard["pixels"]),
                        known(shard["index"]),
                        file(shard["masks"]),
                    )
                    for shard in part["shards"]
                ),
            }
        )
        for part in content["parts"]
    )
    settings = Settings(**content["settings"])
    classes = tuple(content["classes"])
    watched = tuple(WatchedFile(**one) for one in content.get("watched", ()))
    return Manifest(
        **{
            **content, "settings": settings, "classes": classes, "parts": parts,
            "watched": watched,
        }
    )  # fmt: skip


def damaged(path: Path, reason: str) -> checks.InvalidValue:
    """The exception for a file of a cache that is not as it was written."""
    return checks.invalid(
        "data", f"the packed cache {path.parent}", "as it was written", f"{path.name} ({reason})",
        "Remove that file and pack again with the same command: the other shards are kept.",
    )  # fmt: skip


def stored(path: Path, num_bytes: int, sha256: str) -> StoredFile:
    """A file that was just written, and is on the disk."""
    durable.sync(path)
    return StoredFile(path.name, num_bytes, sha256)


def names_as_bytes(names: list[str]) -> np.ndarray:
    """Names in one array, with a zero byte after each: uint8."""
    joined = "".join(name + "\0" for name in names).encode(errors="surrogateescape")
    return np.frombuffer(joined, np.uint8)
