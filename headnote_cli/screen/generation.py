"""`slds generate`: a headnote's citations, and the result of a run over many rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from headnote_cli.screen.console import duration, facts_table

if TYPE_CHECKING:
    from headnote_cli.generation.headnotes import GeneratedHeadnote
    from headnote_cli.generation.many import ManyReport

FOUND, PARTLY, MISSING = "green", "yellow", "bold red"


def headnote_view(headnote: GeneratedHeadnote) -> RenderableType:
    """The checks of a headnote, shown below it."""
    rows: dict[str, str | Text] = {
        "citations in the decision": Text(", ".join(headnote.found) or "none", FOUND if headnote.found else ""),
        "in part": Text(", ".join(headnote.partly) or "none", PARTLY if headnote.partly else ""),
        "not in the decision": Text(", ".join(headnote.unsupported) or "none", MISSING if headnote.unsupported else ""),
        "language": Text(
            f"{headnote.detected or 'unknown'} (asked: {headnote.lang})",
            PARTLY if headnote.detected != headnote.lang else "",
        ),
        "evidence by sentence": _evidence_of(headnote),
        "tokens": f"{headnote.prompt_tokens:,} read, {headnote.completion_tokens:,} written",
        "time": duration(headnote.seconds or 0.0),
    }
    return facts_table(rows)


def _evidence_of(headnote: GeneratedHeadnote) -> Text:
    """For each sentence the consideration that supports it best, and whether its own pointer seems wrong."""
    shown = []
    for one in headnote.evidence:
        best = f"E. {one.places[0][0]}" if one.places else "none found"
        shown.append(f"{best} (not {', '.join(one.points_to)})" if one.pointer == "wrong" else best)
    doubtful = any(one.pointer == "wrong" or not one.places for one in headnote.evidence)
    return Text("; ".join(shown) or "none found", PARTLY if doubtful else "")


def many_view(report: ManyReport) -> RenderableType:
    """The result of a run over many rows."""
    rows = {
        "output": str(report.output),
        "headnotes": f"{report.headnotes:,}" + (f", {report.before:,} of them from before" if report.before else ""),
        "unfinished": _some(report.unfinished, "the token limit cut them off: raise --max-new-tokens"),
        "repeating themselves": _some(report.loops, "stopped early"),
        "in another language": _some(report.other_language, "not in the one asked for"),
        "of a cut decision": _some(report.cut, "longer than `max_length`"),
        "failed": _some(report.failed, "the same command tries them again"),
        "time": duration(report.seconds),
    }
    return facts_table(rows)


def _some(count: int, more: str) -> str:
    return f"{count:,}; {more}" if count else "none"
