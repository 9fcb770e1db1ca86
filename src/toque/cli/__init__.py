"""The command line: verbs only. Each verb is a file; torch is imported when one runs.

A user's mistake ends in one sentence and exit code 2; a bug keeps its traceback.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from toque import checks
from toque.cli import (
    check,
    describe,
    evaluate,
    export,
    graph,
    models,
    new,
    pack,
    plan,
    predict,
    preview,
    profile,
    replay,
    report,
    serve,
    train,
    tune_lr,
    verify,
)
from toque.cli.encoding import holds_every_letter

_ALSO = {
    "Before": ("new", "check", "preview", "pack", "tune-lr", "plan"),
    "After": ("report", "replay", "profile"),
    "Parts": ("describe", "models", "verify", "graph"),
}
"""Verbs that the first help page only names: it must fit a screen."""


class _Verbs(TyperGroup):
    """Explains the verbs of the main job, and names the others by when they are of use."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        named = {verb for verbs in _ALSO.values() for verb in verbs}
        rows = [
            (verb, command.get_short_help_str(66))
            for verb, command in self.commands.items()
            if verb not in named
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        with formatter.section("More, each with its --help"):
            formatter.write_dl([(when, ", ".join(verbs)) for when, verbs in _ALSO.items()])


class _Verb(TyperCommand):
    """Says of a setting that was given as an option how settings are given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = {name for param in self.params for name in param.opts}
        if "--set" in options:
            for number, word in enumerate(args[: args.index("--")] if "--" in args else args):
                name, equals, value = word.partition("=")
                if name.startswith("--") and name not in options | {"--help"}:
                    following = [value] if equals else args[number + 1 :]
                    _refuse_setting(str(self.name), name, options, following)
        return super().parse_args(ctx, args)


def _refuse_setting(verb: str, option: str, known: set[str], following: list[str]) -> None:
    """Raise ValueError where an option is meant for a setting; else it is left to the parser."""
    import difflib

    from toque.train.run import Run
    from toque.train.settings.refusal import meant

    setting = meant(option.removeprefix("--").replace("-", "_"), Run)
    if setting is None or difflib.get_close_matches(option, known, n=1, cutoff=0.8):
        return
    value = following[0] if following and not following[0].startswith("-") else "…"
    raise checks.InvalidValue(
        f"{verb}: {option} is not an option; settings are given by their names. "
        f"Write --set {setting}={value}"
    )


app = typer.Typer(
    name="toque",
    cls=_Verbs,
    help="From a folder of images to a trained model, in one command.",
    epilog="Try: toque train fashion    (bundled data, about two minutes on two cores)",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=_Verb)(train.train)
app.command()(evaluate.evaluate)
app.command()(predict.predict)
app.command()(export.export)
app.command()(serve.serve)
app.command()(report.report)
app.command(cls=_Verb)(profile.profile)
app.command("tune-lr", cls=_Verb)(tune_lr.tune_lr)
app.command()(new.new)
app.command(cls=_Verb)(preview.preview)
app.command()(pack.pack)
app.command()(check.check)
app.command()(replay.replay)
app.command()(plan.plan)
app.command()(describe.describe)
app.command()(models.models)
app.command()(verify.verify)
app.command()(graph.graph)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    if version:
        from toque.version import VERSION

        print(VERSION)
        raise typer.Exit


def main() -> None:
    """The entry point of the `toque` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name of a file may be no text: it is printed as the bytes that it is. A locale that
            # lacks a letter gets a question mark for it, not a traceback.
            whole = holds_every_letter(stream)
            stream.reconfigure(errors="surrogateescape" if whole else "replace")
    # Pillow's word on large images; max_pixels is the limit here.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    # Last, so that it shadows nothing: for --set model=my_file:function beside the user.
    sys.path.append(str(Path.cwd()))
    try:
        app()
    except checks.UserMistake as mistake:
        # Of several ranks only the first speaks, unless another one did not reach it.
        rank = os.environ.get("RANK", "0")
        if rank == "0" or str(mistake).startswith(f"rank {rank}:"):
            print(f"toque: {mistake}", file=sys.stderr)
        sys.exit(2)
