"""A look at a .pt2 archive before PyTorch opens it: only what toque itself writes is let through.

torch.export.load unpickles whatever an archive declares to be a pickle, parses its size expressions
with sympy (which evaluates them) and looks up any function of torch by name. So the archive is read
as plain zip and JSON first, and refused unless every part is of the few kinds that an exported
image classifier needs. What is left is data: tensors as raw bytes, and a graph of ATen operations.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from toque import checks

DETAILS = "toque.json"

_ENTRIES = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|extra/toque\.json|models/model\.json"
    r"|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)"
    r"|data/sample_inputs/model\.pt"
)
_OPERATIONS = re.compile(
    r"torch\.ops\.aten\.\w+\.\w+|torch\.sym_(max|min|not|float|ite)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|getitem|eq|ne|lt|le|gt|ge|and_|or_)"
)
_NUMBERS = frozenset(
    [
        "Symbol",
        "Integer",
        "Rational",
        "Min",
        "Max",
        "Add",
        "Mul",
        "Pow",
        "Mod",
        "PythonMod",
        "FloorDiv",
        "CleanDiv",
        "IntTrueDiv",
        "ToFloat",
        "TruncToInt",
        "CeilToInt",
        "FloorToInt",
        "Eq",
        "Ne",
        "Ge",
        "Gt",
        "Le",
        "Lt",
        "Or",
        "And",
        "Not",
        "Piecewise",
        "positive",
        "integer",
        "nonnegative",
        "True",
        "False",
        "true",
        "false",
    ]
)
_TOKEN = re.compile(r"\s+|'[a-z]+\d+'|[A-Za-z_]\w*|\d+|[(),=\-+*/<>]")
_MAX_JSON_BYTES = 256 * 2**20


def check_archive(file: Path) -> None:
    """Raise ValueError unless the archive holds nothing but data; say what else it holds."""
    try:
        with zipfile.ZipFile(file) as archive:
            for problem in _problems(archive):
                raise _refused(file, problem)
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise checks.invalid(
            "load", str(file), "a whole .pt2 archive", f"an error ({error})",
            "Export it again with: toque export RUN --to pt2.",
        ) from None  # fmt: skip


def read_details_text(file: Path) -> str | None:
    """The details stored in an archive, or None."""
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name.endswith(f"/extra/{DETAILS}"):
                return archive.read(name).decode()
    return None


def _refused(file: Path, problem: str) -> checks.InvalidValue:
    return checks.invalid(
        "load", str(file), "an archive of tensors and ATen operations alone", problem,
        "Do not load files that you did not make; ask for ONNX or safetensors instead.",
    )  # fmt: skip


def _problems(archive: zipfile.ZipFile) -> Iterator[str]:
    for entry in archive.infolist():
        name = entry.filename.partition("/")[2]
        if not _ENTRIES.fullmatch(name):
            yield f"an entry {entry.filename}"
        if name.endswith(".json"):
            if entry.file_size > _MAX_JSON_BYTES:
                yield f"{entry.file_size} bytes of JSON in {entry.filename}"
            yield from _json_problems(json.loads(archive.read(entry)))
        if name == "data/sample_inputs/model.pt":
            try:
                torch.load(io.BytesIO(archive.read(entry)), weights_only=True)
            except Exception as error:
                yield f"example inputs that are no tensors ({type(error).__name__})"


def _json_problems(tree: Any) -> Iterator[str]:
    if isinstance(tree, list):
        for item in tree:
            yield from _json_problems(item)
    elif isinstance(tree, dict):
        if tree.get("use_pickle"):
            yield "a pickle"
        if tree.get("guards_code"):
            yield "code of guards"
        for key, value in tree.items():
            if key == "target" and isinstance(value, str) and not _OPERATIONS.fullmatch(value):
                yield f"the operation {value[:80]}"
            elif key == "expr_str" and not _is_number(str(value)):
                yield f"the size {str(value)[:80]}"
            else:
                yield from _json_problems(value)


def _is_number(expression: str) -> bool:
    place = 0
    while place < len(expression):
        token = _TOKEN.match(expression, place)
        if token is None:
            return False
        word = token.group()
        if (word[0].isalpha() or word[0] == "_") and word not in _NUMBERS:
            return False
        place = token.end()
    return True
