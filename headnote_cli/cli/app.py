"""The Typer app: its commands, in the order in which one needs them."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from headnote_cli import __version__
from headnote_cli.cli.check_memory import check_memory
from headnote_cli.cli.evaluate import evaluate
from headnote_cli.cli.generate import generate
from headnote_cli.cli.merge import merge
from headnote_cli.cli.preview import preview_prompts
from headnote_cli.cli.review import review
from headnote_cli.cli.runs import runs_app
from headnote_cli.cli.session import Commands
from headnote_cli.cli.train import train

app = typer.Typer(
    name="slds",
    cls=Commands,
    epilog="Example: slds preview-prompts -n 1",
    context_settings={"max_content_width": 100},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"slds {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Turn a chat model into a writer of headnotes for Swiss leading decisions, on one GPU."""


for function, example in (
    (preview_prompts, "slds preview-prompts --config configs/demo.yaml -n 1"),
    (check_memory, 'slds check-memory --config configs/ipst/slds/sft_liger_peft.yaml --gpu "RTX 4090"'),
    (train, "slds train --config configs/ipst/slds/sft_liger_peft.yaml"),
    (merge, "slds merge --checkpoint checkpoint-1364"),
    (generate, "slds generate --decision decision.txt --lang de"),
    (evaluate, "slds evaluate --predictions headnotes.jsonl --baseline lead"),
    (review, "slds review --predictions headnotes.jsonl --output review.html"),
):
    app.command(epilog=f"Example: {example}")(function)
app.add_typer(runs_app, name="runs")


def main() -> None:
    """The console entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows ? instead of a traceback
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # a file or a program gets every character
    app()
