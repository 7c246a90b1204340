"""`slds preview-prompts`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from headnote_cli.cli.session import ConfigOption, SetOption, SkipBadOption, with_screen
from headnote_cli.screen.console import Screen


@with_screen(Which_rows="count row sample_id split longest only_cut", What_to_show="stats raw tokenizer")
def preview_prompts(
    screen: Screen,
    config: ConfigOption = None,
    count: Annotated[int, typer.Option("-n", min=0, help="How many rows.")] = 3,
    row: Annotated[int | None, typer.Option(min=1, help="This row alone, counted from 1.")] = None,
    sample_id: Annotated[str | None, typer.Option(metavar="ID", help="The row with this `sample_id` alone.")] = None,
    split: Annotated[str, typer.Option(metavar="SPLIT", help="train, eval, test, or a split's own name.")] = "train",
    longest: Annotated[bool, typer.Option("--longest", help="The longest rows first.")] = False,
    only_cut: Annotated[bool, typer.Option("--only-cut", help="Only rows that do not fit `max_length`.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Count tokens and cuts over the whole split.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="The exact text and nothing else, for piping; a NUL between rows.")
    ] = False,
    tokenizer: Annotated[bool, typer.Option(help="Encode as training will; without, show the messages only.")] = True,
    skip_bad_rows: SkipBadOption = False,
    set_: SetOption = None,
) -> None:
    """Show rows exactly as the model will see them."""
    from headnote_cli.config.layers import load_config
    from headnote_cli.screen.preview import preview_raw, preview_view
    from headnote_cli.training.preview import Selection, preview

    loaded = load_config(config, set_ or [])
    by_default = config is None and "SLDS_CONFIG" not in os.environ and not set_
    selection = Selection(count, row, sample_id, longest, only_cut)
    value = preview(loaded, selection, split, stats, tokenizer, by_default, skip_bad_rows)
    screen.note(*loaded.notes, *value.notes)
    screen.note(*value.warnings, warning=True)
    if value.tokenizer_missing and tokenizer:
        screen.note(f"messages only, no token counts: {value.tokenizer_missing}", warning=True)
    if raw:
        screen.exact(preview_raw(value))
    else:
        screen.show(preview_view(value))
    screen.data(value.to_json())
