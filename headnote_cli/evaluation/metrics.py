"""Scores of headnotes: what each row adds to a score, and the score of a sum of rows.

Every score is kept as sums (how many n-grams matched, of how many …), so that the score of any choice of rows is a sum
and one function. That is what the bootstrap needs, and it keeps corpus scores such as BLEU what they are: no means of
sentences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headnote_cli.errors import package
from headnote_cli.law.citations import Citation, citations, cited_by
from headnote_cli.law.language import detect_language
from headnote_cli.upstream import corpus_score, corpus_statistics

Sums = NDArray[np.float64]  # (..., parts)
ROUGE = ("rouge1", "rouge2", "rougeL")
_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"(?<=[a-zäöüéèàç\])]{2}[.;!?])\s+(?=[A-ZÄÖÜÉÈÀ])")


@dataclass(frozen=True)
class Scored:
    """A written headnote beside the official one, and all that is known of the two."""

    headnote: str
    reference: str
    decision: str
    lang: str
    decision_language: str | None
    finish_reason: str = "stop"
    year: int | None = None  # of the decision

    @cached_property
    def cited(self) -> frozenset[Citation]:
        return frozenset(citations(self.headnote, self.lang, self.year))

    @cached_property
    def cited_officially(self) -> frozenset[Citation]:
        return frozenset(citations(self.reference, self.lang, self.year))


@dataclass(frozen=True)
class Metric:
    """One score. `parts_of` gives what each row adds (rows, parts); `score_of` the score of sums (..., parts) → (...).

    Scores that count the same things share `parts_of`, which is then called once.
    """

    name: str
    parts_of: Callable[[Sequence[Scored]], Sums]
    score_of: Callable[[Sums], Sums]
    signature: str = ""


def quotient(part: int = 0, of: int = 1) -> Callable[[Sums], Sums]:
    """100 · one part / another; not a number where nothing was counted."""

    def score(sums: Sums) -> Sums:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(100.0 * sums[..., part] / sums[..., of])

    return score


def f1(sums: Sums) -> Sums:
    """Of (both, written, expected)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(200.0 * sums[..., 0] / (sums[..., 1] + sums[..., 2]))


def means(
    names: Sequence[str], values_of: Callable[[Sequence[Scored]], Iterable[Sequence[float] | None]], signature: str = ""
) -> list[Metric]:
    """Means over rows, × 100, of several values that are computed together; a row without values counts nowhere."""

    def parts(rows: Sequence[Scored]) -> Sums:
        nothing = [0.0] * (len(names) + 1)
        return np.array([nothing if values is None else [*values, 1.0] for values in values_of(rows)])

    return [Metric(name, parts, quotient(place, len(names)), signature) for place, name in enumerate(names)]


def metrics() -> list[Metric]:
    """The scores that need no model.

    Raises:
        UsageError: `rouge-score` or `sacrebleu` is not installed.
    """
    return [*rouge(), *rouge(words=True), *corpus_scores(), *citation_scores(), *share_scores()]


class _Words:
    """Words of any script, in lower case, for `rouge-score`."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def rouge(words: bool = False) -> list[Metric]:
    """ROUGE-1, -2 and -L: mean F1 over rows, by Google's `rouge-score` without stemming.

    Args:
        words: Whole words of any script. The published setting keeps a to z and digits alone, so that `Verfügung` is
            read as two tokens, `verf` and `gung`.
    """
    with package("rouge-score", "evaluate"):
        from rouge_score.rouge_scorer import RougeScorer
    scorer = RougeScorer(list(ROUGE), tokenizer=_Words()) if words else RougeScorer(list(ROUGE))
    tokens = "Unicode words" if words else "ASCII tokens, as published"

    def values(rows: Sequence[Scored]) -> Iterable[Sequence[float]]:
        for row in rows:
            scores = scorer.score(row.reference, row.headnote)
            yield [scores[name].fmeasure for name in ROUGE]

    names = [f"{name}_words" if words else name for name in ROUGE]
    return means(names, values, f"rouge-score, F1, no stemmer, {tokens}")


def corpus_scores() -> list[Metric]:
    """BLEU and chrF of all rows together, by `sacrebleu`."""
    with package("sacrebleu", "evaluate"):
        from sacrebleu.metrics import BLEU, CHRF

    return [_corpus_metric("bleu", BLEU()), _corpus_metric("chrf", CHRF())]


def _corpus_metric(name: str, metric: Any) -> Metric:
    def parts(rows: Sequence[Scored]) -> Sums:
        statistics = corpus_statistics(metric, [row.headnote for row in rows], [row.reference for row in rows])
        return np.array(statistics, dtype=np.float64)

    def score(sums: Sums) -> Sums:
        flat = sums.reshape(-1, sums.shape[-1]).astype(int).tolist()
        scores = [corpus_score(metric, statistics) for statistics in flat]
        return np.array(scores).reshape(sums.shape[:-1])

    metric.corpus_score(["a"], [["a"]])  # only then does it know its signature
    return Metric(name, parts, score, str(metric.get_signature()))


def citation_scores() -> list[Metric]:
    """Citations written against those of the official headnote, and against the decision.

    Those of the decision: precision is how many of the citations written stand in it. A decision cites far more than a
    headnote should, so its recall is small by nature.
    """

    def official(rows: Sequence[Scored]) -> Sums:
        counts = [(len(row.cited & row.cited_officially), len(row.cited), len(row.cited_officially)) for row in rows]
        return np.array(counts, dtype=np.float64)

    def decision(rows: Sequence[Scored]) -> Sums:
        counts = []
        for row in rows:
            cited = cited_by(row.decision, row.decision_language, row.year)
            supported = sum(cited.status(citation) != "missing" for citation in row.cited)
            counts.append((supported, len(row.cited), len(cited.citations)))
        return np.array(counts, dtype=np.float64)

    scores: dict[str, Callable[[Sums], Sums]] = {"precision": quotient(0, 1), "recall": quotient(0, 2), "f1": f1}
    return [
        Metric(f"citations_{part}{of}", source, score)
        for of, source in (("", official), ("_in_decision", decision))
        for part, score in scores.items()
    ]


def share_scores() -> list[Metric]:
    """Shares and ratios, in per cent: right language, unfinished, length against the official headnote."""

    def states(rows: Sequence[Scored]) -> Iterable[Sequence[float]]:
        return (
            (float(detect_language(row.headnote) == row.lang), float(row.finish_reason == "length")) for row in rows
        )

    def words(rows: Sequence[Scored]) -> Sums:
        counts = [(len(_WORD.findall(row.headnote)), len(_WORD.findall(row.reference))) for row in rows]
        return np.array(counts, dtype=np.float64)

    return [*means(("right_language", "unfinished"), states), Metric("length_ratio", words, quotient())]


def lead(decision: str, sentences: int = 3) -> str:
    """The first sentences of a decision: what a headnote must beat."""
    return " ".join(_SENTENCE.split(" ".join(decision.split()), maxsplit=sentences)[:sentences])
