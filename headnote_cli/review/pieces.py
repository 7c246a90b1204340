"""A list of citations in pieces, each with its own citation: `Art. 86` and `224` of `Art. 86 und 224 StGB`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from headnote_cli.law.citations import Citation

_LABEL = re.compile(r"(?:[^\W\d]+\.|§{1,2}|[Aa]rt\w*|Anhangs?|[Aa]nnexe|[Aa]llegato)\s?$")  # `art. `, `Abs. `
_SENTENCE = re.compile(r"(?:erste|zweite|dritte|vierte|premi|deuxi|second|troisi|quatri|prim|terz|quart)\w*")
_VALUE = re.compile(
    r"[\w./]*\w(?:\s?[-–]\s?[\w./]*\w|\s(?:bis|à|a)\s\d[\w./]*)?"
    r"(?:\s[a-z]{3,8}ies|\s(?:bis(?!\s\d)|ter|quater)(?!\w))?(?:\s?(?:ff?|ss?|segg?)\.?(?!\w))?"
    r"(?:\s(?:Satz|phrase|frase|periodo)(?!\w))?"
)
_BLANK = r"\s?"


@dataclass(frozen=True)
class Piece:
    """What stands for one citation of a list.

    Attributes:
        start: In the text of the list.
        whole: As it would stand alone: `Art. 86 StGB`.
        citations: One, or all that cannot be told apart.
    """

    start: int
    end: int
    whole: str
    citations: tuple[Citation, ...]


def pieces(text: str, citations: Sequence[Citation]) -> list[Piece]:
    """The pieces of a list of articles or of considerations; one for all where they cannot be told apart.

    Args:
        citations: In the order of the text.
    """
    together = tuple(dict.fromkeys(citations))
    all_in_one = [Piece(0, len(text), text, together)]
    if len(together) == 1 or any(citation.kind not in ("article", "consideration") for citation in together):
        return all_in_one
    cut: list[Piece] = []
    places: list[int] = []  # where the values of the citation before stand
    before: Citation | None = None
    first = at = 0
    for citation in together:
        shared = _shared(citation, before)
        found = _find(text, at, citation.path[shared:])
        if not found:
            return all_in_one
        start, end = found[0], _end(text, found[-1])
        label = _LABEL.search(text, at, start) if cut else None
        lead = text[label.start() : start] if label and not shared else cut[0].whole[:first] if cut else text[:start]
        lead += text[places[0] : places[shared]] if shared else ""
        begins = (label.start() if label else start) if cut else 0
        own = text[start:end] if citation.kind == "article" else citation.path[0][1]  # `b` of `2a, b` is 2b
        cut.append(Piece(begins, end, lead + own, (citation,)))
        first = first if len(cut) > 1 else start
        places, before, at = places[:shared] + found, citation, end
    rest = text[at:]
    cut[-1] = replace(cut[-1], end=len(text))
    return [replace(piece, whole=piece.whole + (rest if piece.citations[0].act else "")) for piece in cut]


def _shared(citation: Citation, before: Citation | None) -> int:
    """How many levels a citation has from the one before it: the article of `Abs. 1 und 2`."""
    if before is None or before.act != citation.act:
        return 0
    levels = takewhile(lambda pair: pair[0] == pair[1], zip(citation.path, before.path, strict=False))
    return min(len(list(levels)), len(citation.path) - 1, len(before.path) - 1)


def _find(text: str, at: int, levels: Sequence[tuple[str, str]]) -> list[int]:
    """Where each value stands, one behind the other; nothing if one does not. A sentence may be a word: `zweiter`."""
    places = []
    for level, value in levels:
        match = next(filter(None, (form.search(text, at) for form in _forms(value))), None)
        if match is None and level == "Satz":
            match = _SENTENCE.search(text, at)
        if match is None:
            return []
        places.append(match.start())
        at = match.end()
    return places


def _forms(value: str) -> Iterator[re.Pattern[str]]:
    """A value as it may be written: `3bis` or `3 bis`, `1er`, and of `3b` behind `3a` the letter alone."""
    parts = re.findall(r"\d+|[^\W\d]+|[^\w\s]", re.split(r"[- ]", value)[0])
    yield re.compile(rf"(?<!\w){_BLANK.join(map(re.escape, parts))}{'(?:er)?' if value == '1' else ''}(?!\w)")
    if len(parts) > 1 and len(parts[-1]) == 1 and parts[-1].isalpha():
        yield re.compile(rf"(?<!\w){parts[-1]}(?!\w)")


def _end(text: str, start: int) -> int:
    """Where a value ends, with the rest of its range."""
    match = _VALUE.match(text, start)
    return match.end() if match else start
