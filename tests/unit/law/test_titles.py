"""Acts by title, by canton and by their time; the citations of all decades against labels by hand."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from headnote_cli.law.acts import acts
from headnote_cli.law.citations import Cited, citations
from headnote_cli.law.language import LANGUAGES
from headnote_cli.law.titles import DATE, TABLE
from tests.conftest import REAL, ROOT, every_real_row

DECADES = ROOT / "tests" / "data" / "citations_by_decade.jsonl"


def _old(name: str) -> Iterator[dict[str, Any]]:
    file = REAL.with_name("bge_old") / name
    if not file.is_file():
        pytest.skip("the old decisions are not here")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


@pytest.mark.parametrize(
    ("text", "language", "year", "expected"),
    [
        # By title: whole, by the act's date or by a word that only a federal act has.
        ("Art. 17 des ETH-Gesetzes", "de", 2005, ["Art. 17 ETH-Gesetz"]),
        ("art. 17 de la loi sur les EPF", "fr", 2005, ["Art. 17 ETH-Gesetz"]),
        ("art. 17 de la loi sur la TVA", "fr", 1985, ["Art. 17"]),
        ("Art. 4 des Bundesgesetzes über Geldspiele", "de", 2022, ["Art. 4 BGS"]),
        ("art. 4 de la LF du 29 septembre 2017 sur les jeux d'argent", "fr", 2022, ["Art. 4 BGS"]),
        ("art. 4 della legge federale sui giochi in denaro", "it", 2022, ["Art. 4 BGS"]),
        ("art. 4 de la loi fédérale sur les jeux d'argent, du 29 septembre 2017", "fr", 2018, ["Art. 4 BGS"]),
        ("art. 4 de la loi fédérale du 3 mai 1990 sur les jeux d'argent", "fr", 2022, ["Art. 4"]),
        ("Art. 5 des Arbeitsgesetzes", "de", 2010, ["Art. 5"]),  # a canton may have one, too
        ("Art. 5 des Arbeitsgesetzes vom 13. März 1964", "de", 2010, ["Art. 5 ArG"]),
        ("Art. 3 der Verordnung über Geldspiele", "de", 2022, ["Art. 3"]),
        ("Art. 3 der Verordnung vom 7. November 2018 über Geldspiele", "de", 2022, ["Art. 3 VGS"]),
        ("ordinanza: art. 23 dell'ordinanza del 21 dicembre 1973", "it", 1974, ["Art. 23"]),
        ("art. 41 du code des obligations", "fr", 1958, ["Art. 41 OR"]),
        ("art. 1382 du code civil français", "fr", 1990, ["Art. 1382"]),
        ("art. 2 du code civil vaut aussi ici (CO)", "fr", 1990, ["Art. 2 ZGB"]),
        ("Art. 1007 des Code civil; art. 210 du code pénal philippin", "de", 1959, ["Art. 1007", "Art. 210"]),
        ("Art. 41 des Schweizerischen Obligationenrechts", "de", 1958, ["Art. 41 OR"]),
        ("art. 24 della Convenzione sullo statuto dei rifugiati", "it", 2020, ["Art. 24 FK"]),
        ("Art. 85 Versicherungsaufsichtsgesetz (VAG); Art. 3 Forderungen (ABC)", "de", 2007, ["Art. 85 VAG", "Art. 3"]),
        # Three letters may be a canton's act, unless the text says what they mean.
        ("art. 4 LCI", "fr", 2001, ["Art. 4 LCI"]),
        ("art. 4 et 5 de l'ordonnance (OMO; RS 211.432.2); art. 6 OMO", "fr", 2001,
         ["Art. 4 VAV (SR 211.432.2)", "Art. 5 VAV (SR 211.432.2)", "SR 211.432.2", "Art. 6 VAV (SR 211.432.2)"]),
        ("art. 4 (OJ; RS 173.110)", "fr", 1995, ["Art. 4", "SR 173.110"]),
        # A canton's act is never the federal one.
        ("art. 39 Cst. arg.; art. 1 cst. soleuroise", "fr", 1961, ["Art. 39 KV/AG", "Art. 1 KV/SO"]),
        ("art. 7 de la constitution cantonale, 8 de la constitution genevoise", "fr", 2001,
         ["Art. 7 KV", "Art. 8 KV/GE"]),
        ("art. 3 CPC vaud., art. 4 CPC genevois, art. 5 CP bâlois", "fr", 1990,
         ["Art. 3 ZPO/VD", "Art. 4 ZPO/GE", "Art. 5"]),
        ("Art. 5 der bernischen ZPO; § 3 Zürcher StPO; Art. 4 Obwaldner KV", "de", 1990,
         ["Art. 5 ZPO/BE", "§ 3 StPO/ZH", "Art. 4 KV/OW"]),
        ("art. 8 Cost. ticinese, art. 9 Cost.", "it", 1990, ["Art. 8 KV/TI", "Art. 9 BV"]),
        ("art. 8 CO. Genevois de naissance", "fr", 1990, ["Art. 8 OR"]),
        # An act of its time.
        ("art. 14 LM", "it", 1954, ["Art. 14 LM"]),
        ("art. 14 LM", "it", 2005, ["Art. 14 MG"]),
        # Subdivisions before their article, the final title, glued and listed pages, books.
        ("Abs. 2 von Art. 5 OR; al. 1 let. b de l'art. 6 CO", "de", 2005,
         ["Art. 5 Abs. 2 OR", "Art. 6 Abs. 1 lit. b OR"]),
        ("il capoverso secondo dell'art. 5 CO", "it", 1990, ["Art. 5 Abs. 2 OR"]),
        ("Art. 650 ZGB, 17, 45 Schlusstitel des ZGB", "de", 1955,
         ["Art. 650 ZGB", "Art. 17 SchlT ZGB", "Art. 45 SchlT ZGB"]),
        ("InBGE 874 I 168Erw. 3 und in BGE 889 I 209 und 279 sowie in", "de", 1968,
         ["BGE 874 I 168 E. 3", "BGE 889 I 209", "BGE 889 I 279"]),
        ("(RU 879 I 44 e segg., 153, 887 I 366 e segg.; 875 III 25 in fine e 856 III 119)", "it", 1967,
         ["BGE 879 I 44", "BGE 879 I 153", "BGE 887 I 366", "BGE 875 III 25", "BGE 856 III 119"]),
        ("BGE 889 I 209, 12 Personen; BGE 889 I 209 und 150 Franken; BGE 889 I 209, 1970", "de", 1968,
         ["BGE 889 I 209"]),
        ("(Traité, § 13 VI, pagg. 210/211)", "it", 1986, []),
    ],
)  # fmt: skip
def test_acts_by_title_by_canton_and_by_their_time(text: str, language: str, year: int, expected: list[str]) -> None:
    assert [citation.text for citation in citations(text, language, year)] == expected


def test_a_title_of_the_table_is_read_as_its_act_in_every_language() -> None:
    read = Counter[bool]()
    for number, *titles in csv.reader(TABLE.read_text(encoding="utf-8").splitlines()[1:]):
        named = {act.name for act in acts() if act.number == number}
        for language, title in zip(LANGUAGES, titles, strict=True):
            of = {"de": "des ", "fr": "de l'", "it": "dell'"}[language]
            if title and DATE.search(title):
                cited = citations(f"art. 3 {of}{title.split(' (')[0]}.", language, 2030)
                read[{citation.act for citation in cited} <= named] += 1
    assert read[True] / read.total() > 0.9


def test_the_parser_finds_in_old_decisions_what_a_reader_lists() -> None:
    """Labels by hand of all decades and languages; `benchmarks/citations.py` prints them by decade."""
    texts = {(row["decision_id"], row["headnote_language"]): row["headnote"] for row in every_real_row()}
    texts |= {(row["decision_id"], row["language"]): row["headnote"] for row in _old("headnotes.jsonl.gz")}
    right, named, listed = 0, 0, 0
    for line in DECADES.read_text(encoding="utf-8").splitlines():
        label = json.loads(line)
        text = texts.get((label["decision_id"], label["language"]))
        if text is None or "passage" in label or "cut" in label:
            continue
        parsed = {c.text for c in citations(text, label["language"], label["year"]) if c.kind != "act"}
        right += len(parsed & set(label["citations"]))
        named += len(parsed)
        listed += len(label["citations"])
    assert listed > 300
    assert right / named >= 0.97
    assert right / listed >= 0.97


def test_a_decision_defines_the_abbreviations_of_its_headnote() -> None:
    decision = (
        "Gemäss Art. 4 der Verordnung vom 18. November 1992 über die amtliche Vermessung (VAV; SR 211.432.2) gilt."
    )
    (cited,) = citations("art. 4 OMO", "fr", 2001)
    assert cited.act == "OMO"  # what it means, only the decision says
    assert Cited(decision, "de", 2001).status(cited) == "found"
    assert Cited(decision, "de", 2001).status(citations("Art. 4 VAV", "de", 2001)[0]) == "found"
    assert Cited(decision, "de", 2001).status(citations("Art. 5 VAV", "de", 2001)[0]) == "missing"
