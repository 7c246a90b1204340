"""Page marks: where the official collection turns a page, in the middle of sentences and citations.

bger.ch writes `BGE 96 II 433 S. 435` there, in all languages; a decision that is cited looks the same. A decision's own
marks count its pages one by one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARK = re.compile(r"BGE (?P<volume>\d{1,3}) (?P<number>(?:I[ab]?|II|III|IV|V) \d{1,4}) S\. (?P<page>\d{1,4})(?!\d)")
FIRST_VOLUME = 1874  # volume 1 is of 1875


def page_marks(text: str) -> list[re.Match[str]]:
    """The marks of the decision's own pages: of one number, each a page further than the one before."""
    marks: dict[str, list[re.Match[str]]] = {}
    for mark in _MARK.finditer(text):
        own = marks.setdefault(f"{mark['volume']} {mark['number']}", [])
        first = int(mark["number"].split()[1]) + 1
        expected = int(own[-1]["page"]) + 1 if own else None
        page = int(mark["page"])
        if page == expected or (expected is None and first <= page <= first + 2):
            own.append(mark)
    return max(marks.values(), key=len, default=[])


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
    return FIRST_VOLUME + int(marks[0]["volume"]) if marks else None
