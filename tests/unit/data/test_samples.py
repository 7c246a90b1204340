"""The shipped decisions: SLDS's fields, marked as fictional, no decision in two splits."""

from __future__ import annotations

from tests.conftest import sample_rows

FIELDS = {
    "sample_id": int, "decision_id": str, "decision": str, "decision_language": str, "headnote": str,
    "headnote_language": str, "law_area": str, "year": int, "volume": str, "url": str,
}  # fmt: skip
MARKS = {"de": "FIKTIVES URTEIL", "fr": "ARRÊT FICTIF", "it": "SENTENZA FITTIZIA"}
SPLITS = {split: sample_rows(split) for split in ("train", "validation", "test")}
ROWS = [row for rows in SPLITS.values() for row in rows]


def test_rows_have_sldss_fields_and_types() -> None:
    for row in ROWS:
        assert {name: type(value) for name, value in row.items()} == FIELDS


def test_every_decision_is_marked_as_fictional() -> None:
    for row in ROWS:
        assert row["decision"].startswith(MARKS[row["decision_language"]])
        assert row["url"].startswith("https://example.org/")
        assert row["year"] > 2900


def test_every_decision_has_the_three_headnotes_and_one_split() -> None:
    for rows in SPLITS.values():
        for decision in {row["decision_id"] for row in rows}:
            assert [row["headnote_language"] for row in rows if row["decision_id"] == decision] == ["de", "fr", "it"]
    decisions = [{row["decision_id"] for row in rows} for rows in SPLITS.values()]
    assert sum(map(len, decisions)) == len(set.union(*decisions)) >= 12
    assert len({row["sample_id"] for row in ROWS}) == len(ROWS)


def test_decisions_have_the_length_and_the_oddities_of_real_ones() -> None:
    assert all(250 <= len(row["decision"].split()) <= 700 for row in ROWS)
    text = " ".join(row["decision"] + row["headnote"] for row in ROWS)
    for oddity in ("[recte:", "«", "ü", "E. 3.2", "consid. 4a", "1'250.-"):
        assert oddity in text
    assert {row["decision_language"] for row in ROWS} == {"de", "fr", "it"}
