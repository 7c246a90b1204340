"""Headnotes that repeat themselves, as small models do until the token limit."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+|[^\w\s]")
LONGEST = 60  # words and signs of a phrase
# A phrase counts as a loop if it follows itself so often, and if all of it has so many words. No official headnote of
# 1954-2026 comes near it (`tests/unit/generation/test_loops.py`).
TIMES, WORDS = 3, 18
# The same for a phrase whose numbers differ: `in den Jahren 1991, 1992, 1993 …`
TIMES_COUNTED, WORDS_COUNTED = 12, 36


def ends_in_a_loop(text: str) -> bool:
    """Whether the last words of a text are one phrase again and again."""
    words = _WORD.findall(text[-LONGEST * TIMES_COUNTED * 12 :].lower())
    if _repeats(words, TIMES, WORDS):
        return True
    return _repeats(["0" if word.isdecimal() else word for word in words], TIMES_COUNTED, WORDS_COUNTED)


def _repeats(words: Sequence[str], times: int, least: int) -> bool:
    end = len(words)
    for size in range(1, min(LONGEST, end // times) + 1):
        count = max(times, -(-least // size))
        if count * size <= end and words[end - count * size : end - size] == words[end - (count - 1) * size : end]:
            return True
    return False
