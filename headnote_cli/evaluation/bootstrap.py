"""Bootstrap confidence intervals (Efron 1979; Koehn 2004 for corpus scores and pairs of systems).

Decisions are resampled, not rows: scores of one decision's headnotes in three languages are correlated.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from headnote_cli.evaluation.metrics import Sums

REPLICATES = 1000
SEED = 2025
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % bootstrap interval; None if there is nothing to score."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Table:
    """One score: per group, the groups' unweighted mean (macro), and over all rows (weighted)."""

    groups: dict[str, Interval]
    macro: Interval
    weighted: Interval


class Draws:
    """How often each decision is drawn in each replicate; the same for every score and file."""

    def __init__(self, decisions: Sequence[Hashable], replicates: int = REPLICATES, seed: int = SEED) -> None:
        """`decisions` names the decision of each row."""
        places = {decision: place for place, decision in enumerate(dict.fromkeys(decisions))}
        self.count = len(places)
        self.of_row = np.array([places[decision] for decision in decisions], dtype=np.int64)
        generator = np.random.default_rng(seed)
        drawn = generator.multinomial(self.count, np.full(self.count, 1 / self.count), replicates)
        # The original sample, then the replicates: (1 + replicates, decisions).
        self.times = np.vstack([np.ones(self.count), drawn])


def samples(draws: Draws, parts: Sums, groups: Sequence[str], score_of: Callable[[Sums], Sums]) -> dict[str, Sums]:
    """Scores of the original sample, then of each replicate, (1 + replicates,): per group, `macro` and `weighted`.

    NaN where no row of a group was drawn. A group with one decision has no replicates.

    Args:
        parts: What each row adds to the score, (rows, parts).
        groups: The group of each row.
    """
    names = list(dict.fromkeys(groups))
    counted = np.hstack([parts, np.ones((len(parts), 1))])  # the last part counts rows
    by_decision = np.zeros((draws.count, len(names), counted.shape[1]))
    np.add.at(by_decision, (draws.of_row, np.array([names.index(group) for group in groups])), counted)
    sums = np.einsum("rd,dgp->rgp", draws.times, by_decision)
    scores = np.where(sums[..., -1] > 0, score_of(sums[..., :-1]), np.nan)
    decisions = np.count_nonzero(by_decision[..., -1], axis=0)
    by_group = {name: scores[: None if decisions[i] > 1 else 1, i] for i, name in enumerate(names)}
    with np.errstate(invalid="ignore"):
        counts = (~np.isnan(scores)).sum(axis=1)
        macro = np.where(counts > 0, np.nansum(scores, axis=1) / np.maximum(counts, 1), np.nan)
    return by_group | {"macro": macro, "weighted": score_of(sums[..., :-1].sum(axis=1))}


def interval(sampled: Sums) -> Interval:
    """The first value, with percentiles of the others as bounds."""
    if np.isnan(sampled[0]):
        return Interval(None, None, None)
    rest = sampled[1:][~np.isnan(sampled[1:])]
    if not len(rest):
        return Interval(float(sampled[0]), None, None)
    low, high = np.quantile(rest, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(sampled[0]), float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """Second minus first, on the same draws. `chance` is a two-sided p-value: twice the share of draws whose difference
    is zero or has the other sign, at most 1."""

    value: float
    low: float
    high: float
    chance: float

    @property
    def real(self) -> bool:
        """Whether the difference is significant at the 95 % level."""
        return self.low > 0 or self.high < 0


def difference(first: Sums, second: Sums) -> Difference | None:
    """The difference of two samples from the same draws; None if one has no score."""
    apart = second - first
    if np.isnan(apart[0]):
        return None
    bounds = interval(apart)
    rest = apart[1:][~np.isnan(apart[1:])]
    other = (rest <= 0).mean() if apart[0] > 0 else (rest >= 0).mean()
    assert bounds.low is not None
    assert bounds.high is not None
    return Difference(float(apart[0]), bounds.low, bounds.high, float(min(1.0, 2 * other)))
