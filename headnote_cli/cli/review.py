"""`slds review`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headnote_cli.cli.session import ConfigOption, SetOption, with_screen
from headnote_cli.errors import UsageError
from headnote_cli.screen.console import Screen


@with_screen(Headnotes="predictions split references marks", Output="output force")
def review(
    screen: Screen,
    predictions: Annotated[list[Path], typer.Option(metavar="FILE", help="What `slds generate --output` wrote.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page to write, such as review.html.")],
    config: ConfigOption = None,
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="Where decisions and references are: train, eval, test …")
    ] = "test",
    references: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file of rows that has them instead (JSONL, parquet …).")
    ] = None,
    marks: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Marks that were exported from the page; repeat it for several reviewers."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing page.")] = False,
    set_: SetOption = None,
) -> None:
    """Write a page to read and mark headnotes beside their decisions, offline."""
    from headnote_cli.config.layers import load_config
    from headnote_cli.review.command import review as run
    from headnote_cli.screen.review import review_view

    if len(predictions) > 1:
        raise UsageError("--predictions takes one file: a page shows one", hint="write a page for each")
    report = run(load_config(config, set_ or []), predictions[0], output, split, references, force, marks or [])
    screen.note(*report.notes)
    screen.show(review_view(report))
    screen.data(report.to_json())
