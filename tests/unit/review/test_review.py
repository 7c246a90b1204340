"""The review page's data: what is embedded, where it links to, and that no text can leave its place."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headnote_cli.errors import DataError
from headnote_cli.generation.predictions import Pair
from headnote_cli.review.page import FOLDER, SCRIPT, TEMPLATE, TEXTS, build, embedded, overlap, page_data
from tests.conftest import examples, sample_rows

DECISION = (
    "Sachverhalt: Ein Fall. A.a Einer klagt. B. AG und C. haften. B. Er verliert. Erwägungen: "
    "1. Nach Art. 41 Abs. 1 OR haftet, wer schädigt. 2. "
    "2.1 Nach BGE 148 III 30 E. 4 ist es so. 2.2 Art. 41 Abs. 1 OR ist verletzt. 3. Ende."
)
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!-- <script> <![CDATA[ ]]> -->",
    "{{ 7*7 }} {% raw %} {# #}",
    "&lt;b&gt; &amp; \u2028 \u2029",
    "\u202egnol\u202c \u2066x\u2069 \u200f",
    "\x00\x07\x1b[31m\x85\r\n\t",
    "halves \ud800 and \udfff, noncharacters \ufffe\uffff, astral \U0001f600",
]


def pair(written: str = "Art. 41 Abs. 1 OR (E. 2.2).", decision: str = DECISION, **row: Any) -> Pair:
    prediction = {"sample_id": row.get("sample_id", "a"), "lang": "de", "headnote": written}
    own = {"sample_id": "a", "decision": decision, "decision_language": "de", "headnote": "Art. 1 ZGB."}
    return Pair(prediction, own | row)


def shown(pairs: list[Pair]) -> Any:
    """The data as a browser reads it out of the page."""
    html, _ = build(pairs, "decision", "p.jsonl", "0" * 64)
    (block,) = DATA.findall(html)
    return json.loads(block)


def joined(segments: list[Any]) -> str:
    return "".join(one if isinstance(one, str) else one["text"] for one in segments)


def decision_of(data: Any, number: int = 0) -> str:
    return "".join(map(joined, data["decisions"][number]["paragraphs"]))


def test_each_citation_knows_its_status_and_its_places() -> None:
    data = page_data([pair("Art. 41 Abs. 1 OR; Art. 9 BV (E. 2.2 und 7); BGE 148 III 30.")], "decision")
    (item,) = data["items"]
    cited = [one for one in item["headnote"] if not isinstance(one, str)]
    assert [(one["text"], one["status"]) for one in cited] == [
        ("Art. 41 Abs. 1 OR", "found"),
        ("Art. 9 BV", "missing"),
        ("E. 2.2", "found"),
        ("7", "missing"),
        ("BGE 148 III 30", "found"),
    ]
    assert [one["name"] for one in cited[2:4]] == ["E. 2.2", "E. 7"]
    marks = {
        one["mark"]: one["text"]
        for paragraph in data["decisions"][0]["paragraphs"]
        for one in paragraph
        if not isinstance(one, str)
    }
    places = [[marks[number] for number in one["places"]] for one in cited]
    assert places == [["Art. 41 Abs. 1 OR"] * 2, [], ["2.2"], [], ["BGE 148 III 30 E. 4"]]


def test_a_list_that_cannot_be_cut_has_its_worst_status() -> None:
    (item,) = page_data([pair("Vgl. BGE 148 III 30, 147 II 999.")], "decision")["items"]
    (cited,) = [one for one in item["headnote"] if not isinstance(one, str)]
    assert (cited["text"], cited["status"]) == ("BGE 148 III 30, 147 II 999", "missing")
    assert cited["places"], "those that are there are linked all the same"


@pytest.mark.parametrize("heading", ["Erwägungen:", "Das Bundesgericht zieht in Erwägung:", "Considérant en droit:"])
def test_the_law_is_headed_where_it_begins(heading: str) -> None:
    decision = f"Sachverhalt: A. Sie klagte und verlor. {heading} 1. Nach Art. 41 OR haftet er. 2. Ende."
    (own,) = page_data([pair("Haftung.", decision)], "decision")["decisions"]
    assert joined(own["paragraphs"][own["law"]]).startswith(heading)


def test_the_first_candidates_of_files_are_compared() -> None:
    one, other = pair(), pair("Art. 9 BV.")
    other.prediction["candidate"] = 3
    pairs = [replace(one, file="a.jsonl"), replace(other, file="b.jsonl")]
    html, _ = build(pairs, "decision", "a · b", "0", blind=1)
    (block,) = DATA.findall(html)
    items = json.loads(block)["items"]
    assert {item["row"] for item in items} == {0}
    assert [item["letter"] for item in items] == ["A", "B"]
    assert "<title>Review of headnotes</title>" in html


def test_what_only_the_official_headnote_cites_is_no_invention() -> None:
    (item,) = page_data([pair("Art. 9 BV; Art. 1 ZGB; Art. 2 ZGB.")], "decision")["items"]
    assert item["citations"] == {"Art. 9 BV": "missing", "Art. 1 ZGB": "official", "Art. 2 ZGB": "missing"}


def test_each_sentence_is_shown_with_the_considerations_that_support_it() -> None:
    data = page_data([pair("Nach Art. 41 Abs. 1 OR haftet, wer Schaden verursacht (E. 3).")], "decision")
    (one,) = data["items"][0]["evidence"]
    assert one["places"][0]["name"] in ("1", "2.1", "2.2")
    marks = {piece["mark"]: piece["text"] for paragraph in data["decisions"][0]["paragraphs"] for piece in paragraph
             if isinstance(piece, dict)}  # fmt: skip
    for place in one["places"]:
        assert [marks[number] for number in place["places"]] == [place["name"]]


def test_pages_turn_beside_the_text_and_never_within_a_citation() -> None:
    decision = "Erwägungen: 1. Nach Art. 41 BGE 148 III 30 S. 31 Abs. 1 OR haftet er. BGE 148 III 30 S. 32 2. Ende."
    (own,) = page_data([pair("Art. 41 Abs. 1 OR.", decision, year=2022)], "decision")["decisions"]
    pieces = [piece for paragraph in own["paragraphs"] for piece in paragraph if isinstance(piece, dict)]
    assert [piece["text"] for piece in pieces if piece.get("page")] == ["BGE 148 III 30 S. 31", "BGE 148 III 30 S. 32"]
    assert any(piece["text"].split() == ["Art.", "41", "Abs.", "1", "OR"] for piece in pieces)


def test_the_considerations_are_headed_and_the_courts_page_is_linked() -> None:
    (own,) = page_data([pair(url="https://www.bger.ch/x?a=1&b=2")], "decision")["decisions"]
    assert joined(own["paragraphs"][own["law"]]).startswith("Erwägungen")
    assert own["url"] == "https://www.bger.ch/x?a=1&b=2"
    for odd in ("javascript:alert(1)", "http://x.ch", "https://x.ch/ y", 7, None):
        assert page_data([pair(url=odd)], "decision")["decisions"][0]["url"] is None


def test_a_decision_is_in_paragraphs_that_begin_where_the_court_counts() -> None:
    data = page_data([pair()], "decision")
    begins = [joined(paragraph)[:12] for paragraph in data["decisions"][0]["paragraphs"]]
    assert begins == [
        "Sachverhalt:", "A.a Einer kl", "B. Er verlie", "Erwägungen: ", "1. Nach Art.",
        "2. 2.1 Nach ", "2.2 Art. 41 ", "3. Ende.",
    ]  # fmt: skip


def test_a_decision_that_rows_share_is_there_once() -> None:
    pairs = [pair(sample_id=name) for name in "abc"] + [pair(decision=DECISION + " 4. Noch mehr.", sample_id="d")]
    data = shown(pairs)
    assert [item["decision"] for item in data["items"]] == [0, 0, 0, 1]
    assert len(data["decisions"]) == 2


def test_rouge_is_taken_where_every_line_brings_it_and_else_the_overlap_is_named() -> None:
    one, other = pair(), pair(sample_id="b")
    one.prediction["scores"] = {"rougeL": 0.25}
    assert page_data([one, other], "decision")["score"] == "word overlap (F1)"
    other.prediction["scores"] = {"rougeL": 0.5}
    data = page_data([one, other], "decision")
    assert (data["score"], [item["score"] for item in data["items"]]) == ("ROUGE-L", [0.25, 0.5])


@pytest.mark.parametrize("odd", [None, 7, "x", [], {"rougeL": float("nan"), "cut": [1], "detected": {}}])
def test_fields_of_other_tools_do_no_harm(odd: Any) -> None:
    one = pair(year=odd, law_area=odd, headnote=odd, decision_language=odd)
    one.prediction.update(scores=odd, tokens=odd, language=odd, finish_reason=odd, citations=odd)
    (item,) = shown([one])["items"]
    assert item["tokens"] == {}
    assert item["detected"] == "de", "what the file does not say soundly is read from the text"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("Ein Wort", "ein wort", 100.0), ("a a b", "a c", 40.0), ("a", "b", 0.0), ("", "", 0.0), ("x", "", 0.0)],
)
def test_overlap_is_the_f1_of_the_words(one: str, other: str, expected: float) -> None:
    assert overlap(one, other) == expected


def test_a_row_without_a_reference_is_shown_without_one() -> None:
    one = pair().prediction | {"lang": "??"}
    (item,) = page_data([Pair(one, {"decision": DECISION})], "decision")["items"]
    assert item["reference"] == []
    assert item["score"] is None


def test_a_row_without_a_decision_is_named() -> None:
    with pytest.raises(DataError, match="the row of sample a: has no text in `facts`"):
        build([pair()], "facts", "p.jsonl", "0")


def test_the_policy_names_the_very_style_and_script_of_the_page() -> None:
    html, _ = build([pair()], "decision", "<p> & co.jsonl", "0")
    assert "<title>Review of &lt;p&gt; &amp; co.jsonl</title>" in html
    for tag in ("style", "script"):
        (source,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in html or f"{tag}-src 'sha256-{digest}'" in html
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|\bsrc=|@import|url\(", html.replace(DATA.findall(html)[0], ""))


def test_the_page_says_everything_in_each_language() -> None:
    with (FOLDER / TEXTS).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sources = "".join((FOLDER / name).read_text(encoding="utf-8") for name in (SCRIPT, TEMPLATE))
    quoted = set(re.findall(r"[\"'`]([A-Za-z_]+)[\"'`]", sources))
    made = {f"{noun}_{number}" for noun in ("headnote", "decision", "token") for number in ("one", "other")}
    made |= {f"{menu}_{name}" for menu in ("look", "order") for name in quoted}
    keys = [row["key"] for row in rows]
    assert len(keys) == len(set(keys))
    assert set(keys) <= quoted | made, "each is used"
    used = {*re.findall(r'text\("(\w+)"', sources), *re.findall(r'data-(?:text|label)="(\w+)"', sources)}
    assert used <= set(keys), "each is there"
    for row in rows:
        for language in ("de", "fr", "it"):
            assert row[language].strip()
            assert re.findall(r"{\w+}", row[language]) == re.findall(r"{\w+}", row["en"]), row["key"]


def test_the_script_makes_no_markup_out_of_text() -> None:
    source = (FOLDER / SCRIPT).read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|fetch\(", source)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    data = shown([pair(text, f"Erwägungen: 1. {text}", headnote=text, decision_id=text)])
    assert joined(data["items"][0]["headnote"]) == joined(data["items"][0]["reference"]) == text
    assert data["items"][0]["name"] == (text if text.strip() else "a")
    assert decision_of(data) == f"Erwägungen: 1. {text}"


TEXT = st.text(st.characters(), max_size=80) | st.sampled_from(HOSTILE)
LEGAL = st.lists(
    TEXT | st.sampled_from(["Art. 41 Abs. 1 OR", "2.1 Der", ". 3. Die", "E. 2.1", "BGE 148 III 30", "Erwägungen: 1. "]),
    max_size=8,
).map(" ".join)


@settings(max_examples=examples(400))
@given(LEGAL, LEGAL, LEGAL)
def test_any_text_comes_back_out_of_the_page(headnote: str, reference: str, decision: str) -> None:
    decision += "."
    html, _ = build([pair(headnote, decision, headnote=reference)], "decision", "\udcff.jsonl", "0")
    (block,) = DATA.findall(html)
    assert not re.search("[<>&\u2028\u2029\u202a-\u202e\u2066-\u2069]", block)
    data = json.loads(block)
    assert joined(data["items"][0]["headnote"]) == headnote
    assert joined(data["items"][0]["reference"]) == reference
    assert decision_of(data) == decision
    html.encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=examples(400))
@given(JSON)
def test_any_value_survives_its_embedding(value: Any) -> None:
    text = embedded(value)
    assert json.loads(text) == value
    assert "<" not in text
    text.encode()


def test_the_samples_link_each_citation_that_is_not_missing() -> None:
    rows = sample_rows("test")
    pairs = [
        Pair({"sample_id": row["sample_id"], "lang": row["headnote_language"], "headnote": row["headnote"]}, row)
        for row in rows
    ]
    data = shown(pairs)
    for item, row in zip(data["items"], rows, strict=True):
        assert joined(item["headnote"]) == joined(item["reference"]) == row["headnote"]
        assert decision_of(data, item["decision"]) == row["decision"]
        for one in (one for one in item["headnote"] if not isinstance(one, str)):
            assert bool(one["places"]) == (one["status"] not in ("missing", "official"))
