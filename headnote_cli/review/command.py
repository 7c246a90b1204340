"""`slds review`: predictions beside their decisions and references, as one page for a person to read and mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headnote_cli.config.layers import Config
from headnote_cli.data.sources import located_rows
from headnote_cli.errors import DataError, UsageError
from headnote_cli.generation.predictions import Joined, join, read_predictions
from headnote_cli.review.marks import Agreement, agreement, read_marks
from headnote_cli.review.page import build
from headnote_cli.runs.files import sha256, write_text


@dataclass(frozen=True)
class ReviewReport:
    """What the page holds."""

    output: Path
    rows: int
    decisions: int
    unsupported: int  # headnotes with a citation that the decision does not contain
    unfinished: int
    bytes: int
    left_out: dict[str, int]
    notes: list[str]
    reviewers: list[str]
    agreement: Agreement | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"output": str(self.output)}


def review(
    config: Config, predictions: Path, output: Path, split: str = "test", references: Path | None = None,
    force: bool = False, marks: Sequence[Path] = (),
) -> ReviewReport:  # fmt: skip
    """Write the page for a file of predictions.

    Args:
        split: Where the decisions and reference headnotes are, in the config's data.
        references: A file of rows that has them instead.
        force: An existing output may be replaced.
        marks: What reviewers exported from a page of these predictions.

    Raises:
        UsageError: The output exists, or is one of the files to read.
        DataError: A file cannot be used, or no prediction finds its row.
    """
    _require_free(output, force, predictions, references, *marks)
    reviewers = [read_marks(path, predictions) for path in marks]
    written = read_predictions(predictions)
    source = str(references) if references is not None else f"split {split} of {config.settings.dataset_name}"
    joined = join(written, (row for _, row in located_rows(config, split, references)))
    if not joined.pairs:
        raise DataError(f"no headnote finds its row in {source}", str(predictions), _hint(joined))
    field = config.settings.overflow_field
    html, counts = build(joined.pairs, field, predictions.name, sha256(predictions), reviewers)
    write_text(output, html)
    left_out = {name: len(getattr(joined, name)) for name in ("missing", "extra", "duplicates", "failed")}
    size = output.stat().st_size
    return ReviewReport(
        output, **counts, bytes=size, left_out=left_out, notes=joined.notes(),
        reviewers=[reviewer.name for reviewer in reviewers], agreement=agreement(reviewers),
    )  # fmt: skip


def _require_free(output: Path, force: bool, *read_from: Path | None) -> None:
    read = [file.resolve() for file in read_from if file is not None]
    if output.is_dir() or output.resolve() in read:
        raise UsageError("cannot be the page", str(output), "name a file of its own with --output, such as review.html")
    if output.exists() and not force:
        raise UsageError("exists already", str(output), "choose another --output, or --force to replace it")


def _hint(joined: Joined) -> str:
    """Some names from both sides, to show why none are equal."""
    here = ", ".join(f"{line['sample_id']} ({line['lang']})" for line in joined.missing[:3]) or "none with a headnote"
    there = ", ".join(f"{row.get('sample_id')} ({row.get('headnote_language')})" for row in joined.extra[:3])
    return f"predictions: {here}; rows: {there or 'none'}; another --split or --references?"
