"""Page marks: where the official collection turns a page, in the middle of sentences and citations.

bger.ch writes `BGE 96 II 433 S. 435` there, in all languages; a decision that is cited looks the same. A decision's own
marks count its pages one by one, and their volume is of its year.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARK = re.compile(r"BGE (?P<volume>\d{1,3}) (?P<number>(?:I[ab]?|II|III|IV|V) \d{1,4}) S\. (?P<page>\d{1,4})(?!\d)")
VOLUME_0 = 1874  # volume 1 is of 1875


def page_marks(text: str, year: int | None = None) -> list[re.Match[str]]:
    """The marks of the decision's own pages: of one number, each a page further than the one before.

    Args:
        year: Of the decision. Without it one mark is not enough: it may be a citation.
    """
    marks: dict[str, list[re.Match[str]]] = {}
    for mark in _MARK.finditer(text):
        own = marks.setdefault(f"{mark['volume']} {mark['number']}", [])
        first, page = int(mark["number"].split()[1]) + 1, int(mark["page"])
        if page == int(own[-1]["page"]) + 1 if own else first <= page <= first + 2:
            own.append(mark)
    if year is None:
        candidates = [own for own in marks.values() if len(own) > 1]
    else:
        candidates = [own for own in marks.values() if own and abs(_year(own[0]) - year) <= 1]
    return max(candidates, key=len, default=[])


def without(text: str, marks: Sequence[re.Match[str]]) -> str:
    """A text with blanks in the place of the marks, so that all else keeps its place."""
    parts = []
    at = 0
    for mark in marks:
        parts += [text[at : mark.start()], " " * len(mark[0])]
        at = mark.end()
    return "".join([*parts, text[at:]])


def year_of(marks: Sequence[re.Match[str]]) -> int | None:
    """The year of the volume that the marks name."""
    return _year(marks[0]) if marks else None


def _year(mark: re.Match[str]) -> int:
    return VOLUME_0 + int(mark["volume"])
