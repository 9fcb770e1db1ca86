"""AOTInductor: the program compiled to machine code for the machine it is compiled on."""

from __future__ import annotations

import os
import shutil
import warnings
import zipfile
from pathlib import Path

import torch
from torch.export import ExportedProgram

from toque import checks
from toque.deploy import archive
from toque.deploy.answering import Answers, predictor_of_file, torch_answers
from toque.deploy.details import FileDetails, read_details
from toque.deploy.predictor import Predictor


def write(exported: ExportedProgram, details: FileDetails, file: Path) -> None:
    """Compile the program and write it, with its weights, as one file; this takes a minute or more.

    Raises: ValueError: no C++ compiler, or a program it cannot compile
    """
    _check_compiler()
    package = file.with_suffix(".pt2")  # PyTorch insists on the ending
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch._inductor.aoti_compile_and_package(exported, package_path=str(package))
        with zipfile.ZipFile(package, "a", zipfile.ZIP_STORED) as opened:
            root = opened.namelist()[0].partition("/")[0]
            opened.writestr(f"{root}/extra/{archive.DETAILS}", details.as_json())
        package.replace(file)
    except OSError:
        raise
    except Exception as error:  # the compiler is a large program: anything may come
        raise checks.invalid(
            "export", "the model", "one that AOTInductor compiles",
            f"{type(error).__name__}: {checks.first_line(error)}",
            "Export with --to pt2, which keeps PyTorch's operations.",
        ) from error  # fmt: skip
    finally:
        package.unlink(missing_ok=True)


def _check_compiler() -> None:
    wanted = os.environ.get("CXX")
    names = [wanted] if wanted else ["g++", "clang++", "c++"]
    if not any(shutil.which(name) for name in names):
        raise checks.invalid(
            "export", "a C++ compiler", "installed for --to aoti", f"none of {', '.join(names)}",
            "Install one (Debian: apt install g++), or export with --to pt2.",
        )  # fmt: skip


def open_file(file: Path, *, trust: bool) -> tuple[Answers, FileDetails]:
    """The program in a compiled file, and its details.

    Raises: ValueError: not trusted; a damaged file, or not one of toque's
    """
    if not trust:
        raise checks.invalid(
            "load", str(file), "trusted, since it is machine code that runs with your rights",
            "a file nobody vouched for",
            "If you made it, or trust who did: load(file, trust=True), or --trust.",
        )  # fmt: skip
    try:
        details = read_details(file, archive.read_details_text(file))
        with file.open("rb") as content, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch._inductor.aoti_load_package(content)
    except (zipfile.BadZipFile, UnicodeDecodeError, RuntimeError) as error:
        raise checks.invalid(
            "load", str(file), "a whole compiled file, made for this kind of machine",
            f"an error ({checks.first_line(error)})",
            "Export it again, here, with: toque export RUN --to aoti.",
        ) from None  # fmt: skip
    return torch_answers(program), details


def load(file: Path, *, trust: bool) -> Predictor:
    """A predictor of a compiled file, on the CPU."""
    answers, details = open_file(file, trust=trust)
    return predictor_of_file(str(file), details, answers)
