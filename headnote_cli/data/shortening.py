"""Shorten a decision to fewer tokens: where a lawyer would cut it, or at least at sentence ends."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal

from headnote_cli.law.document import Consideration, structure
from headnote_cli.law.sentences import sentence_ends

Cut = Literal["structure", "middle", "end"]
Offsets = Sequence[tuple[int, int]]  # start and end character of each token
CUT_MARK = "[…]"
WASTE = 0.01  # of the budget, which may stay empty
MARK_TOKENS = 4  # a mark and its spaces, with all tokenizers tested
_OWN_MARK = re.compile(rf"\s*{re.escape(CUT_MARK)}")


def shorten(text: str, offsets: Offsets, budget: int, cut: Cut) -> str:
    """`text` in about `budget` tokens, with a visible mark for each omission.

    Args:
        offsets: Start and end character of each token of `text`.
        budget: Tokens to keep, including marks.
        cut: `end` cuts off the end, `middle` cuts out the middle. `structure` omits the facts, then sentences inside
            the longest considerations; if the decision does not show where its law begins, it is cut as `middle`.

    Cuts are at sentence ends if one is near, else at spaces, never inside a word.
    """
    begin = 0
    if cut == "structure":
        read = structure(text)
        if read.law is not None:
            shorter = _by_structure(text, offsets, budget, read.considerations)
            if shorter is not None:
                return shorter
            begin = bisect_left(offsets, (read.law, read.law))  # no sentence fits; omit at least the facts
    room = max(0, budget - MARK_TOKENS * (2 if begin else 1))
    head = room if cut == "end" else (room + 1) // 2
    tail = room - head
    start = _cut_before(text, offsets[begin + head][0] if begin + head < len(offsets) else len(text))
    stop = _cut_after(text, offsets[len(offsets) - tail][0]) if tail else len(text)
    first = offsets[begin][0] if begin < len(offsets) else len(text)
    kept = (CUT_MARK if begin else "", text[first : max(first, start)].strip(), CUT_MARK, text[stop:].lstrip())
    return " ".join(part for part in kept if part)


def inserted_marks(text: str, shorter: str) -> list[int]:
    """Where `shorter` has marks for omitted parts of `text`; the court's own marks do not count."""
    places: list[int] = []
    position = start = 0
    while (mark := shorter.find(CUT_MARK, start)) >= 0:
        kept = shorter[start:mark].strip()
        position = max(text.find(kept, position), position) + len(kept)
        own = _OWN_MARK.match(text, position)
        position = own.end() if own else position
        places += [] if own else [mark]
        start = mark + len(CUT_MARK)
    return places


def _by_structure(text: str, offsets: Offsets, budget: int, parts: Sequence[Consideration]) -> str | None:
    """Omit the facts, then shorten the longest considerations to a common length; None if nothing fits."""
    starts = [start for start, _ in offsets]

    def tokens(begin: int, end: int) -> int:
        return bisect_left(starts, end) - bisect_left(starts, begin)

    pieces = [_sentences(text, part) for part in parts]
    counts = [[tokens(begin, end) for begin, end in sentences] for sentences in pieces]
    sizes = [size for sizes in counts for size in sizes]

    def kept_under(cap: int) -> list[bool]:
        return [flag for sizes in counts for flag in _keep(sizes, cap)]

    room = budget - MARK_TOKENS  # for the mark in place of the facts
    longest = max((sum(sizes) for sizes in counts), default=0)
    kept = kept_under(_largest(longest, lambda cap: _size(sizes, kept_under(cap)) <= room))
    left = _fill(sizes, kept, room - _size(sizes, kept))
    if not any(kept):
        return None
    # The rest is for the beginning of the facts: the parties and their claims.
    facts = tokens(0, parts[0].start)
    opening = _cut_before(text, offsets[min(left, len(offsets) - 1)][0]) if facts > left > 40 else 0
    if facts <= left:
        opening = parts[0].start
    spans = [span for span, flag in zip(itertools.chain(*pieces), kept, strict=True) if flag]
    if opening:
        spans.insert(0, (0, opening))
        left -= tokens(0, opening)
    return _joined(text, _longer(text, starts, spans, left) if left > WASTE * budget else spans)


def _size(sizes: Sequence[int], kept: Sequence[bool]) -> int:
    """Tokens of the kept sentences, with a mark for each gap."""
    gaps = sum(1 for flag, _ in itertools.groupby(kept) if not flag)
    return sum(itertools.compress(sizes, kept)) + MARK_TOKENS * gaps


def _fill(sizes: Sequence[int], kept: list[bool], left: int) -> int:
    """Keep more sentences while they fit, longest first, preferably beside kept ones.

    Returns:
        The tokens that are left.
    """
    for beside in (True, False):
        while True:
            fitting = []
            for index, size in enumerate(sizes):
                neighbours = sum(kept[max(0, index - 1) : index + 2])
                cost = size + MARK_TOKENS * (1 - neighbours)
                if not kept[index] and cost <= left and (neighbours or not beside):
                    fitting.append((size, index, cost))
            if not fitting:
                break
            _, index, cost = max(fitting)
            kept[index] = True
            left -= cost
    return left


def _longer(text: str, starts: Sequence[int], spans: list[tuple[int, int]], left: int) -> list[tuple[int, int]]:
    """The spans, the first that a longer sentence follows with as many of its words as there are tokens left."""
    for index, (begin, end) in enumerate(spans):
        following = spans[index + 1][0] if index + 1 < len(spans) else len(text)
        further = bisect_left(starts, end) + left
        if further < len(starts) and starts[further] < following:
            longer = (begin, max(end, text.rfind(" ", end, starts[further])))
            return [*spans[:index], longer, *spans[index + 1 :]]
    return spans


def _sentences(text: str, part: Consideration) -> list[tuple[int, int]]:
    """The spans of a consideration's sentences, without gaps; its number belongs to the first."""
    ends = [end for end in sentence_ends(text, part.start, part.end) if end < part.end]
    bounds = [part.start, *ends, part.end]
    return [(begin, end) for begin, end in itertools.pairwise(bounds) if text[begin:end].strip()]


def _keep(sizes: list[int], cap: int) -> list[bool]:
    """Which sentences of a consideration to keep within `cap` tokens: alternately from the start and the end.

    The first sentences state the rule, the last ones its consequence.
    """
    if sum(sizes) <= cap:
        return [True] * len(sizes)
    kept = [False] * len(sizes)
    left = cap - MARK_TOKENS
    low, high, front = 0, len(sizes) - 1, True
    while low <= high:
        index = low if front else high
        if sizes[index] > left:
            break
        kept[index] = True
        left -= sizes[index]
        low, high = (low + 1, high) if front else (low, high - 1)
        front = not front
    return kept


def _largest(highest: int, fits: Callable[[int], bool]) -> int:
    """The largest cap that fits, by bisection."""
    low, high = 0, highest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _joined(text: str, spans: list[tuple[int, int]]) -> str:
    """The spans in order, with one mark for each gap."""
    written: list[str] = []
    position = 0
    for begin, end in spans:
        if text[position:begin].strip():
            written.append(f" {CUT_MARK} " if written else f"{CUT_MARK} ")
            written.append(text[begin:end].lstrip())
        else:
            written.append(text[position:end])
        position = end
    if text[position:].strip():
        written.append(f" {CUT_MARK}")
    return "".join(written).strip()


def _cut_before(text: str, limit: int) -> int:
    """The last good place to cut at or before `limit`."""
    nearest = max((end for end in sentence_ends(text, limit - limit // 4, limit)), default=None)
    if nearest is not None:
        return nearest
    while 0 < limit < len(text) and not (text[limit].isspace() or text[limit - 1].isspace()):
        limit -= 1
    return limit


def _cut_after(text: str, limit: int) -> int:
    """The first good place to cut at or after `limit`."""
    nearest = min(sentence_ends(text, limit, limit + (len(text) - limit) // 4), default=None)
    if nearest is not None:
        return nearest
    while 0 < limit < len(text) and not (text[limit].isspace() or text[limit - 1].isspace()):
        limit += 1
    return limit
