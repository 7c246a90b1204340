"""`slds review`: what was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from headnote_cli.errors import counted
from headnote_cli.screen.console import facts_table, printable, size

if TYPE_CHECKING:
    from headnote_cli.review.command import ReviewReport
    from headnote_cli.review.marks import Agreement


def review_view(report: ReviewReport) -> RenderableType:
    """The page that was written, and what is on it."""
    rows = {
        "open it": f"{report.output} ({size(report.bytes)})",
        "headnotes": f"{report.rows:,} of {counted(report.decisions, 'decision')}",
        "to look at first": f"{report.unsupported:,} with citations not found, {report.unfinished:,} unfinished",
    }
    if report.reviewers:
        rows["marks of"] = ", ".join(map(printable, report.reviewers))
    if len(report.reviewers) > 1:
        rows["agreement"] = _agreement(report.agreement)
    return facts_table(rows)


def _agreement(found: Agreement | None) -> str:
    if found is None:
        return "no headnote has marks of two reviewers"
    shares = [f"{found.percent:.0f} % of the marks of {counted(found.headnotes, 'headnote')}"]
    shares += [f"{name} {value:.2f}" for name, value in (("κ", found.kappa), ("α", found.alpha)) if value is not None]
    return ", ".join(shares)
