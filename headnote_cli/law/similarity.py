"""How alike two passages are in their words, also across German, French and Italian.

A word counts by its first letters, which stand for all its forms. Across languages it is translated by
`lexicon.csv.gz`, which `scripts/learn_evidence.py` learnt from the court's headnotes in three languages (IBM Model 1:
Brown et al., The Mathematics of Statistical Machine Translation, 1993).
"""

from __future__ import annotations

import csv
import gzip
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path

LEXICON = Path(__file__).with_name("lexicon.csv.gz")
_STEM = 6  # letters
_GRAM = 5
_WORD = re.compile(r"[^\W\d_]{3,}|\d[\d'’.]*\d|\d")
_K1, _B = 1.2, 0.75  # of BM25: how fast a word's repetition counts less, and how much a passage's length


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """`Haftung` and `haften` are `haftun` and `haften`; accents go, as old texts leave them out in capitals."""
    return _letters(word)[:_STEM]


def stems(text: str) -> list[str]:
    """A text's words of three letters or more, and its numbers."""
    return [stem(word) for word in _WORD.findall(text)]


def grams(text: str) -> Counter[str]:
    """Groups of five letters within the words: what words share that are written together or in two languages."""
    words = (f"_{_letters(word)}" for word in _WORD.findall(text) if len(word) > 3)
    return Counter(word[at : at + _GRAM] for word in words for at in range(max(1, len(word) - _GRAM + 1)))


def translated(text: str, language: str, into: str) -> dict[str, float]:
    """A text's words in another language, each with the probability that it stands there; unknown ones as they are."""
    words = dict.fromkeys(stems(text), 1.0)
    if language == into:
        return words
    lexicon, found = _lexicon().get((language, into), {}), defaultdict[str, float](float)
    for word in words:
        for other, share in (lexicon.get(word) or {word: 1.0}).items():
            found[other] = 1 - (1 - found[other]) * (1 - share)
    return dict(found)


class Index:
    """Passages by what they hold, for the BM25 of Robertson and Zaragoza (The Probabilistic Relevance Framework, 2009).

    Attributes:
        rarity: Of everything that they hold: high for what few of them have.
    """

    def __init__(self, passages: Sequence[Mapping[Hashable, int]]) -> None:
        lengths = [sum(passage.values()) for passage in passages]
        mean = max(1.0, sum(lengths) / max(1, len(lengths)))
        self._slow = [_K1 * (1 - _B + _B * length / mean) for length in lengths]
        self._holds: dict[Hashable, list[tuple[int, int]]] = {}
        for place, passage in enumerate(passages):
            for item, count in passage.items():
                self._holds.setdefault(item, []).append((place, count))
        count = len(passages)
        self.rarity = {
            item: math.log(1 + (count - len(held) + 0.5) / (len(held) + 0.5)) for item, held in self._holds.items()
        }

    def scores(self, wanted: Mapping[Hashable, float] | Iterable[Hashable]) -> list[float]:
        """How well each passage answers: the BM25 of what is wanted, by weight."""
        scores = [0.0] * len(self._slow)
        for item, weight in _weighted(wanted):
            for place, count in self._holds.get(item, ()):
                scores[place] += weight * self.rarity[item] * count * (_K1 + 1) / (count + self._slow[place])
        return scores

    def cover(self, wanted: Mapping[Hashable, float] | Iterable[Hashable]) -> list[float]:
        """What share of the wanted each passage has, from 0 to 1."""
        shares, total = [0.0] * len(self._slow), 0.0
        for item, weight in _weighted(wanted):
            total += weight
            for place, _ in self._holds.get(item, ()):
                shares[place] += weight
        return [share / total for share in shares] if total else shares


def _weighted(wanted: Mapping[Hashable, float] | Iterable[Hashable]) -> Iterable[tuple[Hashable, float]]:
    return wanted.items() if isinstance(wanted, Mapping) else ((item, 1.0) for item in wanted)


def _letters(word: str) -> str:
    decomposed = unicodedata.normalize("NFD", word.casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


@cache
def _lexicon() -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """Translations by language pair and stem, each with its probability."""
    lexicon: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    with gzip.open(LEXICON, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            words = lexicon.setdefault((row["from"], row["into"]), {})
            words.setdefault(row["stem"], {})[row["translation"]] = float(row["share"])
    return lexicon
