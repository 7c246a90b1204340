"""A list of citations in pieces, each with its own citation: `Art. 86` and `224` of `Art. 86 und 224 StGB`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from headnote_cli.law.citations import Citation

_LABEL = re.compile(r"(?:[^\W\d]+\.|§{1,2}|[Aa]rt\w*)\s?$")  # `art. `, `Abs. `
_VALUE = re.compile(
    r"[\w./]*\w(?:\s?[-–]\s?[\w./]*\w)?(?:\s[a-z]{3,8}ies|\s(?:bis|ter|quater))?(?:\s?(?:ff?|ss?|segg?)\.?(?!\w))?"
)


@dataclass(frozen=True)
class Piece:
    """What stands for one citation of a list.

    Attributes:
        start: In the text of the list.
        whole: As it would stand alone: `Art. 86 StGB`.
    """

    start: int
    end: int
    whole: str
    citation: Citation


def pieces(text: str, citations: Sequence[Citation]) -> list[Piece]:
    """The pieces of a list of citations; one for all where they cannot be told apart in it.

    Args:
        citations: In the order of the text.
    """
    cut: list[Piece] = []
    places: list[int] = []  # where the values of the citation before stand
    before: Citation | None = None
    first = at = 0
    for citation in dict.fromkeys(citations):
        shared = _shared(citation, before)
        found = _find(text, at, [value for _, value in citation.path[shared:]])
        if not found:
            return [Piece(0, len(text), text, citations[0])]
        start, end = found[0], _end(text, found[-1])
        lead = cut[0].whole[:first] if cut else text[:start]
        lead += text[places[0] : places[shared]] if shared else ""
        label = _LABEL.search(text, at, start)
        begins = (label.start() if label else start) if cut else 0
        cut.append(Piece(begins, end, lead + text[start:end], citation))
        first = first if len(cut) > 1 else start
        places, before, at = places[:shared] + found, citation, end
    rest = text[at:]
    last = replace(cut[-1], end=len(text))
    return [replace(piece, whole=piece.whole + rest) for piece in (*cut[:-1], last)]


def _shared(citation: Citation, before: Citation | None) -> int:
    """How many levels a citation has from the one before it: the article of `Abs. 1 und 2`."""
    if before is None or before.act != citation.act:
        return 0
    levels = takewhile(lambda pair: pair[0] == pair[1], zip(citation.path, before.path, strict=False))
    return min(len(list(levels)), len(citation.path) - 1, len(before.path) - 1)


def _find(text: str, at: int, values: Sequence[str]) -> list[int]:
    """Where each value stands, one behind the other; nothing if one does not."""
    places = []
    for value in values:
        first = re.findall(r"\d+|[^\W\d]+|[^\w\s]", re.split(r"[- ]", value)[0])
        apart = r"\s?".join(map(re.escape, first))  # `3 bis`
        match = re.compile(rf"(?<!\w){apart}(?!\w)").search(text, at)
        if match is None:
            return []
        places.append(match.start())
        at = match.end()
    return places


def _end(text: str, start: int) -> int:
    """Where a value ends, with the rest of its range."""
    match = _VALUE.match(text, start)
    return match.end() if match else start
