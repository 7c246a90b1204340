"""A decision's structure: where its law begins, and its considerations."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from headnote_cli.law.headings import (
    DOUBLE_LETTER,
    LAW,
    LETTER,
    NUMBER,
    NUMBER_HERE,
    PART_TITLE,
    PART_WORDS,
    ROMAN,
    ROMANS,
    is_cited,
)
from headnote_cli.law.plain import plain

# Of a run of headings: how many others may stand between two; what a number left out costs, in headings; what it costs
# not to begin with the first.
LOOK_BACK, GAP_COST, LATE_START = 60, 0.2, 1.0
NEAR = 40  # characters from a heading to its first number
LONGEST_RANGE = 8  # considerations under one number: `1.-3.-`
_NAME = re.compile(
    r"(?:(?P<part>[IVX]+)/)?(?P<digits>\d+(?:-\d+|(?:\.\d+)*))(?P<letter>[a-z]?)(?:/(?P<letters>[a-z]{2}))?"
)

Count = tuple[int, ...]


@dataclass(frozen=True)
class Consideration:
    """A consideration down to the next number: its span of characters in the decision.

    Attributes:
        number: `2.1`, `3b/aa`, `II/1`, `1-3`; empty for what stands before the first number.
    """

    number: str
    start: int
    end: int

    @property
    def names(self) -> list[str]:
        """By what it and those that it lies in are cited: `3`, `3b` and `3b/aa` for `3b/aa`."""
        name = _NAME.fullmatch(self.number)
        if name is None:
            return [self.number] if self.number else []
        first, _, last = name["digits"].partition("-")
        levels = first.split(".")
        names = [".".join(levels[: depth + 1]) for depth in range(len(levels))]
        if last:
            names = [str(whole) for whole in range(int(first), int(last) + 1)]
        if name["letter"]:
            names.append(names[-1] + name["letter"])
        if name["letters"]:
            names.append(f"{names[-1]}/{name['letters']}")
        return names + ([f"{name['part']}/{inner}" for inner in names] if name["part"] else [])


@dataclass(frozen=True)
class Structure:
    """A decision's parts.

    Attributes:
        law: Where the considerations begin; None if the decision does not say.
        considerations: In order and without gaps, down to the end.
    """

    law: int | None
    considerations: tuple[Consideration, ...]


@dataclass(frozen=True)
class _Heading:
    number: str
    start: int
    end: int  # where its text begins


@lru_cache(maxsize=8)  # a row is cut in several tries, and a decision has headnotes in three languages
def structure(text: str) -> Structure:
    """Where a decision's law begins, and its considerations.

    A number counts as a heading only in the run that counts best as a court counts (2, 2.1, 2.2, 3 …), so that a
    paragraph's or a date's number is not taken for one. Excerpts may leave some out.
    """
    law = _law(text)
    headings = _headings(text, law or 0)
    bounds = [heading.start for heading in headings] + [len(text)]
    parts = [
        Consideration(heading.number, start, end)
        for heading, (start, end) in zip(headings, pairwise(bounds), strict=True)
    ]
    if law is not None and text[law : bounds[0]].strip():
        parts.insert(0, Consideration("", law, bounds[0]))
    return Structure(law, tuple(parts))


def law_heading(text: str) -> int | None:
    """Where the heading of a decision's considerations begins, in the text as it is; None if there is none."""
    read = plain(text)
    law = structure(read.text).law
    headings = LAW.finditer(read.text)
    start = next((m.start() for m in headings if _behind_all_headings(read.text, m.end()) == law), None)
    return None if start is None else read.place(start, start + 1)[0]


def _law(text: str) -> int | None:
    """Where the considerations begin: behind their headings, of which several may follow each other."""
    grounds = []
    for match in LAW.finditer(text):
        if match["sure"]:
            return _behind_all_headings(text, match.end())
        grounds.append(match.end())
    return max(grounds, key=lambda place: (len(_headings(text, place)), place), default=None)


def _behind_all_headings(text: str, place: int) -> int:
    while (following := LAW.search(text, place, place + 2 * NEAR)) and following.start() - place < NEAR:
        place = following.end()
    return place


def _headings(text: str, start: int) -> list[_Heading]:
    """The headings from a place on. Roman parts are part of a number where each part counts from 1 again."""
    parts = _run(ROMAN, text, start, len(text), lambda match: ROMANS[match["roman"]])
    bounds = [part.start() for part in parts] + [len(text)]
    counted = [_counted(text, _behind_title(text, part), end) for part, end in zip(parts, bounds[1:], strict=True)]
    numbered = [(numbers[0][0], numbers[-1][0]) for numbers in counted if numbers]
    starts_again = any(first <= last for (_, last), (first, _) in pairwise(numbered))
    if len(parts) < 2 or parts[0]["roman"] != "I" or not starts_again:
        return _lettered(text, _counted(text, start, len(text)), len(text))
    headings = _lettered(text, _counted(text, start, bounds[0]), bounds[0])
    for part, numbers, end in zip(parts, counted, bounds[1:], strict=True):
        headings.append(_Heading(part["roman"], part.start(), part.end()))
        headings += _lettered(text, numbers, end, f"{part['roman']}/")
    return headings


def _behind_title(text: str, part: re.Match[str]) -> int:
    title = PART_WORDS.match(text, part.end())
    return title.end() if title else part.end()


def _counted(text: str, start: int, stop: int) -> list[tuple[Count, Count, re.Match[str]]]:
    """The digits that head considerations: the first and last number of each, which mostly are the same."""
    candidates = []
    for match in _numbers(text, start, stop):
        if is_cited(text[max(0, match.start() - 20) : match.start()]):
            continue
        levels = (match["deep"] or match["whole"] or match["first"]).split(".")
        first = tuple(int(level) for level in levels)
        last = (int(match["last"]),) if match["last"] else first
        if last == first or 0 < last[0] - first[0] <= LONGEST_RANGE:
            candidates.append((first, last, match))
    near = bool(candidates) and candidates[0][2].start() - start < NEAR
    return [candidates[index] for index in _counting([(first, last) for first, last, _ in candidates], near)]


def _numbers(text: str, start: int, stop: int) -> list[re.Match[str]]:
    """All that looks like a consideration's number, by place."""
    matches = {match.start(): match for match in NUMBER.finditer(text, start, stop)}
    titles = [title.end() for title in PART_TITLE.finditer(text, start, stop)]
    for place in (start, *titles):
        if match := NUMBER_HERE.match(text, place, stop):
            matches.setdefault(place, match)
    return [matches[place] for place in sorted(matches)]


def _lettered(
    text: str, numbers: Sequence[tuple[Count, Count, re.Match[str]]], stop: int, part: str = ""
) -> list[_Heading]:
    """The headings with digits, and between them those with letters, `a)` and `aa)`."""
    headings = []
    spans = pairwise([*(match.start() for _, _, match in numbers), stop])
    for (first, last, match), (_, end) in zip(numbers, spans, strict=True):
        number = part + ".".join(map(str, first)) + (f"-{last[0]}" if last != first else "")
        headings.append(_Heading(number, match.start(), match.end()))
        if len(first) == 1:  # decimals have no letters
            headings += _letters(text, match.end(), end, number)
    return headings


def _letters(text: str, start: int, stop: int, number: str) -> list[_Heading]:
    letters = _letter_run(LETTER, text, start, stop)
    if not letters:
        doubles = _letter_run(DOUBLE_LETTER, text, start, stop)
        letters = doubles if len(doubles) > 1 else []
        return [_Heading(f"{number}/{match['letter']}", match.start(), match.end()) for match in letters]
    headings = []
    spans = pairwise([*(match.start() for match in letters), stop])
    for match, (_, end) in zip(letters, spans, strict=True):
        own = number + match["letter"]
        headings.append(_Heading(own, match.start(), match.end()))
        headings += [
            _Heading(f"{own}/{inner['letter']}", inner.start(), inner.end())
            for inner in _letter_run(DOUBLE_LETTER, text, match.end(), end)
        ]
    return headings


def _letter_run(pattern: re.Pattern[str], text: str, start: int, stop: int) -> list[re.Match[str]]:
    """Letters that head: right behind a number, or at least two of which the first is an `a` or `b`."""
    run = _run(pattern, text, start, stop, lambda match: ord(match["letter"][0]) - ord("a") + 1)
    heads = bool(run) and (run[0].start() - start <= 2 or (len(run) > 1 and run[0]["letter"][0] in "ab"))
    return run if heads else []


def _run(
    pattern: re.Pattern[str], text: str, start: int, stop: int, value: Callable[[re.Match[str]], int]
) -> list[re.Match[str]]:
    matches = list(pattern.finditer(text, start, stop))
    counts = [((value(match),), (value(match),)) for match in matches]
    return [matches[index] for index in _counting(counts, bool(matches) and matches[0].start() - start <= 2)]


def _counting(counts: Sequence[tuple[Count, Count]], begins: bool) -> list[int]:
    """The indices of the longest run in which each number is greater than the one before, less what it leaves out.

    Args:
        counts: The first and last number of each.
        begins: The first stands where the counting must begin, so that it may be any, and beginning later costs.
    """
    length = [-GAP_COST * _left_out((), first) for first, _ in counts]
    if begins:
        length = [0.0, *(cost - LATE_START for cost in length[1:])]
    before = [-1] * len(counts)
    for index, (first, _) in enumerate(counts):
        for other in range(max(0, index - LOOK_BACK), index):
            last = counts[other][1]
            if last < first and length[other] + 1 > length[index]:
                longer = length[other] + 1 - GAP_COST * _left_out(last, first)
                if longer > length[index]:
                    length[index], before[index] = longer, other
    index = max(range(len(counts)), key=lambda i: length[i], default=-1)
    run = []
    while index >= 0:
        run.append(index)
        index = before[index]
    return run[::-1]


def _left_out(old: Count, new: Count) -> int:
    """How many numbers are left out up to a greater one: from 2.3 none to 2.3.1, 2.4 or 3, one to 2.5 or 3.2."""
    same = next((depth for depth, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), len(old))
    first = old[same] + 1 if same < len(old) else 1
    return new[same] - first + sum(part - 1 for part in new[same + 1 :])
