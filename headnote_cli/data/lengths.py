"""Lengths of a split's rows, and counts of what was cut or dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headnote_cli.data.encoding import Encoded
from headnote_cli.data.fields import language_pair
from headnote_cli.data.sources import Rows
from headnote_cli.errors import DataError, counted


@dataclass
class Lengths:
    """Tokens of each kept row, and counts of the others."""

    prompt: list[int] = field(default_factory=list)
    completion: list[int] = field(default_factory=list)
    rows_cut: int = 0
    rows_dropped: int = 0
    rows_bad: int = 0
    tokens_cut: int = 0
    tokens_dropped: int = 0

    def add(self, encoded: Encoded | int | DataError) -> None:
        """Count one row: an int is the size of a row that `overflow: drop` dropped, an error is a skipped row."""
        if isinstance(encoded, DataError):
            self.rows_bad += 1
        elif isinstance(encoded, int):
            self.rows_dropped += 1
            self.tokens_dropped += encoded
        else:
            self.prompt.append(len(encoded.prompt_ids))
            self.completion.append(len(encoded.completion_ids))
            self.tokens_cut += encoded.cut
            self.rows_cut += encoded.cut > 0

    def summary(self) -> dict[str, Any]:
        """Counts and quantiles, for JSON."""
        return {
            "rows": len(self.prompt) + self.rows_dropped + self.rows_bad,
            "rows_cut": self.rows_cut,
            "rows_dropped": self.rows_dropped,
            "rows_bad": self.rows_bad,
            "tokens_cut": self.tokens_cut,
            "tokens_dropped": self.tokens_dropped,
            "prompt_tokens": quantiles(self.prompt),
            "completion_tokens": quantiles(self.completion),
        }


@dataclass
class LengthReport:
    """Lengths of all rows, and by language pair."""

    all: Lengths = field(default_factory=Lengths)
    pairs: dict[str, Lengths] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any], encoded: Encoded | int | DataError) -> None:
        """Count one row, see `Lengths.add`."""
        self.all.add(encoded)
        pair = language_pair(row)
        if pair is not None:
            self.pairs.setdefault(pair, Lengths()).add(encoded)

    def summary(self) -> dict[str, Any]:
        """All rows' summary, with `pairs` and a `histogram` of sequence lengths in eight equal steps, for JSON."""
        totals = [prompt + completion for prompt, completion in zip(self.all.prompt, self.all.completion, strict=True)]
        pairs = {pair: lengths.summary() for pair, lengths in sorted(self.pairs.items())}
        return self.all.summary() | {"pairs": pairs, "histogram": histogram(totals)}


def histogram(values: Sequence[int], steps: int = 8) -> list[tuple[int, int]]:
    """Upper bound and count of each of `steps` equal steps from 0 to the largest value."""
    if not values:
        return []
    width = -(-max(values) // steps) or 1
    counts = [0] * steps
    for value in values:
        counts[max(0, value - 1) // width] += 1
    return [(width * (index + 1), count) for index, count in enumerate(counts)]


def quantiles(values: Sequence[int]) -> dict[str, int] | None:
    """Median, 90th percentile and maximum (nearest rank), None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    at = {"median": 50, "p90": 90, "max": 100}
    return {name: ordered[-(-len(ordered) * percent // 100) - 1] for name, percent in at.items()}


def lengths_lines(rows: Rows, summary: Mapping[str, Any], cached: bool = False) -> list[str]:
    """Rows, lengths and removed tokens of the split and, if there are several, of each language pair."""
    again = " (taken from the cache)" if cached else ""
    lines = [f"{rows.split}: {_lengths_line(summary, f'rows from {rows.source}')}{again}"]
    pairs = summary["pairs"]
    return lines + [f"  {pair}: {_lengths_line(part, 'rows')}" for pair, part in pairs.items() if len(pairs) > 1]


def _lengths_line(summary: Mapping[str, Any], rows: str) -> str:
    prompt, completion = summary["prompt_tokens"], summary["completion_tokens"]
    parts = [f"{summary['rows']} {rows}"]
    if prompt and completion:
        parts += [
            f"prompt tokens median {prompt['median']:,}, p90 {prompt['p90']:,}, max {prompt['max']:,}",
            f"headnote median {completion['median']:,}, p90 {completion['p90']:,}, max {completion['max']:,}",
        ]
    cut = f"{counted(summary['rows_cut'], 'row')} cut by {counted(summary['tokens_cut'], 'token')}"
    parts.append(cut if summary["rows_cut"] else "none cut")
    if summary["rows_dropped"]:
        parts.append(f"{summary['rows_dropped']} dropped with {counted(summary['tokens_dropped'], 'token')}")
    if summary["rows_bad"]:
        parts.append(f"{summary['rows_bad']} skipped for their faults")
    return "; ".join(parts)
