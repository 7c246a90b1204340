"""Grammars of headnotes: what is accepted is in the decision, and what is in the decision is accepted."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import llguidance
import pytest

from headnote_cli.generation.grounding import LIMITS
from headnote_cli.law.acts import acts
from headnote_cli.law.citations import Cited, citations
from headnote_cli.law.grammar import _LIKE_A_WORD, grammar
from headnote_cli.law.language import LANGUAGES
from headnote_cli.law.plain import plain
from tests.conftest import REAL, examples, real_rows, sample_rows

TOKENS = llguidance.LLTokenizer("byte")
DECISION = (
    "Sachverhalt: A. klagte gegen B. Erwägungen: 1. Nach Art. 41 Abs. 1 und 2 OR haftet, wer Schaden zufügt. 2. Das"
    " folgt auch aus Art. 8, 9 und 29 Abs. 2 lit. a BV. 2.1 Siehe BGE 899 III 30 E. 4.1 und Urteil 4A_999/2900 vom"
    " 3. Mai 2900. 3. Art. 336-336d OR und Art. 12 ff. ZGB gelten, § 5 Abs. 2 StG/ZH nicht. 3.1 Anhang I FZA (SR"
    " 0.142.112.681) und Art. 6 Ziff. 1 EMRK. 3.2 Art. 7 ist ohne Gesetz, Art. 23 Abs. 1 LAN/TI hat eines; auch Art. 5"
    " lit. a der Verordnung (EG) Nr. 883/2004. 4. Die Klage wird abgewiesen."
)


def matcher(text: str) -> Any:
    found = llguidance.LLMatcher(TOKENS, text, limits=LIMITS, log_level=0)
    assert not found.get_error()
    return found


def accepts(one: Any, text: str) -> bool:
    tokens = TOKENS.tokenize_str(text)
    copy = one.deep_copy()
    return bool(copy.try_consume_tokens(tokens) == len(tokens) and copy.is_accepting())


@pytest.fixture(scope="module")
def of() -> dict[str, Any]:
    cited = Cited(DECISION, "de", 2020)
    return {language: matcher(grammar(cited, language)) for language in LANGUAGES}


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("de", "Haftung (E. 1 und 2.1); keine Frist von 30 Tagen."),
        ("de", "Art. 41 OR; Art. 41 Abs. 1 und 2 OR. Haftung aus unerlaubter Handlung."),
        ("de", "Art. 8, 9 und 29 Abs. 2 BV; Art. 336-336d OR, Art. 12 ff. ZGB (E. 3.1-3.2)."),
        ("de", "Art. 8 BV i.V.m. Art. 41 Abs. 2 OR; Anhang I FZA; § 5 StG/ZH."),
        ("de", "Präzisierung von BGE 899 III 30 E. 4.1; vgl. 4A_999/2900. Der Kläger A. verlangt 5'230 Franken."),
        ("de", "Art. 7 der Verordnung vom 3. Mai 2900 gilt (E. 3.2)."),
        ("de", "Art. 7 des Gesetzes über die Fischerei; Art. 23 Abs. 1 des Tessiner Ladenöffnungsgesetzes (LAN/TI)."),
        (
            "de",
            "Art. 41 Abs. 2 in fine OR; Art. 5 lit. a der Verordnung (EG) Nr. 883/2004; über Art. 8 BV hinaus. Frist.",
        ),
        ("de", "Der Art. Fall, die Art und Weise; E. Müller."),
        (
            "fr",
            "Art. 41 al. 1 et 2 CO; art. 8, 9 et 29 al. 2 let. a Cst. (consid. 2 et 3.1). ATF 899 III 30 consid. 4.1.",
        ),
        ("fr", "art. 6 par. 1 CEDH; annexe I ALCP; art. 336 à 336d CO; art. 12 ss CC."),
        ("it", "Art. 41 cpv. 1 CO; art. 29 cpv. 2 lett. a Cost. (consid. 3.1). DTF 899 III 30."),
        ("fr", "L'art. 23 al. 1 de la loi tessinoise sur l'ouverture des magasins, applicable ici (consid. 3.2)."),
        ("it", "L'art. 12 segg. CC in relazione con l'art. 41 CO; § 5 cpv. 2 StG/ZH."),
    ],
)
def test_what_the_decision_has_may_be_cited(of: dict[str, Any], language: str, text: str) -> None:
    assert accepts(of[language], text)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("de", "Art. 42 OR"),
        ("de", "Art. 41 Abs. 3 OR"),
        ("de", "Art. 41 ZGB"),
        ("de", "Art. 41 OR, 42 ZGB"),
        ("de", "Art. 41 und 42 OR"),
        ("de", "Art. 41 Abs. 1 und 42 OR"),
        ("de", "Art. 336-337 OR"),
        ("de", "Art. 8 OR"),
        ("de", "Art. 41 OR/ZH"),
        ("de", "Art. 29 Abs. 2 lit. b BV"),
        ("de", "(E. 5)"),
        ("de", "(E. 1 und 5)"),
        ("de", "(E. 2.2)"),
        ("de", "BGE 899 III 31"),
        ("de", "BGE 899 III 30 E. 2"),
        ("de", "4A_998/2900"),
        ("de", "§ 6 StG/ZH"),
        ("de", "Art.\u00a042 OR"),
        ("de", "Art. 7f."),
        ("de", "Art. 7 der Verordnung vom 4. Mai 2900"),
        ("de", "Art. 7 des Zivilgesetzbuches"),
        ("de", "Art. 7 des Gesetzes über die Fischerei (OR)"),
        ("de", "Art. 23 des Bundesgesetzes über den Datenschutz"),
        ("de", "Art. 24 des Tessiner Ladenöffnungsgesetzes"),
        ("de", "Art. 41 des Tessiner Ladenöffnungsgesetzes"),
        ("de", "Art. 5 lit. a der Verordnung (EG) Nr. 884/2004"),
        ("fr", "art. 42 CO"),
        ("fr", "art. 41 al. 3 CO"),
        ("fr", "art. 41 CO vaudois"),
        ("fr", "art. 8 Cst. vaud."),
        ("fr", "art. 41 CO neuchât."),
        ("fr", "art. 41 CC"),
        ("fr", "consid. 5"),
        ("it", "art. 42 CO"),
        ("it", "consid. 2.2"),
    ],
)
def test_what_the_decision_lacks_may_not(of: dict[str, Any], language: str, text: str) -> None:
    assert not accepts(of[language], text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_decision_without_citations_allows_none(language: str) -> None:
    none = matcher(grammar(Cited("Die Beschwerde ist begründet, weil sie begründet ist.", "de"), language))
    assert accepts(none, "Die Beschwerde ist begründet; 30 Tage.")
    for text in ("Art. 1 OR", "art. 1 CO", "(E. 1)", "consid. 1", "BGE 140 III 86", "4A_1/2020", "§ 5", "SR 220"):
        assert not accepts(none, text)


def test_names_of_acts_with_signs_do_no_harm() -> None:
    decision = '1. Art. 3 K"x"G, Art. 4 A/B-G und Art. 5 L\\G sowie Art. 6 PBG. 2. Art. 7 O\'G.'
    one = matcher(grammar(Cited(decision, "de", 2020), "de"))
    assert accepts(one, "Art. 6 PBG (E. 1).")
    assert not accepts(one, "Art. 8 PBG (E. 1).")


def test_hundreds_of_citations_make_a_grammar_in_bounded_time_and_size() -> None:
    decision = "1. " + "; ".join(f"Art. {n} Abs. {n % 7 + 1} lit. {'abcdef'[n % 6]} OR" for n in range(1, 900))
    text = grammar(Cited(decision, "de", 2020), "de")
    assert len(text) < 400_000
    one = matcher(text)
    assert accepts(one, "Art. 5 Abs. 6 lit. f und 800 OR.")
    assert not accepts(one, "Art. 901 OR.")


PIECES = {
    "de": "Art. |§ |E. |BGE |Artikel | (E. | i.V.m. Art. | und |, | ff.| OR| BV| Abs. | lit. | Satz |-| der |. |; "
    "| bzw. | f. | 12 | a | b| KV/| zweiter Satz| gilt |bis| Ziff. | StGB/BE|5A_| bei |Erw. |Anhang | des Gesetzes"
    "| über die Steuern| des Zivilgesetzbuches| des Kantons Zürich| (OR)| der Verordnung | in fine| (",
    "fr": "art. |Art. |consid. |ATF |(consid. | en relation avec l'art. | et |, | ss| CO| Cst.| al. | let. | ch. |-"
    "| de la | du | de l'|. |; | à | s. | 12 | a | 2e phrase| vaud.| genevois| dispose | CP/GE| p. 3|annexe | de la loi"
    "| sur la pêche| du code civil| (CO)| loi fédérale| du règlement | de la loi tessinoise| in fine| (",
    "it": "art. |consid. |DTF |(consid. | in relazione con l'art. | e |, | segg.| CO| Cost.| cpv. | lett. | n. |-"
    "| della | del | dell'|. |; | a | seg. | 12 | b| seconda frase| prevede | ticinese| nonché |allegato | della legge"
    "| sulla pesca| del codice civile| (CO)| della legge ticinese| del Cantone Ticino| in fine| (",
}


def _decisions() -> Iterator[dict[str, Any]]:
    yield from sample_rows("test")
    if REAL.is_dir():
        yield from real_rows("test")[:60]
        with gzip.open(REAL.with_name("bge_old") / "decisions.jsonl.gz", "rt", encoding="utf-8") as lines:
            yield from (json.loads(line) for place, line in enumerate(lines) if place % 12 == 0)


def test_whatever_is_accepted_the_parser_finds_in_the_decision() -> None:
    """Pieces of citations of all kinds put together at random, as far as the grammar lets them."""
    random, rows, read = Random(0), list(_decisions()), 0
    for _ in range(examples(150)):
        row, language = random.choice(rows), random.choice(LANGUAGES)
        year = int(row["year"]) if "year" in row else None
        cited = Cited(row["decision"], row["decision_language"], year)
        begin = matcher(grammar(cited, language))
        pieces = PIECES[language].split("|")
        own = [value for citation in cited.citations for _, value in citation.path if value]
        own += [citation.act for citation in cited.citations if citation.act] + cited.names + ["1"]
        for _ in range(12):
            one, text, whole = begin.deep_copy(), "", ""
            for _ in range(random.randint(60, 240)):  # most are refused
                piece = (
                    random.choice(pieces) if random.random() < 0.5 else random.choice(["", " "]) + random.choice(own)
                )
                ahead, tokens = one.deep_copy(), TOKENS.tokenize_str(piece)
                if ahead.try_consume_tokens(tokens) == len(tokens):
                    one, text = ahead, text + piece
                    whole = text if one.is_accepting() else whole
            for citation in citations(whole, language, year):
                read += 1
                assert cited.status(citation) != "missing", f"{whole!r} in {language}: {citation.text}"
    assert read > 50


def test_no_abbreviation_passes_for_a_word_of_a_title() -> None:
    names = {name.rstrip(".") for act in acts() for of in act.abbreviations.values() for name in of}
    like_words = {name for name in names if re.fullmatch("[A-Z][a-zé]+", name) and len(name) < 10}
    assert len(like_words) > 20
    assert [name for name in like_words if not re.fullmatch(_LIKE_A_WORD, name)] == []


def test_official_headnotes_that_are_supported_are_accepted() -> None:
    """All but those that name an act by words that only they use; `benchmarks/grounded.py` prints the share."""
    counts = Counter[bool]()
    for row in real_rows("train")[::2]:
        headnote = " ".join(plain(row["headnote"]).text.split())
        language, year = row["headnote_language"], int(row["year"])
        cited = Cited(row["decision"], row["decision_language"], year)
        if all(cited.status(citation) == "found" for citation in citations(headnote, language, year)):
            counts[accepts(matcher(grammar(cited, language)), headnote)] += 1
    assert counts.total() > 50
    assert counts[True] / counts.total() > 0.9
