"""What every command that reads rows reports about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headnote_cli.config.layers import Config
from headnote_cli.data.encoding import Encoder
from headnote_cli.data.prompts import PromptTemplates
from headnote_cli.data.sources import Rows, available_splits, leaks
from headnote_cli.runs.files import read_json, write_json

LEAKS_VERSION = "2"  # raise it whenever the same rows would give another answer


def encoder_for(config: Config, templates: PromptTemplates, tokenizer: Any) -> Encoder:
    """The encoder that a config describes; training and preview take it, generation the one of the model's record."""
    settings = config.settings
    return Encoder(tokenizer, templates, settings.max_length, settings.overflow, settings.overflow_field)


def lengths_lines(rows: Rows, summary: Mapping[str, Any], cached: bool = False) -> list[str]:
    """Rows, their lengths, how much was removed: of the split and, where there are several, of each language pair."""
    again = " (taken from the cache)" if cached else ""
    lines = [f"{rows.split}: {_lengths(summary, f'rows from {rows.source}')}{again}"]
    pairs = summary["pairs"]
    return lines + [f"  {pair}: {_lengths(part, 'rows')}" for pair, part in pairs.items() if len(pairs) > 1]


def _lengths(summary: Mapping[str, Any], rows: str) -> str:
    prompt, completion = summary["prompt_tokens"], summary["completion_tokens"]
    lengths = ""
    if prompt and completion:
        lengths = (
            f"; prompt tokens median {prompt['median']:,}, p90 {prompt['p90']:,}, max {prompt['max']:,}; "
            f"headnote median {completion['median']:,}, p90 {completion['p90']:,}, max {completion['max']:,}"
        )
    cut = (
        f"; {summary['rows_cut']} rows cut by {summary['tokens_cut']:,} tokens" if summary["rows_cut"] else "; none cut"
    )
    dropped = (
        f"; {summary['rows_dropped']} dropped with {summary['tokens_dropped']:,} tokens"
        if summary["rows_dropped"]
        else ""
    )
    bad = f"; {summary['rows_bad']} skipped for their faults" if summary["rows_bad"] else ""
    return f"{summary['rows']} {rows}{lengths}{cut}{dropped}{bad}"


def leak_warnings(config: Config) -> list[str]:
    """One line for each two splits that share decisions; the answer is kept by content."""
    from headnote_cli.data.preparation import cached_json

    splits = available_splits(config)
    field = config.settings.overflow_field
    kept = cached_json("leaks", LEAKS_VERSION, field, *(f"{role} {rows.identity()}" for role, rows in splits.items()))
    known = read_json(kept)
    if known is None:
        found = [f"{leak}: evaluation would see what training saw" for leak in leaks(splits, field)]
        known = {"leaks": found}
        write_json(kept, known)
    return list(known["leaks"])
