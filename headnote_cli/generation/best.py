"""The best of several headnotes of one decision: by its checks, then the one nearest to all others.

Agreement among samples as a choice is self-consistency (Wang et al. 2022, arXiv 2203.11171), for texts as the candidate
with the highest mean similarity to the others (minimum Bayes risk, Eikema and Aziz 2020, arXiv 2005.10283).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

_WORD = re.compile(r"\w+")


def best_of(lines: Sequence[dict[str, Any]]) -> int:
    """The place of the best among the lines of candidates: the one that cites nothing unsupported, in the right
    language, finished, and nearest to the others. Of equal ones the first."""
    words = [_WORD.findall(line["headnote"].casefold()) for line in lines]

    def rank(place: int) -> tuple[bool, bool, bool, float]:
        line = lines[place]
        others = [other for at, other in enumerate(words) if at != place]
        near = sum(SequenceMatcher(None, words[place], other, autojunk=False).ratio() for other in others)
        return (
            not line["citations"]["unsupported"],
            line["language"]["detected"] in (None, line["language"]["expected"]),
            line["finish_reason"] == "stop",
            near,
        )

    return max(range(len(lines)), key=rank)
