"""`slds review`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headnote_cli.cli.session import ConfigOption, SetOption, with_screen
from headnote_cli.screen.console import Screen


@with_screen(Headnotes="predictions split references marks", Output="output blind force")
def review(
    screen: Screen,
    predictions: Annotated[
        list[Path], typer.Option(metavar="FILE", help="What `slds generate --output` wrote; repeat it to compare.")
    ],
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
    blind: Annotated[
        int | None, typer.Option(metavar="SEED", help="Hide the files' names, and draw their order with this seed.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing page.")] = False,
    set_: SetOption = None,
) -> None:
    """Write a page to read and mark headnotes beside their decisions, offline."""
    from headnote_cli.config.layers import load_config
    from headnote_cli.review.command import ReviewOptions
    from headnote_cli.review.command import review as run
    from headnote_cli.screen.review import review_view

    options = ReviewOptions(split=split, references=references, force=force, marks=marks or [], blind=blind)
    report = run(load_config(config, set_ or []), predictions, output, options)
    screen.note(*report.notes)
    screen.show(review_view(report))
    screen.data(report.to_json())
