"""Scores of headnotes: what each row adds to a score, and the score of a sum of rows.

Every score is kept as sums (n-grams matched, n-grams in total …), so that the score of any set of rows is one sum and
one function. The bootstrap needs this, and corpus scores such as BLEU do not become means over sentences.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headnote_cli.errors import package
from headnote_cli.law.citations import Citation, citations, cited_by
from headnote_cli.law.evidence import evidence
from headnote_cli.law.language import detect_language
from headnote_cli.upstream import corpus_score, corpus_statistics

Sums = NDArray[np.float64]  # (..., parts)
ROUGE = ("rouge1", "rouge2", "rougeL")
_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"(?<=[a-zäöüéèàç\])]{2}[.;!?])\s+(?=[A-ZÄÖÜÉÈÀ])")


@dataclass(frozen=True)
class Scored:
    """A generated headnote, the official one, and what is known about both."""

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
    """One score. `parts_of` gives what each row adds, (rows, parts); `score_of` maps sums (..., parts) to scores (...).

    Scores with the same counts share `parts_of`, which is then called once.
    """

    name: str
    parts_of: Callable[[Sequence[Scored]], Sums]
    score_of: Callable[[Sums], Sums]
    signature: str = ""


def quotient(part: int = 0, of: int = 1) -> Callable[[Sums], Sums]:
    """100 · one part / another; NaN where nothing was counted."""

    def score(sums: Sums) -> Sums:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(100.0 * sums[..., part] / sums[..., of])

    return score


def f1(sums: Sums) -> Sums:
    """F1 × 100 of the counts (both, generated, expected)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(200.0 * sums[..., 0] / (sums[..., 1] + sums[..., 2]))


def means(
    names: Sequence[str], values_of: Callable[[Sequence[Scored]], Iterable[Sequence[float] | None]], signature: str = ""
) -> list[Metric]:
    """Means over rows, × 100, of several values that are computed together. Rows without values are left out."""

    def parts(rows: Sequence[Scored]) -> Sums:
        nothing = [0.0] * (len(names) + 1)
        return np.array([nothing if values is None else [*values, 1.0] for values in values_of(rows)])

    return [Metric(name, parts, quotient(place, len(names)), signature) for place, name in enumerate(names)]


def metrics() -> list[Metric]:
    """The scores that need no model.

    Raises:
        UsageError: `rouge-score` or `sacrebleu` is not installed.
    """
    return [*rouge(), *rouge(words=True), *corpus_scores(), *citation_scores(), *evidence_scores(), *share_scores()]


class _Words:
    """Lower-case words of any script, for `rouge-score`."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


def rouge(words: bool = False) -> list[Metric]:
    """ROUGE-1, -2 and -L: mean F1 over rows, with Google's `rouge-score` without stemming.

    Args:
        words: Use whole words of any script. The published setting keeps only a to z and digits, which splits
            `Verfügung` into `verf` and `gung`.
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
    """BLEU and chrF of all rows together, with `sacrebleu`."""
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

    metric.corpus_score(["a"], [["a"]])  # the signature exists only after a first score
    return Metric(name, parts, score, str(metric.get_signature()))


def citation_scores() -> list[Metric]:
    """Citations of the generated headnote against those of the official one, and of the decision.

    For the decision, precision is the share of the headnote's citations that occur in it. Recall is low by nature: a
    decision cites far more than a headnote should.
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


def evidence_scores() -> list[Metric]:
    """The share of sentences that a consideration of the decision supports, and of right ones among the pointers that
    the sentences carry and that are clearly right or wrong."""

    def counts(rows: Sequence[Scored]) -> Sums:
        counted = []
        for row in rows:
            found = evidence(row.headnote, row.lang, cited_by(row.decision, row.decision_language, row.year))
            pointers = Counter(one.pointer for one in found)
            supported = sum(bool(one.places) for one in found)
            counted.append((supported, len(found), pointers["right"], pointers["right"] + pointers["wrong"]))
        return np.array(counted, dtype=np.float64)

    scores = {"sentences_with_evidence": quotient(0, 1), "pointers_right": quotient(2, 3)}
    return [Metric(name, counts, score) for name, score in scores.items()]


def share_scores() -> list[Metric]:
    """Shares and ratios in per cent: right language, unfinished, length relative to the official headnote."""

    def states(rows: Sequence[Scored]) -> Iterable[Sequence[float]]:
        return ((float(detect_language(row.headnote) == row.lang), float(row.finish_reason != "stop")) for row in rows)

    def words(rows: Sequence[Scored]) -> Sums:
        counts = [(len(_WORD.findall(row.headnote)), len(_WORD.findall(row.reference))) for row in rows]
        return np.array(counts, dtype=np.float64)

    return [*means(("right_language", "unfinished"), states), Metric("length_ratio", words, quotient())]


def lead(decision: str, sentences: int = 3) -> str:
    """The first sentences of a decision: a baseline for headnotes."""
    return " ".join(_SENTENCE.split(" ".join(decision.split()), maxsplit=sentences)[:sentences])
