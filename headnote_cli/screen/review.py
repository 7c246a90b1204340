"""`slds review`: what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from headnote_cli.errors import counted
from headnote_cli.screen.console import facts_table, size

if TYPE_CHECKING:
    from headnote_cli.review.command import ReviewReport


def review_view(report: ReviewReport) -> RenderableType:
    """The page that was written, and what is on it."""
    rows = {
        "output": f"{report.output} ({size(report.bytes)})",
        "headnotes": f"{report.rows:,} of {counted(report.decisions, 'decision')}",
        "to look at first": f"{report.unsupported:,} with unsupported citations, {report.unfinished:,} unfinished",
    }
    return facts_table(rows)
