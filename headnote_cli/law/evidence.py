"""Where a decision says what a sentence of a headnote says: the considerations that support it best.

Each sentence is compared with each consideration, down to the second level (`E. 3.2`, `3b`): by its words, across
languages through a lexicon; by the articles and judgments that both cite, rare ones first; and by its place, as
headnotes follow their decision. `evidence.csv` weighs these signals; a conditional logit (McFadden, Conditional Logit
Analysis of Qualitative Choice Behavior, 1974) learnt the weights from the court's own pointers, and from sentences
drawn from other headnotes, which no consideration supports (`scripts/learn_evidence.py`).
"""

from __future__ import annotations

import csv
import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from headnote_cli.law.citations import Citation, Cited, above, spans
from headnote_cli.law.numbers import SURELY_FOLLOWING
from headnote_cli.law.sentences import sentence_ends
from headnote_cli.law.similarity import Index, grams, stems, translated

WEIGHTS = Path(__file__).with_name("evidence.csv")
NONE, GAIN = "none", "gain"  # the weights of there being no such consideration, and of a model's likelihood
MOST = 3  # considerations that are named for a sentence
LEAST = 0.05  # strength of a further one
SURE = 0.5  # the strength from which another consideration speaks against a pointer
UNLIKELY = 0.03  # the strength below which a pointer's own consideration does not speak for it
LONGEST_RANGE = 20  # considerations that a pointer names at once
_FEW = 2  # words that make a sentence of its own
_WORDS = re.compile(r"[^\W\d_]{3,}")
_SECOND_LEVEL = re.compile(r"(?:[IVX]+/)?\d+(?:-\d+)?(?:\.\d+|[a-z])?")

Span = tuple[int, int]  # characters, start and end
Likelihoods = Callable[[Sequence[str], str, Sequence[Span]], list[list[float]]]
Pointer = Literal["right", "wrong", "unclear", "none"]


@dataclass(frozen=True)
class Sentence:
    """A sentence of a headnote: its span of characters, and what it cites."""

    start: int
    end: int
    words: str  # without the pointers
    pointers: tuple[str, ...]  # considerations that it names
    citations: tuple[Citation, ...]  # all others


@dataclass(frozen=True)
class Evidence:
    """What supports a sentence.

    Attributes:
        start: Of the sentence, the first character in the headnote; `end`, the one behind the last.
        places: Considerations, best first, each with its strength from 0 to 1: how likely it is the right one. Empty if
            it is likelier that none is.
        points_to: The considerations that the sentence names itself.
        pointer: Whether these fit what supports it.
    """

    start: int
    end: int
    places: tuple[tuple[str, float], ...]
    points_to: tuple[str, ...]
    pointer: Pointer

    def to_json(self) -> dict[str, Any]:
        places = [{"consideration": number, "strength": round(strength, 3)} for number, strength in self.places]
        pointing = {"points_to": list(self.points_to), "pointer": self.pointer}
        return {"start": self.start, "end": self.end, "places": places, **pointing}


def sentences(headnote: str, language: str, year: int | None = None) -> list[Sentence]:
    """A headnote's sentences; what has hardly a word goes with the sentence before it."""
    cited = spans(headnote, language, year)
    bounds: list[tuple[int, int]] = []
    at = 0
    for end in [*sentence_ends(headnote, 0, len(headnote)), len(headnote)]:
        if bounds and len(_WORDS.findall(headnote, at, end)) < _FEW:
            bounds[-1] = (bounds[-1][0], end)
        elif headnote[at:end].strip():
            bounds.append((at, end))
        at = end
    read = []
    for start, end in bounds:
        own = [span for span in cited if start <= span.start < end]
        pointing = [span for span in own if any(c.kind == "consideration" for c in span.citations)]
        edges = [start, *(edge for span in pointing for edge in (span.start, span.end)), end]
        words = " ".join(headnote[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))
        said = [citation for span in own for citation in span.citations]
        names = tuple(citation.path[0][1] for citation in said if citation.kind == "consideration")
        others = tuple(citation for citation in said if citation.kind != "consideration")
        first = start + len(headnote[start:end]) - len(headnote[start:end].lstrip())
        read.append(Sentence(first, end, words, names, others))
    return read


class Passages:
    """A decision's considerations down to the second level, to be searched.

    Attributes:
        numbers: Of the considerations, in their order.
        texts: Of each.
    """

    def __init__(self, cited: Cited) -> None:
        self.cited, self.language = cited, cited.language
        self.numbers: list[str] = []
        starts: list[int] = []
        for number, start in cited.counted:
            if not self.numbers or second_level(number) != self.numbers[-1]:
                self.numbers.append(second_level(number))
                starts.append(start)
        self.texts = [cited.decision[start:end] for start, end in pairwise([*starts, len(cited.decision)])]
        words = [Counter[Hashable](stems(text)) for text in self.texts]
        self._length = [math.log(passage.total() + 1) for passage in words]
        self._words = Index(words)
        self._grams = Index([Counter[Hashable](grams(text)) for text in self.texts])
        citing = [Counter[Hashable]() for _ in self.texts]
        for span in cited.spans:
            place = bisect_right(starts, span.start) - 1
            if place >= 0:
                citing[place].update(key for citation in span.citations for key in _keys(citation))
        self._citations = Index(citing)

    def signals(self, some: Sequence[Sentence], language: str) -> Iterator[list[dict[str, float]]]:
        """What speaks for each consideration, for each sentence of a headnote."""
        behind = [0.0] * len(self.numbers)  # the scores of the sentences before it that carry no pointer
        for order, sentence in enumerate(some):
            wanted = dict[Hashable, float](translated(sentence.words, language, self.language))
            by_words = self._words.scores(wanted)
            cites = {key for citation in sentence.citations for key in _keys(self.cited.named(citation))}
            columns = {
                "words": _of_the_best(by_words),
                "amount": by_words,
                "share of words": self._words.cover(wanted),
                "share of letters": self._grams.cover(grams(sentence.words)),
                "citations": _of_the_best(self._citations.scores(cites)),
                "sentence before": _of_the_best(behind),
                "place": [-abs(_along(at, self.numbers) - _along(order, some)) for at in range(len(self.numbers))],
                "late": [_along(at, self.numbers) for at in range(len(self.numbers))],
                "length": self._length,
            }
            yield [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            behind = (
                [0.0] * len(behind) if sentence.pointers else [a + b for a, b in zip(behind, by_words, strict=True)]
            )

    def strengths(
        self, some: Sequence[Sentence], language: str, gains: Sequence[Sequence[float]] | None = None
    ) -> Iterator[list[float]]:
        """How likely each consideration is the right one, for each sentence of a headnote; what misses to 1 is how
        likely none is.

        Args:
            gains: How much likelier a model finds each sentence behind each consideration, a token.
        """
        weights = read_weights()["same" if language == self.language else "across"]
        for place, passages in enumerate(self.signals(some, language)):
            scores = [sum(weights[name] * value for name, value in signals.items()) for signals in passages]
            if gains is not None:
                scores = [a + weights[GAIN] * b for a, b in zip(scores, _over_the_mean(gains[place]), strict=True)]
            highest = max([*scores, weights[NONE]])
            shares = [math.exp(score - highest) for score in (*scores, weights[NONE])]
            total = sum(shares)
            yield [share / total for share in shares[:-1]]

    def pointer(self, sentence: Sentence, strengths: Sequence[float]) -> Pointer:
        """Whether a sentence's pointers fit: they are wrong where another consideration is likely the right one, and
        what they name is not, nor what is right above or below it."""
        if not sentence.pointers:
            return "none"
        own_parts = (Citation("consideration", (("E.", pointer),)) for pointer in sentence.pointers)
        if all(self.cited.status(part) == "missing" for part in own_parts):
            return "wrong"
        own = [
            strength
            for number, strength in zip(self.numbers, strengths, strict=True)
            if any(is_near(number, pointer) for pointer in sentence.pointers)
        ]
        others = max(strengths, default=0.0)
        if own and (max(own) == others or max(own) >= SURE):
            return "right"
        return "wrong" if others >= SURE and max(own, default=0.0) < UNLIKELY else "unclear"


@lru_cache(maxsize=1)  # one decision, several headnotes
def passages_of(cited: Cited) -> Passages:
    """A decision's passages, read once for all that is asked of it in a row."""
    return Passages(cited)


def evidence(headnote: str, language: str, cited: Cited, likelihoods: Likelihoods | None = None) -> list[Evidence]:
    """The evidence for each sentence of a headnote.

    Args:
        cited: What its decision cites, and its considerations.
        likelihoods: A model's gains, given passages, the headnote and the spans of its sentences.
    """
    passages = passages_of(cited)
    some = sentences(headnote, language, passages.cited.year)
    spans_ = [(sentence.start, sentence.end) for sentence in some]
    gains = likelihoods(passages.texts, headnote, spans_) if likelihoods and some and passages.texts else None
    found = []
    for sentence, strengths in zip(some, passages.strengths(some, language, gains), strict=True):
        places = supporting(strengths, passages.numbers)
        pointer = passages.pointer(sentence, strengths)
        found.append(Evidence(sentence.start, sentence.end, places, sentence.pointers, pointer))
    return found


def supporting(strengths: Sequence[float], numbers: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """The considerations that support a sentence best; none if it is likelier that none does."""
    first, *others = sorted(zip(numbers, strengths, strict=True), key=lambda place: -place[1])[:MOST] or [("", 0.0)]
    if first[1] < 1 - sum(strengths):
        return ()
    return (first, *(other for other in others if other[1] >= LEAST))


def second_level(number: str) -> str:
    """`3.2` of `3.2.1`, `3b` of `3b/aa`, `II/3` of `II/3`."""
    match = _SECOND_LEVEL.match(number)
    return match[0] if match else number


def named_by(pointer: str) -> list[str]:
    """What a pointer names: both ends of `3.2-3.4` with what lies between, of `3 ff.` also 4 and 5."""
    range_, _, following = pointer.partition(" ")
    first, _, last = range_.partition("-")
    (head, _, of_first), (other, _, of_last) = first.rpartition("."), (last or first).rpartition(".")
    if head != other or not (of_first.isdecimal() and of_last.isdecimal()):
        return list(dict.fromkeys([first, last or first]))
    end = min(int(of_last) + SURELY_FOLLOWING.get(following, 0), int(of_first) + LONGEST_RANGE)
    return [f"{head}.{number}" if head else str(number) for number in range(int(of_first), end + 1)]


def is_near(number: str, pointer: str) -> bool:
    """Whether a consideration is one that a pointer names, the one above it, or one right below it; down to the second
    level."""
    return any(_are_near(one, other) for one in named_by(number) for other in named_by(pointer))


def _are_near(number: str, name: str) -> bool:
    one, other = second_level(number), second_level(name)
    if ("/" in one) != ("/" in other):  # `II/3` is cited as 3 where the parts go on counting
        one, other = one.rpartition("/")[2], other.rpartition("/")[2]
    return one == other or above(one) == other or above(other) == one


def _keys(citation: Citation) -> Iterator[Hashable]:
    """What two citations must share to count as alike: the article, and its first part."""
    if citation.kind == "article":
        yield citation.path[:1], citation.act
        if len(citation.path) > 1:
            yield citation.path[:2], citation.act
    elif citation.kind != "consideration":
        yield citation.kind, citation.path[0]


def _over_the_mean(gains: Sequence[float]) -> list[float]:
    mean = sum(gains) / len(gains) if gains else 0.0
    return [gain - mean for gain in gains]


def _along(place: int, some: Sequence[object]) -> float:
    """Where in a row something stands, from 0 to 1."""
    return place / (len(some) - 1) if len(some) > 1 else 0.5


def _of_the_best(scores: Sequence[float]) -> list[float]:
    best = max(scores, default=0.0) or 1.0
    return [score / best for score in scores]


@cache
def read_weights() -> dict[str, dict[str, float]]:
    """The weights of the signals, within a language and across languages."""
    with WEIGHTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {case: {row["signal"]: float(row[case]) for row in rows} for case in ("same", "across")}
