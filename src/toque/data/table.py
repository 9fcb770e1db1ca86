"""A table of images: CSV or Parquet, one row an image.

path,label,split
cats/1.jpg,cat,train
dogs/7.jpg,dog,val
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from toque import checks
from toque.data import given
from toque.data import targets as kinds
from toque.data.asked import Columns
from toque.data.files import Listed
from toque.data.given import PARTS
from toque.data.listing import some
from toque.data.places import Folder, Place, Remote
from toque.data.targets import Targets, Task
from toque.data.written import of_values

SUFFIXES = (".csv", ".tsv", ".parquet")
_PATH = ("path", "image", "file", "filename", "file_name", "image_path", "filepath", "img")
_LABEL = ("label", "labels", "class", "target", "mask", "y")
_SPLIT = ("split", "subset", "fold", "part")
_WEIGHT = ("weight", "sample_weight")
_MOST_BYTES = 2**31
_SEPARATORS = "|;,"
_MOST_ALONE = 20  # classes that a table of few images may have


def read_table(source: str, columns: Columns, task: Task | None) -> Listed:
    """The images that a table lists.

    Args:    source: a path of this machine, or a URL
             task: what the labels mean, where they could mean two things
    Raises:  FileNotFoundError: no such file
             ValueError: no table, no such column (the nearest is suggested), a label or split that
             cannot be read (with its row)
    """
    place, name = _place(source)
    rows = _rows(place, name)
    where = name
    if not rows.height:
        raise checks.invalid("data", source, "a table with rows", "none", "Add images.")
    paths = _paths(place, where, rows.column(where, "path", columns.path, _PATH))
    labels = rows.several(columns.label)
    if labels is not None and not isinstance(labels, str):
        found, masks = _of_columns(rows, where, labels, task), None
    else:
        named = rows.find(where, "label", labels, _LABEL)
        found, masks = _of_column(rows, where, named, task)
    parts = _parts(rows, where, columns.split)
    used = None if parts is None else given.without_test(parts)[0]
    return Listed(
        place, paths, found, masks=masks, parts=parts,
        weights=_weights(rows, where, columns.weight),
        notes=(*_repeated(paths, found, used), *_untaught(found, parts)),
    )  # fmt: skip


def _paths(place: Place, where: str, cells: Sequence[object]) -> list[str]:
    """The names of the files; those with the backslashes of Windows are read with slashes."""
    paths = []
    for at, cell in enumerate(cells):
        path = "" if cell is None else str(cell)
        if not path or "\0" in path:
            found = f"{'nothing' if not path else 'a zero byte'} in row {at + 1}"
            raise checks.invalid(where, "every path", "a file", found, "Mend it.")
        if "://" in path:
            raise checks.invalid(
                where, "every path", "of a file beside the table, or an absolute one",
                f"{path} in row {at + 1}",
                "Put the table where the images are, with paths from there, and give its URL.",
            )  # fmt: skip
        if "\\" in path and not _is_there(place, path):
            path = path.replace("\\", "/")
        paths.append(path)
    return paths


def _is_there(place: Place, name: str) -> bool:
    path = place.path(name)
    return path is not None and path.exists()


def _repeated(
    paths: Sequence[str], targets: Targets, parts: Sequence[str] | None
) -> tuple[str, ...]:
    """What a person should know of files that several rows name."""
    first: dict[str, int] = {}
    again: list[str] = []
    other: list[str] = []
    leaked: list[str] = []
    for row, path in enumerate(paths):
        before = first.setdefault(path, row)
        if before == row:
            continue
        again.append(path)
        if not np.array_equal(targets.values[before], targets.values[row]):
            other.append(path)
        if parts is not None and {parts[before], parts[row]} == {"train", "val"}:
            leaked.append(path)
    notes = []
    if again:
        notes.append(f"Rows that name a file again, and count again: {some(again)}.")
    if other:
        notes.append(f"Files with another label in another row: {some(other)}.")
    if leaked:
        notes.append(f"Files both in train and in val, which makes val too good: {some(leaked)}.")
    return tuple(notes)


def _untaught(targets: Targets, parts: Sequence[str] | None) -> tuple[str, ...]:
    """What a person should know of classes that no training image has."""
    if parts is None or targets.task not in ("classification", "multilabel"):
        return ()
    training = targets.values[np.array(parts) == "train"]
    if targets.task == "classification":
        kind, taught = "Classes", np.bincount(training, minlength=len(targets.names))
    else:
        kind, taught = "Labels", (training > 0).sum(0)
    missing = [name for name, count in zip(targets.names, taught, strict=True) if not count]
    return (f"{kind} that no training image has: {some(missing)}.",) if missing else ()


def _place(source: str) -> tuple[Place, str]:
    if "://" in source:
        folder, _, name = source.rpartition("/")
        return Remote(folder), name
    path = Path(source).expanduser()
    return Folder(path.parent), path.name


class _Rows:
    """Columns by name, as read."""

    def __init__(self, columns: dict[str, list[object]]) -> None:
        self._columns = columns
        self.height = len(next(iter(columns.values()), []))

    def find(self, where: str, role: str, asked: str | None, usual: Sequence[str]) -> str:
        """The column of a role: the one asked for, or the first of the usual names."""
        lower = {name.lower(): name for name in reversed(list(self._columns))}
        if asked is not None:
            if asked in self._columns:
                return asked
            raise checks.invalid(
                where, f"table.{role}", "a column", asked, checks.nearest(asked, self._columns)
            )
        for name in usual:
            if name in lower:
                return lower[name]
        near = checks.nearest(role, self._columns)
        raise checks.invalid(
            where, f"the column of the {role}", f"named {usual[0]}", ", ".join(self._columns),
            f"{near} Say which with --set table.{role}=NAME.",
        )  # fmt: skip

    def column(
        self, where: str, role: str, asked: str | None, usual: Sequence[str]
    ) -> list[object]:
        return self._columns[self.find(where, role, asked, usual)]

    def optional(
        self, where: str, role: str, asked: str | None, usual: Sequence[str]
    ) -> list[object] | None:
        if asked is None and not {name.lower() for name in self._columns} & set(usual):
            return None
        return self.column(where, role, asked, usual)

    def several(self, asked: str | Sequence[str] | None) -> str | Sequence[str] | None:
        """The columns that were asked for: "a,b" are two, unless a column is called that."""
        if not isinstance(asked, str) or asked in self._columns or "," not in asked:
            return asked
        return [name.strip() for name in asked.split(",")]

    def named(self, name: str) -> list[object]:
        return self._columns[name]


def _rows(place: Place, name: str) -> _Rows:
    path = place.path(name)
    if path is not None and not path.is_file():
        near = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = checks.nearest(path.name, near) if near else "Check the path."
        raise checks.MissingFile(f"data: {path} must be a table; there is none. {hint}")
    if place.size(name) > _MOST_BYTES:
        raise checks.invalid(
            "data", name, f"at most {_MOST_BYTES:,} bytes", f"{place.size(name):,}", "Split it."
        )
    content = place.read(name)
    if PurePosixPath(name).suffix.lower() == ".parquet":
        return _parquet(name, content)
    return _text(name, content)


def _text(name: str, content: bytes) -> _Rows:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise checks.invalid(
            "data", name, "UTF-8 text", f"another encoding ({error.reason} at byte {error.start})",
            "Save it as UTF-8.",
        ) from None  # fmt: skip
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise checks.invalid(
            "data", name, "a table", f"an error ({error})", "Mend its quotes."
        ) from None
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    if not lines:
        raise checks.invalid("data", name, "a table with a header", "an empty file", "Fill it.")
    header = [cell.strip() for cell in lines[0]]
    twice = next((title for title in header if title and header.count(title) > 1), None)
    if twice is not None:
        raise checks.invalid(
            name, "the columns", "of different names", f"{twice} twice", "Rename one of them."
        )
    for at, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise checks.invalid(
                name, "every row", f"of {len(header)} cells", f"{len(line)} in row {at}",
                "Quote cells that hold the separator.",
            )  # fmt: skip
    return _Rows({
        title: [line[at].strip() for line in lines[1:]] for at, title in enumerate(header)
    })  # fmt: skip


def _parquet(name: str, content: bytes) -> _Rows:
    try:
        from pyarrow import parquet
    except ImportError:
        raise checks.InvalidValue(
            f"data: reading {name} needs pyarrow, which is not installed. Install it with: "
            "pip install 'toque[sources]'"
        ) from None
    try:
        return _Rows(parquet.read_table(io.BytesIO(content)).to_pydict())
    except Exception as error:  # pyarrow meets damage with several of its own
        raise checks.invalid(
            "data", name, "a Parquet file", f"an error ({checks.first_line(error)})",
            "Write it anew.",
        ) from None  # fmt: skip


def _of_columns(rows: _Rows, where: str, names: Sequence[str], task: Task | None) -> Targets:
    columns = [rows.named(rows.find(where, "label", name, ())) for name in names]
    values = [list(row) for row in zip(*columns, strict=True)]
    yes_or_no = {str(cell) for row in values for cell in row} <= {"0", "1", "0.0", "1.0"}
    if task == "multilabel" or (task is None and yes_or_no):
        table = of_values(where, values, list(names), "regression").values
        return kinds.of(where, table, list(names), "multilabel")
    return of_values(where, values, list(names), task or "regression")


def _of_column(
    rows: _Rows, where: str, name: str, task: Task | None
) -> tuple[Targets, list[str] | None]:
    values = rows.named(name)
    said = task is None and name.lower() == "labels" and all(map(_may_be_several, values))
    several = task == "multilabel" or said
    for at, value in enumerate(values):
        if (value is None or value == "") and not several:
            raise checks.invalid(
                where, f"every {name}", "filled", f"nothing in row {at + 1}",
                "Fill it, or leave the row out.",
            )  # fmt: skip
    if task == "segmentation" or (task is None and name.lower() == "mask"):
        return kinds.of_masks(len(values)), [str(value) for value in values]
    if several:
        return of_values(where, _several(where, name, values), (), "multilabel"), None
    if task is None:
        _check_repeated(where, name, values)
    names = [name] if task == "regression" else []
    found = of_values(where, values, names, task)
    if found.task == "regression" and found.values.shape[1] == 1:
        found = Targets("regression", (name,), found.values)
    return found, None


def _may_be_several(value: object) -> bool:
    """Whether a cell can hold several labels: text, a list, or nothing; numbers are classes."""
    return value is None or isinstance(value, str | list | tuple | np.ndarray)


def _several(where: str, name: str, values: Sequence[object]) -> list[list[str]]:
    """The labels of each row: of a list, or of words separated alike; none of an empty cell."""
    texts = [value for value in values if isinstance(value, str)]
    separator = next((one for one in _SEPARATORS if any(one in text for text in texts)), None)
    words = []
    for value in values:
        if isinstance(value, list | tuple | np.ndarray):
            row = [str(one) for one in value]
        else:
            text = "" if value is None else str(value)
            row = [word.strip() for word in (text.split(separator) if separator else [text])]
        words.append([word for word in row if word])
    if not any(words):
        raise checks.invalid(
            where, name, "filled for some of the rows", "nothing in any", "Name what is there."
        )
    _check_separated(where, name, words)
    return words


def _check_separated(where: str, name: str, values: Sequence[Sequence[str]]) -> None:
    """Raise ValueError for a label whose words are labels themselves: "cat dog" where there is cat
    and dog."""
    known = {word for row in values for word in row}
    for at, row in enumerate(values):
        for word in row:
            words = [one for one in re.split(r"[|;,\s]+", word) if one]
            if len(words) > 1 and all(one in known for one in words):
                raise checks.invalid(
                    where, f"several labels in {name}", "separated alike by one of | ; ,",
                    f"{word!r} in row {at + 1}, whose words are labels by themselves",
                    f"Write {'|'.join(words)}.",
                )  # fmt: skip


def _check_repeated(where: str, name: str, values: Sequence[object]) -> None:
    """Raise ValueError for whole numbers that would make a class of nearly every image."""
    words = [str(value) for value in values]
    if not all(word.lstrip("+-").isdigit() for word in words):
        return
    different = len(set(words))
    if different > _MOST_ALONE and 2 * different > len(words):
        raise checks.invalid(
            where, f"the task of {name}", "said, where whole numbers hardly repeat",
            f"{different} different ones in {len(words)} rows",
            "Learn them as numbers with --set task=regression, or as classes with "
            "--set task=classification.",
        )  # fmt: skip


def _parts(rows: _Rows, where: str, asked: str | None) -> list[str] | None:
    values = rows.optional(where, "split", asked, _SPLIT)
    if values is None:
        return None
    parts = []
    for at, value in enumerate(values):
        part = PARTS.get(str(value).strip().lower())
        if part is None:
            raise checks.invalid(
                where, "every split", "train, val (valid, validation, dev) or test",
                f"{value!r} in row {at + 1}", checks.nearest(str(value), PARTS),
            )  # fmt: skip
        parts.append(part)
    return parts if len(set(parts)) > 1 else None  # of one alone, who validates is not said


def _weights(rows: _Rows, where: str, asked: str | None) -> np.ndarray | None:
    values = rows.optional(where, "weight", asked, _WEIGHT)
    if values is None:
        return None
    weights = of_values(where, values, (), "regression").values[:, 0]
    if (weights < 0).any():
        at = int(np.flatnonzero(weights < 0)[0])
        raise checks.invalid(
            where, "every weight", ">= 0", f"{weights[at]:g} in row {at + 1}", "0 leaves it out."
        )
    return weights
