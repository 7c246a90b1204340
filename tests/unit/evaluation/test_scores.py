"""Scores against the packages called directly, and intervals against what is known of them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headnote_cli.evaluation.bootstrap import Draws, difference, interval, samples
from headnote_cli.evaluation.judge import RUBRICS, read_scores
from headnote_cli.evaluation.metrics import Metric, Scored, lead, metrics, quotient
from tests.conftest import examples, real_rows

TEXTS = (
    "Art. 8 ZGB; Beweislast für die Verfügung der Mieterin (E. 2.3).",
    "Art. 41 Abs. 1 OR und Art. 8 ZGB; Haftung des Verkäufers (E. 3).",
    "Anfechtung einer Verfügung; Frist nach Art. 100 BGG (E. 1).",
    "",
)


def scored(headnote: str, reference: str, decision: str = "", finish: str = "stop") -> Scored:
    return Scored(headnote, reference, decision, "de", "de", finish)


def value(name: str, rows: Sequence[Scored]) -> float:
    metric = next(one for one in metrics() if one.name == name)
    return float(metric.score_of(metric.parts_of(rows).sum(axis=0)))


PAIRS = [scored(one, other) for one in TEXTS for other in TEXTS[:3]]


def test_rouge_is_that_of_rouge_score() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name in ("rouge1", "rouge2", "rougeL"):
        own = [scorer.score(row.reference, row.headnote)[name].fmeasure for row in PAIRS]
        assert value(name, PAIRS) == pytest.approx(100 * sum(own) / len(own))


def test_words_of_any_script_are_kept_whole_where_the_score_says_so() -> None:
    rows = [scored("Verfügung", "Genügung")]
    assert value("rouge1", rows) > 0  # `gung` is a token of both
    assert value("rouge1_words", rows) == 0


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    import sacrebleu

    written, official = [row.headnote for row in PAIRS], [row.reference for row in PAIRS]
    assert value("bleu", PAIRS) == pytest.approx(sacrebleu.corpus_bleu(written, [official]).score)
    assert value("chrf", PAIRS) == pytest.approx(sacrebleu.corpus_chrf(written, [official]).score)


def test_scores_of_real_headnotes_are_those_of_the_packages() -> None:
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    rows = real_rows("test")
    written = [row["headnote"][::2] + row["headnote"][1::3] for row in rows]
    pairs = [
        Scored(text, row["headnote"], row["decision"], row["headnote_language"], row["decision_language"])
        for text, row in zip(written, rows, strict=True)
    ]
    official = [row["headnote"] for row in rows]
    assert value("bleu", pairs) == pytest.approx(sacrebleu.corpus_bleu(written, [official]).score)
    assert value("chrf", pairs) == pytest.approx(sacrebleu.corpus_chrf(written, [official]).score)
    scorer = RougeScorer(["rougeL"])
    own = [scorer.score(one, other)["rougeL"].fmeasure for one, other in zip(official, written, strict=True)]
    assert value("rougeL", pairs) == pytest.approx(100 * sum(own) / len(own))


def test_citations_count_against_the_official_headnote_and_the_decision() -> None:
    decision = "Nach Art. 8 ZGB und Art. 41 OR trägt die Klägerin die Beweislast."
    rows = [
        scored("Art. 8 ZGB; Art. 100 BGG.", "Art. 8 ZGB; Art. 41 OR; Art. 42 OR.", decision),
        scored("Art. 41 OR.", "Art. 41 OR.", decision),
    ]
    assert value("citations_precision", rows) == pytest.approx(100 * 2 / 3)
    assert value("citations_recall", rows) == pytest.approx(100 * 2 / 4)
    assert value("citations_f1", rows) == pytest.approx(100 * 4 / 7)
    assert value("citations_precision_in_decision", rows) == pytest.approx(100 * 2 / 3)


def test_shares_of_language_and_of_unfinished_headnotes() -> None:
    french = "Art. 8 CC; le fardeau de la preuve incombe à la partie demanderesse dans cette cause."
    rows = [scored(TEXTS[0], TEXTS[0]), scored(french, TEXTS[0], finish="length")]
    assert value("right_language", rows) == value("unfinished", rows) == 50.0
    assert value("length_ratio", [scored("eins zwei", "eins zwei drei vier")]) == 50.0


def test_lead_takes_whole_sentences_and_no_abbreviation_ends_one() -> None:
    text = "Sachverhalt.  Die A. AG klagt nach Art. 41 OR gegen B. Das Gericht hiess die Klage gut. Sie zahlte. Ende."
    first = lead(text, 2)
    assert first.startswith("Sachverhalt. Die A. AG klagt nach Art. 41 OR")
    assert len(lead(text, 3)) > len(first)
    assert lead("", 3) == ""


def mean(values: Sequence[float]) -> Metric:
    parts = np.array([[one, 1.0] for one in values])
    return Metric("mean", lambda _: parts, quotient())


def test_an_interval_of_a_mean_is_the_one_that_theory_gives() -> None:
    dice = np.random.default_rng(3)
    values = dice.normal(0.5, 0.1, 400)
    metric = mean(list(values))
    draws = Draws(range(400), replicates=4000)
    found = interval(samples(draws, metric.parts_of([]), ["a"] * 400, metric.score_of)["weighted"])
    half = 1.96 * values.std() / 20 * 100
    assert found.value == pytest.approx(100 * values.mean())
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.1)


def test_rows_of_one_decision_are_drawn_together() -> None:
    """Three copies of each row tell no more than one: the interval must not shrink."""
    values = list(np.random.default_rng(5).random(60))
    one, three = mean(values), mean(values * 3)
    alone = samples(Draws(range(60)), one.parts_of([]), ["a"] * 60, one.score_of)["weighted"]
    together = samples(Draws(list(range(60)) * 3), three.parts_of([]), ["a"] * 180, three.score_of)["weighted"]
    assert np.allclose(alone, together)


def test_macro_is_the_unweighted_mean_of_the_pairs() -> None:
    metric = mean([0.0, 0.0, 0.0, 1.0])
    found = samples(Draws(range(4)), metric.parts_of([]), ["a", "a", "a", "b"], metric.score_of)
    assert (found["macro"][0], found["weighted"][0]) == (50.0, 25.0)


def test_a_difference_is_real_only_beyond_chance() -> None:
    dice = np.random.default_rng(7)
    base = dice.random(200)
    draws, groups = Draws(range(200)), ["a"] * 200

    def sampled(values: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        metric = mean(list(values))
        return samples(draws, metric.parts_of([]), groups, metric.score_of)["macro"]

    better = difference(sampled(base), sampled(base + 0.05))
    shuffled = difference(sampled(base), sampled(base + dice.normal(0, 0.3, 200)))
    assert better is not None
    assert shuffled is not None
    assert better.real
    assert better.chance == 0
    assert not shuffled.real
    assert shuffled.chance > 0.05


@settings(max_examples=examples(200))
@given(st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from(TEXTS)), min_size=1, max_size=8))
def test_any_rows_have_scores_between_0_and_100_or_none(pairs: list[tuple[str, str]]) -> None:
    rows = [scored(*pair, decision=TEXTS[0]) for pair in pairs]
    for metric in metrics():
        score = float(metric.score_of(metric.parts_of(rows).sum(axis=0)))
        assert np.isnan(score) or metric.name == "length_ratio" or 0 <= score <= 100 + 1e-9, metric.name


def test_judgements_are_read_wherever_the_object_stands() -> None:
    scores = dict.fromkeys(RUBRICS, 3)
    written = "{" + ", ".join(f'"{name}": {{"reason": "so", "score": 3}}' for name in RUBRICS) + "}"
    assert read_scores(written) == scores
    assert read_scores(f"Here it is:\n```json\n{written}\n```") == scores
    assert read_scores(written.replace('"score": 3', '"score": 4', 1)) is None
    assert read_scores(written.replace('"clarity"', '"charity"')) is None
    assert read_scores("3 3 3 3 3") is None


@settings(max_examples=examples(2000))
@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), lambda one: st.lists(one)).map(str))
def test_any_answer_of_a_judge_is_read_or_refused(answer: str) -> None:
    assert read_scores(answer) is None
    nested = "[" * random.Random(answer).randrange(3) + answer
    assert read_scores('{"accuracy": ' + nested + "}") is None
