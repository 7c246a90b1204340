"""Citations in three languages, and whether the decision has them."""

from __future__ import annotations

import json
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from random import Random
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headnote_cli.law.acts import Usage, acts, name_of
from headnote_cli.law.citations import Cited, check, citations, spans, unsupported
from headnote_cli.law.language import LANGUAGES, detect_language
from tests.conftest import ROOT, every_real_row, examples, real_rows, sample_rows

LABELS = ROOT / "tests" / "data" / "headnote_citations.jsonl"


def texts(text: str, language: str | None = None) -> list[str]:
    return [citation.text for citation in citations(text, language)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Art. 41 Abs. 1 OR; Haftung (E. 2.1).", ["Art. 41 Abs. 1 OR", "E. 2.1"]),
        ("Art. 41 al. 1 CO; responsabilité (consid. 2.1).", ["Art. 41 Abs. 1 OR", "E. 2.1"]),
        ("Art. 41 cpv. 1 CO; responsabilità (consid. 4a).", ["Art. 41 Abs. 1 OR", "E. 4a"]),
        ("Art. 8, 9 und 29 Abs. 2 BV", ["Art. 8 BV", "Art. 9 BV", "Art. 29 Abs. 2 BV"]),
        ("Art. 5 Abs. 1 sowie Art. 8 Abs. 1 und 2 BV", ["Art. 5 Abs. 1 BV", "Art. 8 Abs. 1 BV", "Art. 8 Abs. 2 BV"]),
        ("Art. 29 Abs. 1 und 30 BV", ["Art. 29 Abs. 1 BV", "Art. 30 BV"]),
        ("Art. 179quater Abs. 1 StGB", ["Art. 179quater Abs. 1 StGB"]),
        ("art. 305 bis ch. 2 CP", ["Art. 305bis Ziff. 2 StGB"]),
        ("Art. 1 bis 196 ZPO", ["Art. 1-196 ZPO"]),
        ("art. 12 à 14, 16 ss et 20 s. CO", ["Art. 12-14 OR", "Art. 16 ff. OR", "Art. 20 f. OR"]),
        ("art. 16 segg. e 20 seg. CO", ["Art. 16 ff. OR", "Art. 20 f. OR"]),
        ("art. 259d et art. 259e CO (consid. 2.2 et 3.2)", ["Art. 259d OR", "Art. 259e OR", "E. 2.2", "E. 3.2"]),
        ("artt. 23 lett. f e 33 cpv. 1 lett. c LIFD", ["Art. 23 lit. f DBG", "Art. 33 Abs. 1 lit. c DBG"]),
        ("Art. 10 lett. e ed f LEF", ["Art. 10 lit. e SchKG", "Art. 10 lit. f SchKG"]),
        ("Art. 52 Abs. 1 lit. a Ziff. 2 und lit. b KVG",
         ["Art. 52 Abs. 1 lit. a Ziff. 2 KVG", "Art. 52 Abs. 1 lit. b KVG"]),
        ("art. 10 al. 3, 2e phrase, LAA", ["Art. 10 Abs. 3 Satz 2 UVG"]),
        ("Art. 10 cpv. 3 seconda frase LAINF", ["Art. 10 Abs. 3 Satz 2 UVG"]),
        ("Art. 10 Abs. 3 zweiter Satz UVG", ["Art. 10 Abs. 3 Satz 2 UVG"]),
        ("Art. 95 lit. a i.V.m. Art. 97 Abs. 1 BGG", ["Art. 95 lit. a BGG", "Art. 97 Abs. 1 BGG"]),
        ("art. 95 let. a en relation avec l'art. 97 al. 1 LTF", ["Art. 95 lit. a BGG", "Art. 97 Abs. 1 BGG"]),
        ("art. 95 lett. a in relazione con l'art. 97 cpv. 1 LTF", ["Art. 95 lit. a BGG", "Art. 97 Abs. 1 BGG"]),
        ("artt. 15 e 36 Cost. e 9 n. 1 CEDU", ["Art. 15 BV", "Art. 36 BV", "Art. 9 Ziff. 1 EMRK"]),
        ("art. 6 par. 1 CEDH", ["Art. 6 Ziff. 1 EMRK"]),
        ("Art. 6 Abs. 6 Anhang I FZA; Anhang 7 LSV", ["Art. 6 Abs. 6 Anhang I FZA", "Anhang 7 LSV"]),
        ("art. 6 par. 6 annexe I ALCP; annexe 7 OPB", ["Art. 6 Abs. 6 Anhang I FZA", "Anhang 7 LSV"]),
        ("art. 55 Tit. final CC", ["Art. 55 SchlT ZGB"]),
        ("art. 8 par. 1 du Règlement (CE) n° 883/2004", ["Art. 8 Abs. 1 VO 883/2004"]),
        ("§§ 39 et 59 Cst./BS", ["§ 39 KV/BS", "§ 59 KV/BS"]),
        ("Art. 181 Abs. 2 des Steuergesetzes vom 10. März 1976 (StG/VS)", ["Art. 181 Abs. 2 StG/VS"]),
        ("aArt. 21 Abs. 1 ELG; art. 21 al. 1 aLPC", ["Art. 21 Abs. 1 ELG"]),
        ("Art. 340, 340a-c OR; art. 16b-h LAPG", ["Art. 340 OR", "Art. 340a-340c OR", "Art. 16b-16h EOG"]),
        ("Art. 2 lit. c bis und lit. d RTVG", ["Art. 2 lit. cbis RTVG", "Art. 2 lit. d RTVG"]),
        ("Art. 5 lit. a bis c OR", ["Art. 5 lit. a-c OR"]),
        ("Art. 5 Abs. 1 lit. a bis lit. c StPO", ["Art. 5 Abs. 1 lit. a-c StPO"]),
        ("Art. 5 lit. a bis und mit lit. d BGG", ["Art. 5 lit. a-d BGG"]),
        ("Art. 66a – d.h. die Landesverweisung – StGB", ["Art. 66a"]),
        ("Art. 12 des Entwurfs vom 5. Mai 2010 (BBl 2010 1234)", ["Art. 12"]),
        ("§ 7 der Verordnung vom 5. Mai 2010 [LS 177.111]", ["§ 7"]),
        ("Art. 17 der Verordnung [EU] Nr. 604/2013", ["Art. 17 VO 604/2013"]),
        ("Art. 5 der Verordnung [des Bundesrates] vom 10. März 1976 über die Jagd (JSV; SR 922.01)",
         ["Art. 5 JSV", "SR 922.01"]),
        ("Art. 26 COVID-19-Verordnung 3", ["Art. 26 COVID-19-Verordnung"]),
        ("Art. 8 der Statuten (nachfolgend: Statuten, CO 620)", ["Art. 8"]),
        ("Art. 6 des Vertrags vom 3. Mai 2010 (Beilage 3, SchKG-Akten)", ["Art. 6"]),
        ("Art. 7 f., insb. Art. 9 Abs. 2 BV", ["Art. 7 f. BV", "Art. 9 Abs. 2 BV"]),
        ("art. 7 s., en particulier art. 9 Cst.", ["Art. 7 f. BV", "Art. 9 BV"]),
        ("art. 7 seg., segnatamente art. 9 Cost.", ["Art. 7 f. BV", "Art. 9 BV"]),
        ("Art. 24 (in der bis Ende 2016 geltenden Fassung), Art. 24a BVV 2 (in Kraft seit 2017)",
         ["Art. 24 BVV 2", "Art. 24a BVV 2"]),
        ("art. 41a al. 1 (et non pas al. 2) OEaux", ["Art. 41a Abs. 1 GSchV"]),
        ("Art. 24 (in der alten Fassung). Art. 5 BV", ["Art. 24", "Art. 5 BV"]),
        ("Art. 19 Abs. 1 Ingress und lit. a DSG", ["Art. 19 Abs. 1 lit. a DSG"]),
        ("art. 2 de la loi fédérale du 3 mai 2000 sur les avocats [loi sur les avocats, LLCA; RS 935.61]",
         ["Art. 2 BGFA", "SR 935.61"]),
        ("Art. 4 der Verordnung zum Coronavirus (COVID-19) (COVID-19-Verordnung Arbeitslosenversicherung)",
         ["Art. 4 Covid-19-Verordnung Arbeitslosenversicherung"]),
        ("art. 23 LAN/ TI, art. 3 KRG /GR", ["Art. 23 LAN/TI", "Art. 3 KRG/GR"]),
        ("Art. 5 Abs. 2 der genannten Verordnung", ["Art. 5 Abs. 2"]),
        ("Art. 2 ff. der KG-Sanktionsverordnung vom 12. März 2004 (SVKG; SR 251.5)", ["Art. 2 ff. SVKG", "SR 251.5"]),
        ("Art. 3 der KG-Sanktionsverordnung", ["Art. 3 SVKG"]),
        ("Art. 2 der Verordnung vom 20. März 2020 über den Ausfall (Covid-19; Covid-19-Verordnung Erwerbsausfall)",
         ["Art. 2 Covid-19-Verordnung Erwerbsausfall"]),
        ("art. 12 let. a et j LLCA", ["Art. 12 lit. a BGFA", "Art. 12 lit. j BGFA"]),
        ("vgl. BGE 899 III 30 und 4A_999/2900", ["BGE 899 III 30", "4A_999/2900"]),
        ("ATF 899 III 30 consid. 4.1 et 5 p. 33; 898 II 5",
         ["BGE 899 III 30 E. 4.1", "BGE 899 III 30 E. 5", "BGE 898 II 5"]),
        ("DTF 899 III 30 pag. 33 (consid. 2)", ["BGE 899 III 30 S. 33", "E. 2"]),
        ("4C.12/2001 vom 3. März 2002 E. 3; U 123/05", ["4C.12/2001 E. 3", "U 123/05"]),
        ("arrêt 4A_999/2900 du 1 er mars 2900 consid. 2", ["4A_999/2900 E. 2"]),
        ("Präzisierung von E. 2 und 3.1 von BGE 899 III 30 (E. 4)",
         ["BGE 899 III 30 E. 2", "BGE 899 III 30 E. 3.1", "E. 4"]),
        ("consid. 3.2 de l'ATF 899 III 30; consid. 4 de la décision", ["BGE 899 III 30 E. 3.2", "E. 4"]),
        ("consid. 2 e 3 della DTF 899 III 30", ["BGE 899 III 30 E. 2", "BGE 899 III 30 E. 3"]),
        ("E. 4.5 des BGE 899 III 30 S. 33 angefochtenen Urteils", ["E. 4.5", "BGE 899 III 30 S. 33"]),
        ("E. 5 des zitierten Urteils 4A_ 999/2900; E. 6 (BGE 899 III 30)",
         ["4A_999/2900 E. 5", "E. 6", "BGE 899 III 30"]),
        ("BGer 4A_999/2900 vom 12.4.2900, E. 3.1", ["4A_999/2900 E. 3.1"]),
        ("Urteile D-2434/2007 vom 27. Apr. 2007 E. 7 und 4A_999/2900 vom 1.2.90 E. 2",
         ["D-2434/2007 E. 7", "4A_999/2900 E. 2"]),
        ("arrêt 5A_999/2900 précité consid. 3 et 4, ATF 899 III 30, déjà cité, consid. 2",
         ["5A_999/2900 E. 3", "5A_999/2900 E. 4", "BGE 899 III 30 E. 2"]),
        ("arrêt 5A_999/2900 du 3 mai 2900 susmentionné, consid. 3; 4A_998/2900 (précité) consid. 5",
         ["5A_999/2900 E. 3", "4A_998/2900 E. 5"]),
        ("Urteil 6B_999/2900, a.a.O., E. 3.4.1; 6B_998/2900 (oben zitiert) E. 2",
         ["6B_999/2900 E. 3.4.1", "6B_998/2900 E. 2"]),
        ("sentenza 5A_999/2900 già citata, consid. 3; DTF 899 III 30 cit. consid. 2",
         ["5A_999/2900 E. 3", "BGE 899 III 30 E. 2"]),
        ("BGE 899 III 30 ff. E. 3; BGE 898 III 1 f. (E. 4)", ["BGE 899 III 30 E. 3", "BGE 898 III 1", "E. 4"]),
        ("BVGE 2014/26 E. 7.9.1 und 2013/12; BVGE 2017 VI/4 S. 9",
         ["BVGE 2014/26 E. 7.9.1", "BVGE 2013/12", "BVGE 2017 VI/4 S. 9"]),
        ("consid. 3 de l'ATAF 2014/5; DTAF 2014/5 consid. 11", ["BVGE 2014/5 E. 3", "BVGE 2014/5 E. 11"]),
        ("TPF 2014 12 E. 3", ["TPF 2014 12 E. 3"]),
        ("Art. 62ff. OR, Art. 63f. OR, Art. 336f OR, Art. 5 und folgende OR",
         ["Art. 62 ff. OR", "Art. 63 f. OR", "Art. 336f OR", "Art. 5 ff. OR"]),
        ("art. 62ss CO, art. 63 et ss CO, art. 64 et suivants CO, art. 65 et s. CO",
         ["Art. 62 ff. OR", "Art. 63 ff. OR", "Art. 64 ff. OR", "Art. 65 f. OR"]),
        ("art. 62segg. CO, art. 63 e segg. CO e art. 64 e seg. CO",
         ["Art. 62 ff. OR", "Art. 63 ff. OR", "Art. 64 f. OR"]),
        ("Art. 5 Abs. 3 folgende Ausnahme; art. 5d et f CO", ["Art. 5 Abs. 3", "Art. 5d"]),
        ("E. 2ff. und 5; consid. 3 et ss; consid. 4d et f", ["E. 2 ff.", "E. 5", "E. 3 ff.", "E. 4d", "E. 4f"]),
        ("art. 1er al. 1er CO, art. 2 al. 1 er à 3 CO", ["Art. 1 Abs. 1 OR", "Art. 2 Abs. 1-3 OR"]),
        ("art. 6 § 1 et § 3 let. c CEDH, art. 8 §§ 1 et 2 CEDH",
         ["Art. 6 Ziff. 1 EMRK", "Art. 6 Ziff. 3 lit. c EMRK", "Art. 8 Ziff. 1 EMRK", "Art. 8 Ziff. 2 EMRK"]),
        ("Art. 5 OR und § 6 StG/ZH; § 7 und § 8 StG/ZH; § 9 § 10 StG/ZH",
         ["Art. 5 OR", "§ 6 StG/ZH", "§ 7 StG/ZH", "§ 8 StG/ZH", "§ 9", "§ 10 StG/ZH"]),
        ("art. 5 § 1 et art. 6 § 2 CEDH", ["Art. 5 Ziff. 1 EMRK", "Art. 6 Ziff. 2 EMRK"]),
        ("(LIFD; RS 642.11), SR 0.101", ["SR 642.11", "SR 0.101"]),
        ("(E. 2.1-2.3, 4 und 5 ff.)", ["E. 2.1-2.3", "E. 4", "E. 5 ff."]),
        ("Der Artikel gefällt.", []),
        ("Im Jahr 2012, am 3. Mai", []),
    ],
)  # fmt: skip
def test_citations_have_one_form_in_all_languages(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


def test_a_treaty_is_cited_alike_in_all_languages() -> None:
    forms = {"de": "Art. 6 Ziff. 1 EMRK", "fr": "art. 6 § 1 CEDH", "it": "art. 6 n. 1 CEDU"}
    assert len({citations(text, language)[0].key for language, text in forms.items()}) == 1


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("art. 5 AIMP", "fr", "Art. 5 IVöB"),
        ("art. 5 AIMP", "it", "Art. 5 IRSG"),
        ("art. 5 LPA", "fr", "Art. 5 TSchG"),
        ("art. 5 OPC", "fr", "Art. 5 VVAG"),
        ("art. 5 LP", "fr", "Art. 5 SchKG"),
        ("art. 5 PA", "it", "Art. 5 VwVG"),
        ("art. 5 LPC", "it", "Art. 5 ELG"),
        ("art. 5 LC", "it", "Art. 5 AVG"),
    ],
)
def test_the_language_decides_what_an_abbreviation_means(text: str, language: str, expected: str) -> None:
    assert texts(text, language) == [expected]


def test_without_a_language_the_text_tells_it() -> None:
    assert texts("secondo l'art. 5 cpv. 1 AIMP e la giurisprudenza") == ["Art. 5 Abs. 1 IRSG"]
    assert texts("selon l'art. 5 al. 1 AIMP et la jurisprudence") == ["Art. 5 Abs. 1 IVöB"]


def test_the_table_names_each_act_once_in_each_language() -> None:
    numbers = {act.name: act.number for act in acts() if act.number}
    assert len(numbers) > 250
    assert len(set(numbers.values())) > 250
    for language in LANGUAGES:
        named = [act for act in acts() if act.years != "-"]  # the others only where a text says what they mean
        meant = {
            name: act.name
            for act in sorted(named, key=lambda act: not act.years)
            for name in act.abbreviations[language]
        }
        for abbreviation, name in meant.items():
            assert name_of(abbreviation, Usage(language)) == name
        assert {name_of(act.name, Usage("de")) for act in named} == {act.name for act in named}


@pytest.mark.parametrize(
    ("abbreviation", "language", "year", "name"),
    [
        ("LA", "fr", 1958, "MFG"),
        ("LA", "fr", 1975, "LFG"),
        ("LA", "fr", None, "LFG"),
        ("LPA", "fr", 1971, "VwVG"),
        ("LPA", "fr", 2010, "TSchG"),
        ("LPA", "it", 1990, "USG"),
        ("OM", "fr", 1966, "MO"),
        ("OCP", "fr", 1995, "VStGB"),
        ("LAMA", "fr", 2005, "KUVG"),
        ("CF", "it", None, "BV"),
    ],
)
def test_an_abbreviation_means_what_it_meant_at_its_time(
    abbreviation: str, language: str, year: int | None, name: str
) -> None:
    assert name_of(abbreviation, Usage(language, year)) == name


@pytest.mark.parametrize(
    ("cited", "status"),
    [
        ("Art. 41 Abs. 1 OR", "found"),
        ("Art. 41 OR", "found"),
        ("Art. 41 Abs. 2 OR", "partly"),
        ("Art. 41 Abs. 1 lit. a OR", "partly"),
        ("Art. 42 OR", "missing"),
        ("Art. 41 ZGB", "missing"),
        ("Art. 13 BV", "found"),
        ("Art. 12-14 BV", "found"),
        ("Art. 14-16 BV", "partly"),
        ("Art. 107 Abs. 2 OR", "found"),
        ("Art. 5 Abs. 3 ABC", "partly"),
        ("E. 2.1", "found"),
        ("E. 2", "found"),
        ("E. 2.1-2.2", "partly"),
        ("E. 2.7", "partly"),
        ("E. 7", "missing"),
        ("BGE 899 III 30", "found"),
        ("BGE 899 III 30 E. 2", "found"),
        ("BGE 899 III 30 E. 5", "partly"),
        ("BGE 899 III 31", "missing"),
        ("4A_999/2900", "found"),
        ("4A_998/2900", "missing"),
        ("SR 220", "found"),
    ],
)
def test_a_citation_is_found_in_part_or_not_at_all(cited: str, status: str) -> None:
    decision = (
        "Erwägungen 1. L'art. 41 al. 1 CO (RS 220), les art. 12 à 14 Cst. et l'art. 5 al. 3 XYZ. 2. En droit. "
        "2.1 La responsabilité selon l'art. 107 CO, dont l'art. 107 al. 2: ATF 899 III 30 consid. 2; 4A_999/2900."
    )
    assert [checked.status for checked in check(cited, decision, "de", "fr")] == [status]


@pytest.mark.parametrize(
    ("decision", "cited"),
    [
        ("Art. 439 ZGB erlaubt es, das Gericht anzurufen (Abs. 1 Ziff. 1), am 3. Mai.", "Art. 439 Abs. 1 Ziff. 1 ZGB"),
        ("Nach Art. 439 ZGB gilt das (Abs. 1), ferner in Abs. 2 lit. b mehr.", "Art. 439 Abs. 2 lit. b ZGB"),
        ("Art. 5 Abs. 1 BV verlangt dies (lit. a und lit. b).", "Art. 5 Abs. 1 lit. b BV"),
        ("Art. 5 Abs. 1 Satz 2 BV und dessen Abs. 3", "Art. 5 Abs. 3 BV"),
        ("Art. 8 EMRK erlaubt Eingriffe nach Abs. 2.", "Art. 8 Ziff. 2 EMRK"),
        ("L'art. 41 CO prévoit, selon l'al. 2 de cette disposition, que", "Art. 41 Abs. 2 OR"),
        ("L'art. 41 CO dispone nel cpv. 2 della stessa norma che", "Art. 41 Abs. 2 OR"),
    ],
)
def test_a_paragraph_without_its_article_belongs_to_the_one_before(decision: str, cited: str) -> None:
    assert [checked.status for checked in check(cited, decision, "de")] == ["found"]


@pytest.mark.parametrize(
    ("decision", "cited"),
    [
        ("Art. 439 ZGB. Art. 5 OR sagt es in Abs. 3.", "Art. 439 Abs. 3 ZGB"),
        ("Art. 5 OR; anders nach Ziff. 7 Abs. 4 des Vertrags", "Art. 5 Abs. 4 OR"),
        ("Art. 5 OR, dazu die Anklageschrift lit. b", "Art. 5 lit. b OR"),
        ("Art. 5 OR, anders auf S. 7, Abs. 2, ihres Entscheids", "Art. 5 Abs. 2 OR"),
        ("Art. 5 OR und nach Absatz 2 der Ziffer 7", "Art. 5 Abs. 2 OR"),
        ("Art. 5 OR und nach Abs. 2 des Reglements", "Art. 5 Abs. 2 OR"),
        ("Art. 5 OR gilt nach Abs. 4 von Art. 9 OR", "Art. 5 Abs. 4 OR"),
        ("l'art. 41 CO, dans le cas visé à l'al. 2 de l'art. 55 CO", "Art. 41 Abs. 2 OR"),
        ("l'art. 41 CO; selon l'alinéa 2 du règlement communal", "Art. 41 Abs. 2 OR"),
        ("Art. 8 und 9 BV kennen keinen Absatz (Abs. 5)", "Art. 8 Abs. 5 BV"),
        ("Art. 25-27 IPRG sind erfüllt (Abs. 2)", "Art. 26 Abs. 2 IPRG"),
        ("Art. 194 IPRG verweist auf Art. V Abs. 2 NYÜ", "Art. 194 Abs. 2 IPRG"),
        ("Nach Art. 146 StGB wird gemäss Abs. 2 mit 10 Jahren bestraft", "Art. 10 StGB"),
        ("Nach Art. 146 StGB wird gemäss Abs. 1 mit 3 Jahren bestraft", "Art. 146 Abs. 3 StGB"),
        ("Art. 41 OR " + "x" * 385 + " (Abs. 12 gilt)", "Art. 41 Abs. 1 OR"),
    ],
)
def test_a_paragraph_of_something_else_is_left_alone(decision: str, cited: str) -> None:
    assert [checked.status for checked in check(cited, decision, "de")] != ["found"]


def test_a_paragraph_without_its_article_is_shown_where_it_stands() -> None:
    decision = "Nach Art. 439 ZGB kann sie das Gericht anrufen (Abs. 1)."
    [(start, end)] = Cited(decision, "de").places(citations("Art. 439 Abs. 1 ZGB", "de")[0])
    assert decision[start:end] == "Abs. 1"


@pytest.mark.parametrize(
    ("cited", "status"),
    [
        ("Art. 8 LAN", "found"),
        ("Art. 8 LAN/TI", "found"),
        ("Art. 8 LAN/GR", "partly"),
        ("Art. 9 VRG/LU", "partly"),  # of which canton?
        ("Art. 10 KV/BE", "missing"),
    ],
)
def test_a_cantonal_act_may_go_without_its_canton(cited: str, status: str) -> None:
    decision = "Nach Art. 8 LAN/TI, Art. 9 VRG und Art. 10 KV."
    assert [checked.status for checked in check(cited, decision, "de", "de")] == [status]


@pytest.mark.parametrize(
    ("headnote", "status"),
    [
        ("Art. 3 Abs. 2 der Vereinbarung über die Fischerei vom 4. Juni 1987", "found"),
        ("art. 3 al. 2 de l'accord du 4 juin 1987 sur la pêche", "found"),
        ("art. 3 cpv. 2 dell'accordo del 4 giugno 1987 sulla pesca", "found"),
        ("Art. 3 Abs. 2 der Vereinbarung über die Fischerei", "partly"),  # of which act?
        ("Art. 3 Abs. 2 der Vereinbarung über die Jagd vom 5. Juni 1987", "partly"),
        ("Art. 4 der Vereinbarung über die Jagd vom 1. Juni 1990", "partly"),  # two acts of one day
        ("Art. 3 Abs. 2, da der Entscheid vom 4. Juni 1987 stammt", "partly"),  # not the title of an act
        ("Art. 6 Abs. 1 PSMV", "found"),
    ],
)
def test_an_act_without_abbreviation_is_known_by_its_date(headnote: str, status: str) -> None:
    decision = (
        "Die Vereinbarung vom 4. Juni 1987 über die Fischerei (PSMV) und Art. 3 Abs. 2 PSMV. Art. 6 Abs. 1 der "
        "Vereinbarung über die Fischerei vom 4. Juni 1987 sagt mehr. Verordnungen vom 1. Juni 1990 (JSV) und vom "
        "1. Juni 1990 (LSV) zu Art. 4 JSV."
    )
    language = "fr" if "al." in headnote else "it" if "cpv." in headnote else "de"
    assert [checked.status for checked in check(headnote, decision, language, "de")] == [status]


@pytest.mark.parametrize("first", ["1er", "1 er"])
def test_the_first_of_a_month_is_a_date_with_a_blank_too(first: str) -> None:
    decision = "Art. 2 PSMV; Vereinbarung vom 1. Juni 1990 über die Jagd (PSMV)."
    headnote = f"art. 2 de l'accord du {first} juin 1990 sur la chasse"
    assert [checked.status for checked in check(headnote, decision, "fr", "de")] == ["found"]


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


def test_the_parser_finds_what_a_lawyer_lists() -> None:
    """Labels by hand, 42 headnotes a language: what the text cites, in the German form.

    Listed once each; a range, `ff.` and `i.V.m.` as written. Not listed: a paragraph without its article, a directive.
    """
    headnotes = {(row["decision_id"], row["headnote_language"]): row["headnote"] for row in every_real_row()}
    right, named, listed = Counter[str](), Counter[str](), Counter[str]()
    for line in LABELS.read_text(encoding="utf-8").splitlines():
        label = json.loads(line)
        language = label["headnote_language"]
        parsed = set(texts(headnotes[label["decision_id"], language], language))
        right[language] += len(parsed & set(label["citations"]))
        named[language] += len(parsed)
        listed[language] += len(label["citations"])
    assert listed.total() > 700
    for language in LANGUAGES:
        assert right[language] / named[language] >= 0.97, f"precision in {language}"
        assert right[language] / listed[language] >= 0.97, f"recall in {language}"


def test_the_three_headnotes_of_a_decision_cite_the_same() -> None:
    cited: dict[str, set[frozenset[str]]] = defaultdict(set)
    for row in every_real_row():
        found = citations(row["headnote"], row["headnote_language"])
        cited[row["decision_id"]].add(frozenset(citation.key for citation in found))
    assert sum(len(versions) == 1 for versions in cited.values()) / len(cited) >= 0.95


def shares(rows: Iterable[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """Citations by kind and by what the decision has of them."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for checked in check(row["headnote"], row["decision"], row["headnote_language"], row["decision_language"]):
            counts[checked.citation.kind, checked.status] += 1
    return counts


@pytest.mark.parametrize("rows", ["splits", pytest.param("all", marks=pytest.mark.slow)])
def test_official_headnotes_cite_what_their_decisions_contain(rows: str) -> None:
    counts = shares(every_real_row() if rows == "all" else real_rows("train"))
    for kind, least in (("article", 0.90), ("consideration", 0.98)):
        total = sum(number for (other, _), number in counts.items() if other == kind)
        assert counts[kind, "missing"] / total <= 0.05
        assert counts[kind, "found"] / total >= least


@pytest.mark.parametrize("rows", ["splits", pytest.param("all", marks=pytest.mark.slow)])
def test_the_languages_of_real_texts_are_told_apart(rows: str) -> None:
    chosen = every_real_row() if rows == "all" else real_rows("test")
    parts = {(row[part], row[f"{part}_language"]) for row in chosen for part in ("headnote", "decision")}
    assert sum(detect_language(text) == language for text, language in parts) / len(parts) >= 0.995


def test_languages_are_told_apart() -> None:
    for row in sample_rows("train"):
        assert detect_language(row["headnote"]) == row["headnote_language"]
        assert detect_language(row["decision"]) == row["decision_language"]
    assert detect_language("Art. 1") is None


PIECES = (
    "Art.", "art.", "artt.", "§", "§§", "Anhang", "annexe", "Abs.", "al.", "cpv.", "lit.", "lett.", "Ziff.", "Satz",
    "zweiter Satz", "2e phrase", "seconda frase", "E.", "consid.", "BGE", "ATF", "899 III 30", "SR", "642.11", "n.",
    "ch.", "1", "2", "12", "41a", "8bis", "305 bis", "2.1", "12-14", "ff.", "ss", "f.", "a", "b", "e", "und", "et",
    ",", ";", "i.V.m.", "en relation avec l'", "-", "à", "bis", "OR", "CO", "BV", "Cst.", "Cst./GE", "BVV 2", "FZA",
    "EMRK", "XYZ", "SchlT ZGB", "disp. trans. CO", "VO 883/2004", "der", "de la", "dell'", "(", ")", "4A_999/2900",
    "U 123/05", "des", "BVGE", "2014/26", "TPF", "2014 12", "précité", "a.a.O.,", "vom 1.2.2900", "62ff.", "et ss",
    "1er",
)  # fmt: skip


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    citations(text)


@settings(max_examples=examples(400))
@given(st.lists(st.sampled_from(PIECES), max_size=20), st.sampled_from((" ", "")), st.sampled_from(LANGUAGES))
def test_the_form_of_a_citation_is_its_own_form(pieces: list[str], space: str, language: str) -> None:
    for citation in citations(space.join(pieces), language):
        assert citations(citation.text, "de") == [citation]


@settings(max_examples=100)
@given(st.lists(st.sampled_from(PIECES), max_size=20), st.lists(st.sampled_from(PIECES), max_size=20))
def test_any_citation_can_be_looked_up(headnote: list[str], decision: list[str]) -> None:
    for checked in check(" ".join(headnote), " ".join(headnote), "de", "de"):
        assert checked.status == "found" or checked.citation.kind == "consideration"
    check(" ".join(headnote), " ".join(decision))


@pytest.mark.parametrize(
    "piece",
    ["Art. ", "Art. 1 ", "Art. 1, ", "Art. 1 Abs. 2, 3 und ", "1, ", " ", "Art. 1 des ", "Art. 1 BV, 2, ",
     "E. 1.1", "E. 2, ", "BGE 1 I 1; ", "1.", "a", "Art. 1 der Verordnung ", "(", "§",
     "SchlT ÜBest ", "Anhang 1 ", "4A_1/2900 vom ", "E. 1 des a b ", "4A_1/2900 già oben ", "§ 1 und ", "  ", "\u00ad",
     "a\u0300", "\u0300", "a\u00ad", "BVGE 2014/1; "],
)  # fmt: skip
def test_reading_takes_time_in_proportion_to_the_text(piece: str) -> None:
    started = time.process_time()
    for start in ("", "Art. 1 ", "Art. 1 des ", "E. "):
        citations(start + piece * (100_000 // len(piece)))
    assert time.process_time() - started < 10  # seconds; without the bounds it would be minutes


def test_a_megabyte_made_to_be_slow_is_read_in_seconds() -> None:
    started = time.process_time()
    citations("Art. 1 Abs. 2, 3 und Art. 4 der Verordnung vom 1. " * 20_000)
    assert time.process_time() - started < 20


def places(headnote: str, decision: str) -> list[list[str]]:
    """The words of a decision that have each citation of a headnote."""
    cited = Cited(decision, "de")
    return [[decision[start:end] for start, end in cited.places(one)] for one in citations(headnote, "de")]


def test_spans_are_the_words_that_cite() -> None:
    text = "Siehe Art. 8, 9 und 29 Abs. 2 BV sowie BGE 148 III 30 E. 2.1 S. 33; 147 II 5 (E. 3.1 und 3.2)."
    found = spans(text, "de")
    words = ["Art. 8, 9 und 29 Abs. 2 BV", "BGE 148 III 30 E. 2.1 S. 33; 147 II 5", "E. 3.1 und 3.2"]
    assert [text[span.start : span.end] for span in found] == words
    assert [len(span.citations) for span in found] == [3, 2, 2]


BLANKS = ("\u00a0", "\u202f", "\u2007", "\u2009", "  ", "\u00a0 ", "\t", "\u200b ")
HYPHENS = ("\u2010", "\u2011", "\u2212")
UNSEEN = ("", "", "", "\u00ad", "\u200b", "\u200d", "\ufeff", "\u2060")
TYPED = (
    "Siehe Art. 8, 9 und 29 Abs. 2 BV sowie BGE 148 III 30 E. 2.1 S. 33; 147 II 5 (E. 3.1 und 3.2).",
    "Urteile D-2434/2007 vom 3. März 2008 E. 7 und U 123/05, Art. 5 LugÜ, Art. 8-10 BVV 2, Erwägung 4.",
    "l'art. 6 § 1 et l'art. 41 al. 1er CO, en relation avec l'art. 5 de la loi du 1er août 2000 (LCart); arrêt "
    "4A_999/2900 précité consid. 3 et 4, Considérant 5.",
)


@settings(max_examples=examples(400))
@given(st.sampled_from(TYPED), st.randoms(use_true_random=False), st.sampled_from(("NFC", "NFD")))
def test_a_text_cites_the_same_in_any_characters(typed: str, random: Random, form: Literal["NFC", "NFD"]) -> None:
    ways = {" ": (" ", *BLANKS), "-": ("-", *HYPHENS), "'": ("'", "’", "\u2018")}
    pieces = [random.choice(ways.get(sign, (sign,))) + random.choice(UNSEEN) for sign in typed]
    other = unicodedata.normalize(form, "".join(pieces))
    expected, found = spans(typed, "fr"), spans(other, "fr")
    assert [span.citations for span in found] == [span.citations for span in expected]
    for span, same in zip(expected, found, strict=True):
        assert words(other[same.start : same.end]) == words(typed[span.start : span.end])


def words(text: str) -> str:
    """The letters and digits of a text."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFC", text)))


def test_ligatures_and_raised_letters_are_letters() -> None:
    assert texts("Art. 62 \ufb00. OR, Zi\ufb00. 3, BGE 899 \u2162 30", "de") == ["Art. 62 ff. OR", "BGE 899 III 30"]
    assert texts("art. 41 al. 1\u1d49\u02b3 CO", "fr") == ["Art. 41 Abs. 1 OR"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_any_new_line_is_a_blank(newline: str) -> None:
    assert texts(f"BGE 899{newline}III{newline}30{newline}E. 2", "de") == ["BGE 899 III 30 E. 2"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_places_are_of_the_text_as_it_is(form: Literal["NFC", "NFD"]) -> None:
    decision = unicodedata.normalize(
        form,
        "Erwägungen:\u00a01.\u00a0Gemäss\u00ad Art.\u00a05\u202fLugÜ gilt dies für alle\u200b.  2.\u00a0Die Übrigen.",
    )
    cited = Cited(decision, "de")
    found = [decision[slice(*place)] for one in citations("Art. 5 LugÜ (E. 2)", "de") for place in cited.places(one)]
    assert found == [unicodedata.normalize(form, "Art.\u00a05\u202fLugÜ"), "2"]
    assert [status.status for status in check("(E. 2)", decision, "de", "de")] == ["found"]


DECISION = (
    "Erwägungen: 1. Nach Art. 41 Abs. 1 OR haftet, wer schädigt. Art. 41 Abs. 2 OR gilt nicht. 2. Es folgt mehr. "
    "2.1 Nach BGE 148 III 30 E. 4 ist es so. 2.2 Art. 41 Abs. 1 OR ist verletzt. 3. Zu Art. 97 OR ist nichts zu sagen."
)


@pytest.mark.parametrize(
    ("headnote", "expected"),
    [
        ("Art. 41 Abs. 1 OR", [["Art. 41 Abs. 1 OR"] * 2]),
        ("Art. 41 OR", [["Art. 41 Abs. 1 OR", "Art. 41 Abs. 2 OR", "Art. 41 Abs. 1 OR"]]),
        ("Art. 97 Abs. 2 OR", [["Art. 97 OR"]]),
        ("Art. 98 OR", [[]]),
        ("BGE 148 III 30", [["BGE 148 III 30 E. 4"]]),
        ("BGE 148 III 30 E. 5", [["BGE 148 III 30 E. 4"]]),
        ("BGE 148 III 31", [[]]),
        ("(E. 2.2)", [["2.2"]]),
        ("(E. 2-3)", [["2", "3"]]),
        ("(E. 2.5)", [["2"]]),
        ("(E. 4)", [[]]),
    ],
)
def test_places_are_where_the_decision_has_a_citation_or_a_part(headnote: str, expected: list[list[str]]) -> None:
    assert places(headnote, DECISION) == expected


def test_headings_are_the_numbers_that_grow_as_a_court_counts() -> None:
    text = (
        "Sachverhalt: Er zahlte Fr. 12. 50 waren offen. Erwägungen: 1. Eintreten. 2. 2.1 Der Kläger hat Recht. 2.2 Am "
        "Ende. 7 Tage sind um. 2.3.1 Das gilt. 2.3.2 Jenes auch. 99 Personen kamen. 4. Die Beschwerde ist begründet."
    )
    cited = Cited(text, "de")
    assert [number for number, _ in cited.counted] == ["1", "2", "2.1", "2.2", "2.3.1", "2.3.2", "4"]
    assert all(text.startswith(number, start) for number, start in cited.counted)
    assert Cited("Ohne jede Zahl.", "de").counted == []


@pytest.mark.parametrize(
    "noise",
    [
        "(MUSTER, Kommentar, 2. Aufl. 2900, N. 44 zu Art. 622 OR)", "(n° 44 ad art. 5 CO)", "BGE 899 III 30 S. 44 ff",
        "vgl. § 44 StG", "l'art. 44 CO", "wie in Rz. 44.1 Satz 1", "Fr. 44 Millionen", "am Ende: 44 Tage",
        "art. 7. Et", "N. 7. Das", "§ 7. Das", "Es gilt: 7. ss ad", "Frist: 7. Mai",
    ],
)  # fmt: skip
def test_a_number_of_something_else_heads_no_consideration(noise: str) -> None:
    decision = f"Erwägungen 5. Der Anfang. {noise}. 6. Das {noise} ist. 6.1 Ja. BGE 899 III 29 S. 44 6.2 So {noise}."
    assert {checked.status for checked in check("(E. 44, 44.1 und 7)", decision, "de", "de")} == {"missing"}
    assert [number for number, _ in Cited(decision, "de").counted] == ["5", "6", "6.1", "6.2"]


@pytest.mark.parametrize(
    "decision",
    [
        "Erwägungen 2. Das ist so. 2.3 Jenes auch. 4. Ende.",
        "Erwägungen\n\n2. Das ist so\n\n2.3 Jenes auch\n\n4. Ende",
        "Extrait des considérants: 2. ... a) Oui. 2.3 ... 4. ...",
        "Considérant en droit: 2. - Oui. 2.3. - Non. 4.- Fin.",
        "Erwägungen 2. (...) 2.3 Ja. 4. aa) Nein.",
    ],
)
def test_headings_stand_as_the_court_sets_them(decision: str) -> None:
    assert [number for number, _ in Cited(decision, "de").counted] == ["2", "2.3", "4"]


NOISE = st.builds(
    str.format,
    st.sampled_from(
        ("Art. {} Abs. 2 OR.", "(N. {} zu Art. 5 OR).", "BGE 899 III 30 S. {} f.", "§ {} StG.", "Rz. {}.2 f.",
         "E. 3.{} hiervor.", "Fr. {} Mio.", "Seit dem {}. Mai.", "n° {} ad art. 5 CO.", "BGE 899 III 30 S. {}", "Ende.")
    ),
    st.integers(1, 60),
)  # fmt: skip


@settings(max_examples=examples(200))
@given(st.lists(st.lists(NOISE, max_size=3), min_size=1, max_size=8), st.integers(1, 9), NOISE)
def test_only_the_considerations_that_a_decision_counts_are_found(
    parts: list[list[str]], first: int, facts: str
) -> None:
    text, own = f"Sachverhalt: {facts} Erwägungen ", set()
    for main, noise in enumerate(parts, start=first):
        text += f"{main}. Es ist so. "
        own |= {f"{main}", *(f"{main}.{part}" for part in range(1, len(noise) + 1))}
        text += "".join(f"{main}.{part} Dies {one} " for part, one in enumerate(noise, start=1))
    cited = Cited(text, "de")
    asked = [f"{main}{part}" for main in range(1, 61) for part in ("", ".1", ".2", ".3", ".4")]
    assert {number for number in asked if cited.status(citations(f"E. {number}", "de")[0]) == "found"} == own


def test_a_citation_has_places_unless_it_is_missing() -> None:
    rows = sample_rows("train")
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        for headnote in (row, other):
            cited = Cited(row["decision"], row["decision_language"])
            for one in citations(headnote["headnote"], headnote["headnote_language"]):
                assert (cited.status(one) == "missing") == (cited.places(one) == []), one


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("(consid. 3 a)", "fr", ["E. 3a"]),
        ("consid. 3 a été admis", "fr", ["E. 3"]),
        ("(consid. 2a et b, 9b, c)", "fr", ["E. 2a", "E. 2b", "E. 9b", "E. 9c"]),
        ("(consid. 3a-d; 2 a-c)", "fr", ["E. 3a-3d", "E. 2a-2c"]),
        ("(consid. 7 litt. g, h)", "fr", ["E. 7g", "E. 7h"]),
        ("(Erw. I/2; E. II/1 und 3)", "de", ["E. I/2", "E. II/1", "E. 3"]),
        ("(consid. 4 b aa et bb)", "fr", ["E. 4b/aa", "E. 4b/bb"]),
        ("consid. 2a e 3 o 4", "it", ["E. 2a", "E. 3", "E. 4"]),
        ("art. 55 al. 1 litt. b OJ", "fr", ["Art. 55 Abs. 1 lit. b OG"]),
        ("art. 66/67 PA", "fr", ["Art. 66 VwVG", "Art. 67 VwVG"]),
        ("art. 720 al. 2/725 al. 1 CCS", "fr", ["Art. 720 Abs. 2 ZGB", "Art. 725 Abs. 1 ZGB"]),
        ("art. 226 a al. 2 CO", "fr", ["Art. 226a Abs. 2 OR"]),
        ("art. 5 e 6 CO", "it", ["Art. 5 OR", "Art. 6 OR"]),
        ("art. 6 litt. B ch. 2 CUP", "fr", ["Art. 6 lit. B Ziff. 2 PVÜ"]),
        ("art. 39 al. 4 Cst. lucern. et art. 4 Cst.", "fr", ["Art. 39 Abs. 4 KV/LU", "Art. 4 BV"]),
        ("art. 5 Cst. cant.", "fr", ["Art. 5 KV"]),
        ("art. 662 cp. 1 e 12 num. 2 CCS", "it", ["Art. 662 Abs. 1 ZGB", "Art. 12 Ziff. 2 ZGB"]),
        ("art. 4 Ord. VIII", "fr", ["Art. 4 Vo VIII"]),
        ("art. 125 ch. 2, 2e al. CO", "fr", ["Art. 125 Ziff. 2 Abs. 2 OR"]),
        ("RO 899 I 227 consid. 3", "fr", ["BGE 899 I 227 E. 3"]),
        ("RU 899 I b 221 consid. 1", "it", ["BGE 899 Ib 221 E. 1"]),
        ("ATF 899 Ib 170/71 consid. 2a", "fr", ["BGE 899 Ib 170 E. 2a"]),
        ("ATF 899 Ia 285 consid. 2, 447 consid. 3", "fr", ["BGE 899 Ia 285 E. 2", "BGE 899 Ia 447 E. 3"]),
        ("EVGE 1963 S. 12 Erw. 2", "de", ["EVGE 1963 S. 12 E. 2"]),
        ("ATFA 1969 p. 151 consid. 5", "fr", ["EVGE 1969 S. 151 E. 5"]),
        ("Urteil vom 9. Oktober 1953 i.S. Muster Erw. 4", "de", []),
        ("arrêt P.1234/1986 consid. 2", "fr", ["P.1234/1986 E. 2"]),
        (
            "BGE 899 III 86 E. 3 f. und E. 4 i. V. m. E. 5 z. B. (E. 6 m. H.)",
            "de",
            ["BGE 899 III 86 E. 3 f.", "E. 4", "E. 5", "E. 6"],
        ),
        ("art. 9 Cost. generalmente; art. 29 Cst. valablement", "fr", ["Art. 9 BV", "Art. 29 BV"]),
        ("plädoyer S. 12/2010; RIW H. 3/2005", "de", []),
    ],
)
def test_older_forms_are_read(text: str, language: str, expected: list[str]) -> None:
    assert [citation.text for citation in citations(text, language)] == expected


def test_page_marks_inside_a_citation_are_passed_over() -> None:
    decision = (
        "Sachverhalt BGE 899 II 433 S. 434 A.- X. Aus den Erwägungen: 1. Nach Art. 48 BGE 899 II 433 S. 435 OR "
        "haftet er. 2. a) Vgl. BGE 898 II 12 S. 15. b) Es folgt BGE 899 II 433 S. 436 mehr."
    )
    cited = Cited(decision, "de")
    assert [citation.text for citation in cited.citations] == ["Art. 48 OR", "BGE 898 II 12 S. 15"]
    assert [number for number, _ in cited.counted] == ["1", "2", "2a", "2b"]


def test_a_cited_decision_is_no_page_mark() -> None:
    decision = "Erwägungen 1. Das Gericht hat in BGE 80 II 100 S. 101 entschieden, dass Art. 12 LA gilt."
    for year in (None, 2015):
        checked = check("BGE 80 II 100; art. 12 LA", decision, "fr", "fr", year)
        assert [(one.citation.text, one.status) for one in checked] == [
            ("BGE 80 II 100", "found"),
            ("Art. 12 LFG", "found"),
        ]


def test_the_year_of_a_decision_is_that_of_its_volume() -> None:
    marks = "BGE 84 II 292 S. 293 Considérant en droit: 1. Selon l'art. 41 LA BGE 84 II 292 S. 294, il répond."
    assert [citation.text for citation in Cited(marks, "fr").citations] == ["Art. 41 MFG"]
    assert [checked.status for checked in check("Art. 41 LA.", marks, "fr", "fr")] == ["found"]


@pytest.mark.parametrize(
    ("decision", "numbers"),
    [
        (
            "A.- Der Streit. Das Bundesgericht zieht in Erwägung: 1.- Eins. 2.- a) Zwei. b) Drei.",
            ["1", "2", "2a", "2b"],
        ),
        (
            "Résumé des faits: A. Extrait des motifs: 3. a) aa) Un. bb) Deux. b) Trois.",
            ["3", "3a", "3a/aa", "3a/bb", "3b"],
        ),
        ("Fatti: A. Considerato in diritto: 1./2.- Primo. 3. - Secondo.", ["1-2", "3"]),
        ("Sachverhalt ab Seite 11 A.- X. Erwägungen ab Seite 12 1.-3.- Eins. 4.- Zwei.", ["1-3", "4"]),
        (
            "Erwägungen: I. Eintreten 1. Eins. 2. Zwei. II. Sache 1. Drei. 2. Vier.",
            ["I", "I/1", "I/2", "II", "II/1", "II/2"],
        ),
        ("Dai motivi: 2.2 Titolo senza punto 2.2.1 Uno. 2.2.2 Due.", ["2.2", "2.2.1", "2.2.2"]),
        ("Aus den Erwägungen: Die Klage ist alt. Sie ist unbegründet.", [""]),
        ("Im Brief stand: 1. Eins; a) Zwei; b) Drei.", []),
    ],
)
def test_old_and_new_headings_give_the_same_structure(decision: str, numbers: list[str]) -> None:
    from headnote_cli.law.document import structure

    read = structure(decision)
    assert [part.number for part in read.considerations if read.law is not None] == numbers


@pytest.mark.parametrize(
    ("cited", "status"),
    [("E. 3b/aa", "found"), ("E. 3b/cc", "partly"), ("E. 3c", "partly"), ("E. 4", "missing"), ("E. 3", "found")],
)
def test_a_lettered_consideration_is_found_only_where_it_is(cited: str, status: str) -> None:
    decision = "Erwägungen: 3. a) Eins. b) aa) Zwei. bb) Drei. Er sagte: a) dies, c) das."
    assert [checked.status for checked in check(f"({cited})", decision, "de", "de")] == [status]
