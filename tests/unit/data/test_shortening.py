"""Where a decision is cut: the facts first, then inside considerations, never inside a word."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headnote_cli.data.shortening import CUT_MARK, Offsets, inserted_marks, shorten
from headnote_cli.law.document import Consideration, structure
from headnote_cli.law.sentences import sentence_ends
from tests.conftest import examples, real_rows, sample_rows


def considerations(text: str) -> list[Consideration]:
    """The numbered considerations of a decision that says where they begin."""
    read = structure(text)
    return [part for part in read.considerations if part.number and read.law is not None]


DECISIONS = [row["decision"] for row in sample_rows("train")[::3]]


def words(text: str) -> Offsets:
    """Each word a token."""
    return [match.span() for match in re.finditer(r"\S+\s*", text)]


def test_sentences_do_not_end_after_legal_abbreviations() -> None:
    text = "Nach Art. 41 Abs. 1 OR (vgl. E. 2.3) haftet A. für den Schaden. Die Vorinstanz irrt. Es bleibt dabei"
    assert [text[:end].split()[-1] for end in sentence_ends(text, 0, len(text))] == ["Schaden.", "irrt."]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (
            "Sachverhalt A. Im Jahr. 3. Mai. Erwägungen 2. Streitig ist. 2.1 Nach Art. 5. 2.2 Also. 3. Kosten.",
            ["2", "2.1", "2.2", "3"],
        ),
        ("Erwägungen 1.1 Erstens. 1.2 Zweitens. 1.4 Viertens. 3.2 Nein. 2. Doch.", ["1.1", "1.2", "1.4", "2"]),
        ("Fatti A. Diritto: 1. Primo. 1.1 Poi. 1.1.1 Ancora. 2. Fine.", ["1", "1.1", "1.1.1", "2"]),
        ("Faits A. Considérant en droit 4.1 Selon. 4.2 Donc.", ["4.1", "4.2"]),
        ("Erwägungen 2. Am Ende. 15. Mai war es. 2.1 Dann.", ["2", "2.1"]),
        ("Ein Brief ohne Aufbau. 1. Punkt. 2. Punkt.", []),
    ],
)
def test_considerations_are_numbered_as_a_court_counts(text: str, numbers: list[str]) -> None:
    assert [part.number for part in considerations(text)] == numbers


def test_every_sample_and_real_decision_shows_its_considerations() -> None:
    for text in DECISIONS:
        assert len(considerations(text)) > 1
    for row in real_rows("test"):
        assert len(considerations(row["decision"])) > 1


@pytest.mark.parametrize("text", DECISIONS)
def test_the_facts_go_before_any_consideration(text: str) -> None:
    parts = considerations(text)
    law = len(words(text[parts[0].start :]))
    shorter = shorten(text, words(text), law + 6, "structure")
    assert shorter.startswith(CUT_MARK)
    assert shorter.count(CUT_MARK) == 1
    assert shorter.removeprefix(CUT_MARK).strip() == text[parts[0].start :].strip()


@pytest.mark.parametrize("text", DECISIONS)
def test_every_consideration_keeps_its_number_while_there_is_room(text: str) -> None:
    shorter = shorten(text, words(text), len(words(text)) // 2, "structure")
    for part in considerations(text):
        opening = " ".join(text[part.start : part.end].split()[:3])
        assert opening in " ".join(shorter.split())


@pytest.mark.parametrize("cut", ["structure", "middle", "end"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_what_is_kept_is_the_decisions_own_text_in_its_order(cut: str, share: float) -> None:
    for text in DECISIONS:
        tokens = words(text)
        budget = int(len(tokens) * share)
        shorter = shorten(text, tokens, budget, cut)  # type: ignore[arg-type]
        assert len(shorter.split()) <= budget
        position = 0
        for piece in shorter.split(CUT_MARK):
            position = text.index(piece.strip(), position) + len(piece.strip())
        kept = [word for word in shorter.split() if word != CUT_MARK]
        assert set(kept) <= set(text.split()), "no word is broken"


def test_inserted_marks_are_told_from_the_courts_own() -> None:
    text = f"Eins {CUT_MARK} zwei. Drei vier. Fünf {CUT_MARK} sechs."
    shorter = f"Eins {CUT_MARK} zwei. {CUT_MARK} Fünf {CUT_MARK} sechs."
    assert inserted_marks(text, shorter) == [shorter.index(CUT_MARK, 10)]
    assert inserted_marks("a b c", f"a {CUT_MARK}") == [2]


def test_a_text_without_structure_is_cut_in_the_middle() -> None:
    text = "Ein langer Brief. " * 50
    assert shorten(text, words(text), 40, "structure") == shorten(text, words(text), 40, "middle")


@settings(max_examples=examples(500))
@given(
    parts=st.lists(
        st.sampled_from(["Erwägungen ", "1. ", "1.1 ", "2. ", "Satz. ", "Art. 5 OR ", "\n", "wort ", "ü. "]),
        max_size=60,
    ),
    budget=st.integers(0, 80),
    cut=st.sampled_from(["structure", "middle", "end"]),
)
def test_any_text_and_budget_gives_text_with_a_mark(parts: list[str], budget: int, cut: str) -> None:
    text = "".join(parts)
    tokens = words(text)
    if len(tokens) > budget:
        assert CUT_MARK in shorten(text, tokens, budget, cut)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["." * 40_000, "1.1.1." * 7_000, "a" * 40_000, "\n" * 40_000])
def test_sentences_of_any_text_are_found_in_linear_time(text: str) -> None:
    started = time.monotonic()
    list(sentence_ends(text, 0, len(text)))
    assert time.monotonic() - started < 2
