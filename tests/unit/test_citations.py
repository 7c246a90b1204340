"""Citations in three languages, and whether the decision has them."""

from __future__ import annotations

import pytest

from headnote_cli.citations import citations, unsupported
from headnote_cli.language import detect_language
from tests.conftest import real_rows, sample_rows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Art. 41 Abs. 1 OR; Haftung (E. 2.1).", ["Art. 41 OR", "E. 2.1"]),
        ("Art. 41 al. 1 CO; responsabilité (consid. 2.1).", ["Art. 41 OR", "E. 2.1"]),
        ("Art. 41 cpv. 1 CO; responsabilità (consid. 4a).", ["Art. 41 OR", "E. 4a"]),
        ("Art. 8, 9 und 29 Abs. 2 BV", ["Art. 8 BV", "Art. 9 BV", "Art. 29 BV"]),
        ("Art. 5 Abs. 1 sowie Art. 8 Abs. 1 und 2 BV", ["Art. 5 BV", "Art. 8 BV"]),
        ("Art. 179quater Abs. 1 StGB", ["Art. 179quater StGB"]),
        ("art. 259d et art. 259e CO (consid. 2.2 et 3.2)", ["Art. 259d OR", "Art. 259e OR", "E. 2.2", "E. 3.2"]),
        ("vgl. BGE 899 III 30 und 4A_999/2900", ["BGE 899 III 30", "4A_999/2900"]),
        ("ATF 899 III 30 consid. 4.1", ["BGE 899 III 30"]),
        ("Der Artikel gefällt.", []),
    ],
)
def test_citations_have_one_form_in_all_languages(text: str, expected: list[str]) -> None:
    assert [citation.text for citation in citations(text)] == expected


def test_what_the_decision_does_not_contain_is_named() -> None:
    decision = "1. Streitig ist Art. 41 Abs. 1 OR. 2. Erwägung 2.1 Die Haftung …"
    headnote = "Art. 41 Abs. 2 und Art. 55 OR; Haftung (E. 2.1 und 7)."
    assert [citation.text for citation in unsupported(headnote, decision)] == ["Art. 55 OR", "E. 7"]


def test_the_sample_headnotes_cite_what_their_decisions_contain() -> None:
    rows = [row for split in ("train", "validation", "test") for row in sample_rows(split)]
    cited = sum(len(citations(row["headnote"])) for row in rows)
    missing = sum(len(unsupported(row["headnote"], row["decision"])) for row in rows)
    assert cited > 200
    assert missing / cited < 0.02


def test_official_headnotes_cite_what_their_decisions_contain() -> None:
    rows = real_rows("train")
    cited = sum(len(citations(row["headnote"])) for row in rows)
    missing = sum(len(unsupported(row["headnote"], row["decision"])) for row in rows)
    assert missing / cited < 0.08


def test_languages_are_told_apart() -> None:
    for row in sample_rows("train"):
        assert detect_language(row["headnote"]) == row["headnote_language"]
        assert detect_language(row["decision"]) == row["decision_language"]
    assert detect_language("Art. 1") is None
