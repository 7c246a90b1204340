"""The Typer app: its commands in the usual order."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from headnote_cli import __version__
from headnote_cli.cli.check_memory import check_memory
from headnote_cli.cli.demo import demo
from headnote_cli.cli.evaluate import evaluate
from headnote_cli.cli.generate import generate
from headnote_cli.cli.merge import merge
from headnote_cli.cli.preview import preview_prompts
from headnote_cli.cli.review import review
from headnote_cli.cli.runs import runs_app
from headnote_cli.cli.session import Commands
from headnote_cli.cli.train import train
from headnote_cli.screen.console import Screen
from headnote_cli.screen.road import road_view

app = typer.Typer(
    name="slds",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"slds {__version__}")
        raise typer.Exit()


@app.callback(invoke_without_command=True, epilog="`slds` alone shows the order of the commands.")
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Turn a chat model into a writer of headnotes for Swiss leading decisions, on one GPU."""
    if context.invoked_subcommand is None:
        Screen().show(road_view())


COMMANDS: tuple[tuple[str, Callable[..., None], tuple[str, str]], ...] = (
    (
        "preview-prompts", preview_prompts,
        ("slds preview-prompts -n 1 --longest", "slds preview-prompts --stats -n 0 --config configs/demo.yaml"),
    ),
    (
        "check-memory", check_memory,
        ('slds check-memory --gpu "RTX 4090" --gpu 48GiB', "slds check-memory --grid --data"),
    ),
    (
        "train", train,
        ("slds train --config configs/ipst/slds/sft_liger_peft.yaml", "slds train --set max_length=4096 --dry-run"),
    ),
    ("merge", merge, ("slds merge --checkpoint checkpoint-1364", "slds merge --checkpoint best --output headnotes-4b")),
    (
        "generate", generate,
        ("slds generate --decision decision.txt --lang de", "slds generate --split test --output headnotes.jsonl"),
    ),
    (
        "evaluate", evaluate,
        (
            "slds evaluate --predictions headnotes.jsonl --baseline lead",
            "slds evaluate --predictions tuned.jsonl --predictions base.jsonl --by year",
        ),
    ),
    (
        "review", review,
        (
            "slds review --predictions headnotes.jsonl --output review.html",
            "slds review --predictions scored.jsonl --output review.html --force",
        ),
    ),
    ("demo", demo, ("slds demo", "slds demo --json")),
)  # fmt: skip


def epilog(name: str, *examples: str) -> str:
    """Examples to copy, one per line, and the command's page."""
    return "\n\n".join(["Examples:", *examples, f"Page: docs/commands/{name}.md"])


for name, function, examples in COMMANDS:
    app.command(name, epilog=epilog(name, *examples))(function)
app.add_typer(runs_app, name="runs", epilog=epilog("runs", "slds runs trainer_output", "slds runs diff A B"))


def main() -> None:
    """The console entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows ? instead of failing
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # files and programs get every character
    app()
