"""A decision's structure: its numbered considerations, and where its sentences end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Words before a full stop that do not end a sentence, in the three languages.
ABBREVIATIONS = frozenset(
    "art abs al cpv lit let bst ziff ch n nr no e consid c cons bge atf dtf bzw vgl cf cfr z b d h u a p pp s ss ff f "
    "segg sog resp etc dr prof fr chf usw ca seg par para rz cit op a.a.o recte".split()
)
# Of these, the ones that a number follows in a citation.
CITING = frozenset("art abs al cpv ziff ch nr consid e vgl cf cfr".split())
LOOK_BACK, GAP_COST = 60, 0.8  # candidates between two headings; a number left out, in links of the chain
# What heads the considerations: the official collection in all languages, then single judgments.
_LAW = re.compile(
    r"(?:Aus den Erwägungen|Erwägungen|Extrait des considérants|Considérant en droit|Considérants|Dai considerandi|"
    r"Considerandi|Considerando in diritto|Diritto)\s*:?\s+(?=\d)"
)
_NUMBER = re.compile(r"(\d{1,2}(?:\.\d{1,2}){0,4})\.?\s+(?=\S)")
# After a sentence, a line, or a page mark of the official collection (BGE 147 I 89 S. 94).
_PLACE = r"(?<=[.!?:»)\"\]]\s)|(?<=\n)|(?<= S\. \d )|(?<= S\. \d\d )|(?<= S\. \d\d\d )"
_AFTER_SENTENCE = re.compile(rf"(?:{_PLACE}){_NUMBER.pattern}")
_SENTENCE_END = re.compile(r"([\w.)»\]]*)[.!?][»\")\]]*(?=\s)|(?=\n)")


@dataclass(frozen=True)
class Consideration:
    """A numbered consideration down to the next number: its span of characters in the decision."""

    number: str
    start: int
    end: int


def considerations(text: str) -> list[Consideration]:
    """The numbered considerations of a decision, in order; none where it does not show its structure.

    A number counts as a heading only in the chain that counts best as a court counts (2, 2.1, 2.2, 3 …), so that a
    paragraph's or a date's number is not taken for one. Excerpts may leave some out.
    """
    law = _LAW.search(text)
    first = _NUMBER.match(text, law.end()) if law else None
    if first is None:
        return []
    candidates = [(_parts(first[1]), first.start())]
    for match in _AFTER_SENTENCE.finditer(text, first.end()):
        word = text[: match.start()].rstrip()[-20:].split()[-1:]
        if not word or word[0].lstrip("(«").lower().rstrip(".") not in CITING:
            candidates.append((_parts(match[1]), match.start()))
    chain = [candidates[index] for index in _best_chain([number for number, _ in candidates])]
    ends = [start for _, start in chain[1:]] + [len(text)]
    numbered = [".".join(map(str, number)) for number, _ in chain]
    return [Consideration(n, start, end) for n, (_, start), end in zip(numbered, chain, ends, strict=True)]


def _parts(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in number.split("."))


def _best_chain(numbers: list[tuple[int, ...]]) -> list[int]:
    """Indices of the longest chain from the first number on, each number left out costing most of a link."""
    best: list[float] = [0.0]
    before = [-1]
    for index in range(1, len(numbers)):
        best.append(float("-inf"))
        before.append(-1)
        for other in range(max(0, index - LOOK_BACK), index):
            gap = _gap(numbers[other], numbers[index])
            if gap is not None and best[other] + 1 - GAP_COST * gap > best[index]:
                best[index], before[index] = best[other] + 1 - GAP_COST * gap, other
    index = max(range(len(best)), key=lambda i: best[i])
    chain = []
    while index >= 0:
        chain.append(index)
        index = before[index]
    return chain[::-1]


def _gap(old: tuple[int, ...], new: tuple[int, ...]) -> int | None:
    """How many numbers are left out from one to the next (2 → 2.1: 0, 2.1 → 2.4: 2), None if it cannot be next."""
    if len(new) > len(old) + 1:
        return None
    if len(new) == len(old) + 1:
        left_out = new[-1] - 1 if new[:-1] == old else -1
    else:
        left_out = new[-1] - old[len(new) - 1] - 1 if new[:-1] == old[: len(new) - 1] else -1
    return left_out if 0 <= left_out <= 4 else None


def sentence_ends(text: str, start: int, stop: int) -> Iterator[int]:
    """Positions in `[start, stop]` just after a sentence or at a line's end; legal abbreviations end none."""
    for match in _SENTENCE_END.finditer(text, max(0, start), min(len(text), stop + 1)):
        word = (match[1] or "").lstrip("(«").lower()
        if match.end() <= stop and not (word in ABBREVIATIONS or word.isdigit() or (len(word) == 1 and word.isalpha())):
            yield match.end()
