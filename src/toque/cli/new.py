"""toque new: a file of commented settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new(
    file: Annotated[Path, typer.Argument(help="The file to write, as run.toml.")],
    data: Annotated[str | None, typer.Option(help="The folder of images to put into it.")] = None,
) -> None:
    """Write a file of settings, each with its comment, to edit and train with.

    Example: toque new run.toml, then: toque train run.toml
    """
    from toque import checks
    from toque.train.run import Run

    text = "# Settings of a toque run. Train with: toque train " + file.name + "\n\n"
    text += (Run(data=data) if data else Run()).as_toml()
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise checks.invalid(
            "new", "the file", "a new one", f"{file}, which exists", "Choose another name."
        ) from None
    except OSError as error:
        raise checks.invalid(
            "new", "the file", "one that can be written", f"{file} ({error.strerror})",
            "Choose another place.",
        ) from None  # fmt: skip
    print(f"wrote {file}; edit it, then: toque train {file}")
