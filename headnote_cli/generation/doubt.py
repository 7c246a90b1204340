"""How sure a model was of what it wrote: of the words, and of each.

A probability says how expected a word was, not whether it is right: a model can be sure and wrong. Comparable only
between headnotes of one model and one prompt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

DOUBTFUL = 0.1  # probability below which a word is named
_WORD = re.compile(r"\w[\w'’-]*")


@dataclass(frozen=True)
class Doubt:
    """
    Attributes:
        mean: Log-probability of a token, natural, on average; 0 is certain.
        words: Start and end of the words with a token less probable than `DOUBTFUL`, and that probability.
    """

    mean: float
    words: tuple[tuple[int, int, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        words = [{"start": start, "end": end, "p": p} for start, end, p in self.words]
        return {"mean_log_probability": self.mean, "words": words}


def doubt_of(
    tokens: Sequence[int], log_probabilities: Sequence[float], text: str, text_of: Callable[[list[int]], str]
) -> Doubt | None:
    """The doubt of a headnote; None if nothing was written.

    Args:
        tokens: What was written.
        text: The same as text, without blanks around it.
        text_of: Tokens as text.
    """
    if not tokens:
        return None
    whole = text_of(list(tokens))
    before = len(whole) - len(whole.lstrip())
    ends = [len(text_of(list(tokens[: count + 1]))) - before for count in range(len(tokens))]
    words = []
    for word in _WORD.finditer(text):
        inside = [
            log_probability
            for start, end, log_probability in zip([0, *ends], ends, log_probabilities, strict=False)
            if start < word.end() and end > word.start()
        ]
        p = math.exp(min(inside, default=0.0))
        if p < DOUBTFUL:
            words.append((word.start(), word.end(), round(p, 4)))
    return Doubt(round(sum(log_probabilities) / len(log_probabilities), 4), tuple(words))
