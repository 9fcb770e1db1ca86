"""Where files lie: in a folder, behind a URL, inside tar shards. Each gives bytes by name.

Nothing is unpacked or copied: a shard is read once, its headers alone, to learn where each file
begins; then a file is one read at an offset.
"""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol, cast

from toque import checks
from toque.data import folder
from toque.data.decoding import unreadable

MOST_FILE_BYTES = 2**30  # one image or mask; what claims more is refused unread
_MOST_FILES = 50_000_000


class Place(Protocol):
    """A set of files; `read` is called from several threads at once."""

    @property
    def where(self) -> str:
        """What a person calls it."""

    def names(self) -> Sequence[str]:
        """Every file, with "/", in order."""

    def size(self, name: str) -> int:
        """Bytes of a file."""

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises: ValueError (UnreadableImage): it is not there or cannot be read
        """

    def path(self, name: str) -> Path | None:
        """Where the file lies on this machine, if it is one."""


class Folder:
    """Files below a folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def where(self) -> str:
        return str(self.root)

    def names(self) -> Sequence[str]:
        return list(folder.files_below(self.root))

    def size(self, name: str) -> int:
        try:
            return (self.root / name).stat().st_size
        except OSError as error:
            raise unreadable(str(self.root / name), error.strerror or str(error)) from None

    def read(self, name: str) -> bytes:
        _check_bytes(name, self.size(name))
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise unreadable(str(self.root / name), error.strerror or str(error)) from None

    def path(self, name: str) -> Path | None:
        return self.root / name


class Remote:
    """Files below a URL, by fsspec: file://, memory://, http://, s3://, gs:// and more.

    The list of files is asked for once. A web server gives it as the links of its pages.

    Raises: ImportError: fsspec, or what it needs for this kind of URL, is not installed
            FileNotFoundError, ValueError: nothing there, or the server does not answer
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._files, self._root = _opened(self.url)
        self._sizes: dict[str, int | None] | None = None

    @property
    def where(self) -> str:
        return self.url

    def names(self) -> Sequence[str]:
        return sorted(self._known())

    def _known(self) -> dict[str, int | None]:
        if self._sizes is None:
            try:
                found = self._files.find(self._root, detail=True)
            except FileNotFoundError:
                found = {}
            except Exception as error:  # whatever the server or its client says
                raise _no_answer(self.url, error) from None
            sizes = {
                path.removeprefix(self._root).lstrip("/"): facts.get("size")
                for path, facts in found.items()
            }
            self._sizes = {
                name: size
                for name, size in sizes.items()
                if name and not any(map(folder.is_ignored, name.split("/")))
            }
            if not self._sizes:
                raise checks.MissingFile(
                    f"data: {self.url} must hold files; there are none. Check the URL."
                )
        return self._sizes

    def size(self, name: str) -> int:
        size = self._known().get(name)
        if size is None:
            try:
                size = int(self._files.size(f"{self._root}/{name}") or 0)
            except Exception as error:
                raise unreadable(f"{self.url}/{name}", str(error)) from None
            self._known()[name] = size
        return size

    def read(self, name: str) -> bytes:
        _check_bytes(name, self.size(name))
        try:
            return cast(bytes, self._files.cat_file(f"{self._root}/{name}"))
        except Exception as error:
            raise unreadable(f"{self.url}/{name}", str(error) or type(error).__name__) from None

    def path(self, name: str) -> Path | None:
        return None


class Shards:
    """The files inside tar files, read where they lie in them, in the order of the shards.

    Args:   shards: paths of this machine, or URLs
    Raises: ValueError: a file that is no tar, is cut off, or holds the same name twice
    """

    def __init__(self, shards: Sequence[str]) -> None:
        self._shards = [_Shard(shard) for shard in shards]
        self._at: dict[str, tuple[_Shard, int, int]] = {}
        for shard in self._shards:
            for name, offset, size in shard.members():
                if name in self._at:
                    raise checks.invalid(
                        "data", "every name in the shards", "there once",
                        f"{name} again in {shard.where}", "Write the shards anew, without it.",
                    )  # fmt: skip
                self._at[name] = shard, offset, size
                if len(self._at) > _MOST_FILES:
                    raise checks.invalid(
                        "data", "the shards", f"of at most {_MOST_FILES:,} files", "more",
                        "Train on a part of them.",
                    )  # fmt: skip

    @property
    def where(self) -> str:
        return checks.first((shard.where for shard in self._shards), 1)

    def names(self) -> Sequence[str]:
        return list(self._at)

    def shard(self, name: str) -> str:
        """The tar file that a file is in."""
        return self._at[name][0].where

    def size(self, name: str) -> int:
        return self._at[name][2]

    def read(self, name: str) -> bytes:
        shard, offset, size = self._at[name]
        _check_bytes(name, size)
        data = shard.read(offset, size)
        if len(data) < size:
            raise unreadable(f"{shard.where}:{name}", "cut off")
        return data

    def path(self, name: str) -> Path | None:
        return None


class _Shard:
    def __init__(self, where: str) -> None:
        self.where = where
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        self._remote: tuple[Any, str] | None = _opened(where) if "://" in where else None

    def _open(self) -> IO[bytes]:
        if self._remote is None:
            return Path(self.where).open("rb")
        files, path = self._remote
        return cast(IO[bytes], files.open(path, "rb"))

    def members(self) -> list[tuple[str, int, int]]:
        """Name, offset and size of every file that images or targets may be in."""
        try:
            with self._open() as file, tarfile.open(fileobj=file, mode="r:") as tar:
                found = [
                    (member.name.removeprefix("./"), member.offset_data, member.size)
                    for member in tar
                    if member.isreg() and not folder.is_ignored(member.name.rsplit("/", 1)[-1])
                ]
        except FileNotFoundError:
            raise checks.MissingFile(
                f"data: {self.where} must be a tar file; there is none. Check the path."
            ) from None
        except (tarfile.TarError, OSError, EOFError) as error:
            raise checks.invalid(
                "data", self.where, "a whole, uncompressed tar file", f"an error ({error})",
                "Write it anew; unpack .tar.gz first, as shards are read at offsets.",
            ) from None  # fmt: skip
        return found

    def read(self, offset: int, size: int) -> bytes:
        try:
            if self._remote is not None:
                files, path = self._remote
                return cast(bytes, files.cat_file(path, start=offset, end=offset + size))
            with self._lock:
                if self._descriptor is None:
                    self._descriptor = os.open(self.where, os.O_RDONLY)
            return os.pread(self._descriptor, size, offset)
        except Exception as error:
            raise unreadable(self.where, str(error) or type(error).__name__) from None

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(cast(int, self._descriptor))

    def __getstate__(self) -> dict[str, Any]:
        return {"where": self.where}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["where"])  # type: ignore[misc]


def _check_bytes(name: str, size: int) -> None:
    if size > MOST_FILE_BYTES:
        raise unreadable(name, f"{size:,} bytes, more than {MOST_FILE_BYTES:,}")


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    try:
        import fsspec
    except ImportError:
        raise checks.InvalidValue(
            f"data: reading {url} needs fsspec, which is not installed. Install it with: "
            "pip install 'toque[sources]'"
        ) from None
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise checks.InvalidValue(
            f"data: reading {url} needs another package ({error}). Install it."
        ) from None
    except ValueError as error:
        raise checks.invalid(
            "data", "the URL", "of a kind that fsspec knows, such as s3:// or https://", url,
            f"({error}.) Check what stands before ://.",
        ) from None  # fmt: skip
    return files, path.rstrip("/")


def _no_answer(url: str, error: Exception) -> checks.InvalidValue:
    return checks.invalid(
        "data", "the URL", "one that answers", f"{url} ({type(error).__name__}: {error})",
        "Check the address and your rights to it.",
    )  # fmt: skip
