"""`slds review`: predictions beside their decisions and references, as one page for a person to read and mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from headnote_cli.config.layers import Config
from headnote_cli.data.sources import located_rows
from headnote_cli.errors import DataError, UsageError
from headnote_cli.generation.predictions import Joined, join, read_predictions
from headnote_cli.review.marks import Agreement, agreement, digest_of, read_marks
from headnote_cli.review.page import build
from headnote_cli.runs.files import write_text


@dataclass(frozen=True, kw_only=True)
class ReviewOptions:
    """The command-line options.

    Attributes:
        split: Where the decisions and reference headnotes are, in the config's data.
        references: A file of rows that has them instead.
        force: An existing output may be replaced.
        marks: What reviewers exported from a page of these predictions.
        blind: Hide the names of the files, and draw their order for each row with this seed.
    """

    split: str = "test"
    references: Path | None = None
    force: bool = False
    marks: Sequence[Path] = ()
    blind: int | None = None


@dataclass(frozen=True)
class ReviewReport:
    """What the page holds."""

    output: Path
    rows: int
    decisions: int
    unsupported: int  # headnotes with a citation that neither the decision nor the official headnote contains
    unfinished: int
    bytes: int
    left_out: dict[str, int]
    notes: list[str]
    reviewers: list[str]
    agreement: Agreement | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"output": str(self.output)}


def review(config: Config, predictions: Sequence[Path], output: Path, options: ReviewOptions) -> ReviewReport:
    """Write the page for a file of predictions, or for several to compare.

    Raises:
        UsageError: The output exists, or is one of the files to read.
        DataError: A file cannot be used, or no prediction finds its row.
    """
    _require_free(output, options.force, *predictions, options.references, *options.marks)
    _require_apart(predictions)
    names, digest = [path.name for path in predictions], digest_of(predictions)
    reviewers = [read_marks(path, names, digest) for path in options.marks]
    references, split = options.references, options.split
    source = str(references) if references is not None else f"split {split} of {config.settings.dataset_name}"
    rows = [row for _, row in located_rows(config, split, references)]
    files = {path: join(read_predictions(path), rows) for path in predictions}
    for path, joined in files.items():
        if not joined.pairs:
            raise DataError(f"no headnote finds its row in {source}", str(path), _hint(joined))
    several = len(files) > 1
    pairs = [replace(pair, file=path.name) if several else pair for path, of in files.items() for pair in of.pairs]
    agreed = agreement(reviewers)
    field = config.settings.overflow_field
    html, counts = build(pairs, field, " · ".join(names), digest, reviewers, options.blind)
    write_text(output, html)
    faults = ("missing", "extra", "duplicates", "failed")
    left_out = {name: sum(len(getattr(joined, name)) for joined in files.values()) for name in faults}
    notes = [f"{path.name}: {note}" if several else note for path, joined in files.items() for note in joined.notes()]
    return ReviewReport(
        output, **counts, bytes=output.stat().st_size, left_out=left_out, notes=notes,
        reviewers=[reviewer.name for reviewer in reviewers], agreement=agreed,
    )  # fmt: skip


def _require_free(output: Path, force: bool, *read_from: Path | None) -> None:
    read = [file.resolve() for file in read_from if file is not None]
    if output.is_dir() or output.resolve() in read:
        raise UsageError("cannot be the page", str(output), "name a file of its own with --output, such as review.html")
    if output.exists() and not force:
        raise UsageError("exists already", str(output), "choose another --output, or --force to replace it")


def _require_apart(predictions: Sequence[Path]) -> None:
    names = [path.name for path in predictions]
    if len(set(names)) < len(names):
        raise UsageError("--predictions: two files have the same name", ", ".join(map(str, predictions)), "rename one")


def _hint(joined: Joined) -> str:
    """Some names from both sides, to show why none are equal."""
    here = ", ".join(f"{line['sample_id']} ({line['lang']})" for line in joined.missing[:3]) or "none with a headnote"
    there = ", ".join(f"{row.get('sample_id')} ({row.get('headnote_language')})" for row in joined.extra[:3])
    return f"predictions: {here}; rows: {there or 'none'}; another --split or --references?"
