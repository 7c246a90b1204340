"""Evidence: the considerations that support a sentence, what they say of its pointers, and where none does."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headnote_cli.law.citations import Cited
from headnote_cli.law.evidence import Passages, evidence, is_near, named_by, second_level, sentences
from headnote_cli.law.language import LANGUAGES
from headnote_cli.law.similarity import Index, grams, stem, stems, translated
from tests.conftest import examples, real_rows, sample_rows

DECISION = (
    "Sachverhalt: A. kaufte ein Pferd. Erwägungen: 1. Die Beschwerde ist rechtzeitig eingereicht; der Streitwert von"
    " Fr. 15'000.- genügt nach Art. 74 BGG für die Beschwerde in Zivilsachen. 2. 2.1 Der Verkäufer haftet nach Art. 197"
    " OR für Mängel der Kaufsache, auch wenn er sie nicht gekannt hat. Die Gewährleistung setzt voraus, dass der Käufer"
    " die Sache prüft und Mängel rügt. 2.2 Der Käufer muss nach Art. 201 OR die Beschaffenheit der empfangenen Sache"
    " prüfen, sobald es nach dem üblichen Geschäftsgang tunlich ist, und Mängel sofort anzeigen. Versäumt er die"
    " Anzeige, so gilt die Sache als genehmigt. 3. Die Verjährung der Klage richtet sich nach Art. 210 OR; die Frist"
    " von zwei Jahren beginnt mit der Ablieferung der Sache an den Käufer. 4. Die Kosten trägt der Beschwerdeführer."
)
RIGHT = [
    ("de", "Der Verkäufer haftet nach Art. 197 OR für Mängel, die er nicht gekannt hat.", "2.1"),
    ("de", "Der Käufer muss Mängel der empfangenen Sache sofort anzeigen (Art. 201 OR).", "2.2"),
    ("fr", "La prescription de l'action est réglée par l'art. 210 CO; le délai court dès la livraison.", "3"),
    ("it", "Il compratore deve esaminare la cosa e notificare subito i difetti (art. 201 CO).", "2.2"),
]


@pytest.fixture(scope="module")
def cited() -> Cited:
    return Cited(DECISION, "de", 2020)


@pytest.mark.parametrize(("language", "sentence", "number"), RIGHT)
def test_a_sentence_is_found_where_the_decision_says_it(
    cited: Cited, language: str, sentence: str, number: str
) -> None:
    (found,) = evidence(sentence, language, cited)
    assert found.places[0][0] == number
    assert 0 < found.places[0][1] <= 1
    assert (found.points_to, found.pointer) == ((), "none")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sentence_that_the_decision_does_not_say_has_no_evidence(cited: Cited, language: str) -> None:
    text = {
        "de": "Die Bewilligung zum Bau einer Seilbahn im Naturschutzgebiet verlangt eine Prüfung der Umwelt.",
        "fr": "Le permis de construire un téléphérique dans une réserve naturelle exige une étude d'impact.",
        "it": "Il permesso di costruire una funivia in una riserva naturale esige un esame dell'impatto ambientale.",
    }
    (found,) = evidence(text[language], language, cited)
    assert found.places == ()


@pytest.mark.parametrize(
    ("pointer", "expected"), [("E. 2.1", "right"), ("E. 2", "right"), ("E. 9", "wrong"), ("E. 4", "wrong")]
)
def test_pointers_are_checked(cited: Cited, pointer: str, expected: str) -> None:
    headnote = f"Der Verkäufer haftet nach Art. 197 OR für Mängel der Kaufsache, die er nicht gekannt hat ({pointer})."
    (found,) = evidence(headnote, "de", cited)
    assert found.pointer == expected
    assert found.to_json()["points_to"] == [pointer[3:]]
    assert headnote[found.start : found.end] == headnote


def test_a_decision_without_numbers_supports_nothing() -> None:
    for decision in ("", "Ein Entscheid ohne Ziffern."):
        (found,) = evidence("Art. 1 OR gilt (E. 2).", "de", Cited(decision, "de", 2020))
        assert (found.places, found.pointer) == ((), "wrong")
    assert evidence("", "de", Cited(DECISION, "de", 2020)) == []


def test_what_has_hardly_a_word_goes_with_the_sentence_before_it() -> None:
    text = "Art. 41 OR; Haftung. Der Schaden ist zu ersetzen. (E. 2). Neues gilt."
    read = sentences(text, "de", 2020)
    assert [text[one.start : one.end] for one in read] == [
        "Art. 41 OR; Haftung.",
        "Der Schaden ist zu ersetzen. (E. 2).",
        "Neues gilt.",
    ]
    assert [one.pointers for one in read] == [(), ("2",), ()]
    assert "E. 2" not in read[1].words


def test_numbers_of_considerations() -> None:
    assert [second_level(number) for number in ("3", "3.2", "3.2.1", "3b", "3b/aa", "II/3", "1-3")] == [
        "3", "3.2", "3.2", "3b", "3b", "II/3", "1-3",
    ]  # fmt: skip
    assert [named_by(pointer) for pointer in ("3", "3 ff.", "3.2-3.4", "2-4", "3a-3c")] == [
        ["3"], ["3", "4", "5"], ["3.2", "3.3", "3.4"], ["2", "3", "4"], ["3a", "3c"],
    ]  # fmt: skip
    near = [
        ("3.2", "3"),
        ("3", "3.2"),
        ("3.3", "3.2-3.4"),
        ("3.2", "3.2.1.4"),
        ("1-2", "2"),
        ("II/3", "3"),
        ("4", "3 f."),
    ]
    assert all(is_near(number, pointer) for number, pointer in near)
    assert not any(
        is_near(number, pointer) for number, pointer in [("3.1", "3.2"), ("3", "33"), ("4", "3.2.1"), ("II/3", "I/3")]
    )


@settings(max_examples=examples(100))
@given(st.text(max_size=200), st.sampled_from(LANGUAGES))
def test_any_text_has_sentences_in_order_and_strengths_below_one(text: str, language: str) -> None:
    cited = Cited(DECISION, "de", 2020)
    found = evidence(text, language, cited)
    bounds = [bound for one in found for bound in (one.start, one.end)]
    assert bounds == sorted(bounds)
    for strengths in Passages(cited).strengths(sentences(text, language, 2020), language):
        assert all(0 <= strength <= 1 for strength in strengths)
        assert sum(strengths) <= 1 + 1e-9


def test_words_count_by_their_beginnings_and_are_translated() -> None:
    assert stem("Vertrages") == stem("Vertrag")[:6] == "vertra"
    assert stem("Élevage") == "elevag"
    assert stems("Die Haftung, Art. 41 OR") == ["die", "haftun", "art", "41"]
    assert grams("Haftung")["_haft"] == 1
    french = translated("Haftung des Verkäufers", "de", "fr")
    assert max(french, key=lambda word: french[word]) in ("respon", "vende")
    assert "respon" in french
    assert translated("Haftung", "de", "de") == {"haftun": 1.0}
    assert translated("Xyzabc", "de", "fr") == {"xyzabc": 1.0}, "names are the same in all languages"


def test_bm25_equals_its_formula() -> None:
    passages = [Counter({"a": 2, "b": 1}), Counter({"b": 4}), Counter({"c": 5})]
    scores = Index(passages).scores({"a": 1.0, "b": 0.5})
    mean = (3 + 4 + 5) / 3

    def term(count: int, length: int, held: int) -> float:
        rarity = math.log(1 + (3 - held + 0.5) / (held + 0.5))
        return rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean))

    assert scores == pytest.approx([term(2, 3, 1) + 0.5 * term(1, 3, 2), 0.5 * term(4, 4, 2), 0.0])
    assert Index(passages).cover(["a", "b", "z"]) == pytest.approx([2 / 3, 1 / 3, 0])
    assert Index([]).scores(["a"]) == []


def _hits(rows: list[dict[str, Any]]) -> list[bool]:
    hits = []
    for row in rows:
        passages = Passages(Cited(row["decision"], row["decision_language"], int(row["year"])))
        read = sentences(row["headnote"], row["headnote_language"], int(row["year"]))
        for one, strengths in zip(read, passages.strengths(read, row["headnote_language"]), strict=True):
            right = [any(is_near(number, pointer) for pointer in one.pointers) for number in passages.numbers]
            if any(right):
                hits.append(right[max(range(len(right)), key=strengths.__getitem__)])
    return hits


def test_the_courts_own_pointers_are_found_when_they_are_hidden() -> None:
    """`benchmarks/evidence.py` prints the shares with their intervals."""
    rows = real_rows("test")
    same = _hits([row for row in rows if row["decision_language"] == row["headnote_language"]])
    across = _hits([row for row in rows if row["decision_language"] != row["headnote_language"]])
    assert sum(same) / len(same) > 0.75
    assert sum(across) / len(across) > 0.58


def test_samples_have_evidence() -> None:
    found = [
        one
        for row in sample_rows("test")
        for one in evidence(row["headnote"], row["headnote_language"], Cited(row["decision"], row["decision_language"]))
    ]
    assert sum(bool(one.places) for one in found) > len(found) / 3
    assert sum(one.pointer == "wrong" for one in found) <= len(found) / 10
