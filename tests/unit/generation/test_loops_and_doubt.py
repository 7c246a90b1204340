"""Headnotes that repeat themselves, words that the model found improbable, and the best of several."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator

import pytest

from headnote_cli.generation.best import best_of
from headnote_cli.generation.doubt import doubt_of
from headnote_cli.generation.loops import ends_in_a_loop
from tests.conftest import REAL, every_real_row


@pytest.mark.parametrize(
    "text",
    [
        "Der Kläger " * 9,
        "Art. 22 Abs. 2" + " Abs. 2" * 12,
        "die Haftung aus Vertrag, " * 5,
        "In den Jahren " + ", ".join(str(year) for year in range(1950, 2010)),
        "Sa " + "la lettre de la cour de la rue, " * 4,
    ],
)
def test_a_phrase_again_and_again_is_a_loop(text: str) -> None:
    assert ends_in_a_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Art. 8, Art. 9, Art. 10, Art. 11, Art. 12 und Art. 13 BV.",
        "Die Haftung des Werkeigentümers und die Haftung des Tierhalters und die Haftung des Familienhauptes.",
        "Der Kläger " * 9 + "hat recht.",
    ],
)
def test_what_ends_otherwise_is_none(text: str) -> None:
    assert not ends_in_a_loop(text)


def _headnotes() -> Iterator[str]:
    yield from (row["headnote"] for row in every_real_row())
    with gzip.open(REAL.with_name("bge_old") / "headnotes.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from (json.loads(line)["headnote"] for line in lines)


def test_no_official_headnote_is_a_loop_wherever_it_is_looked_at() -> None:
    if not REAL.with_name("bge_old").is_dir():
        pytest.skip("the real decisions are not here")
    looked_at = 0
    for headnote in _headnotes():
        for end in range(120, len(headnote) + 240, 240):
            looked_at += 1
            assert not ends_in_a_loop(headnote[:end]), headnote[:end]
    assert looked_at > 20_000


def test_doubt_names_the_words_whose_tokens_were_improbable() -> None:
    pieces = [" ", "Haft", "ung", " des", " Tier", "halters", "."]
    probabilities = [0.9, 0.9, 0.9, 0.5, 0.02, 0.9, 0.9]
    found = doubt_of(
        range(7), [math.log(p) for p in probabilities], "Haftung des Tierhalters.",
        lambda tokens: "".join(pieces[token] for token in tokens),
    )  # fmt: skip
    assert found is not None
    assert found.words == ((12, 23, 0.02),)
    assert found.mean == pytest.approx(sum(map(math.log, probabilities)) / 7, abs=1e-4)
    assert doubt_of([], [], "", lambda tokens: "") is None


def line(headnote: str, unsupported: int = 0, detected: str = "de", finish: str = "stop") -> dict[str, object]:
    return {
        "headnote": headnote,
        "citations": {"unsupported": ["Art. 1 OR"] * unsupported},
        "language": {"expected": "de", "detected": detected},
        "finish_reason": finish,
    }


def test_the_best_is_well_cited_in_the_right_language_finished_and_nearest_to_the_others() -> None:
    near = [line("Haftung des Tierhalters"), line("Haftung eines Tierhalters"), line("Etwas ganz anderes")]
    assert best_of(near) in (0, 1)
    assert best_of([line("a b", unsupported=1), line("c d")]) == 1
    assert best_of([line("a b", detected="fr"), line("c d")]) == 1
    assert best_of([line("a b", finish="loop"), line("c d")]) == 1
    assert best_of([line("a b"), line("a b")]) == 0
    assert best_of([line("a", unsupported=1), line("b", detected="fr", finish="length")]) == 1
