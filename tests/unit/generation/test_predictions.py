"""Predictions are read with their faults named, and each finds its row or is counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headnote_cli.errors import DataError, UsageError
from headnote_cli.generation.predictions import (
    Joined,
    join,
    key_of,
    read_predictions,
    sample_name,
    settings_of,
    written_with,
)
from tests.conftest import examples


def prediction(sample_id: Any = "a", lang: str = "de", headnote: str = "Art. 1 OR.", **more: Any) -> dict[str, Any]:
    return {"sample_id": sample_id, "lang": lang, "headnote": headnote} | more


def failure(sample_id: Any = "a", lang: str = "de", **more: Any) -> dict[str, Any]:
    return {"sample_id": sample_id, "lang": lang, "error": {"type": "DataError", "message": "too long"}} | more


def row(sample_id: Any = "a", language: str | None = "de", **more: Any) -> dict[str, Any]:
    named = {} if language is None else {"headnote_language": language}
    return {"sample_id": sample_id, "decision": "Text.", "headnote": "Regeste."} | named | more


def write(file: Path, *lines: str) -> Path:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def test_a_servers_address_is_no_way_of_writing(tmp_path: Path) -> None:
    def noted(name: str, **settings: Any) -> dict[str, Any]:
        file = tmp_path / name
        settings_of(file).write_text(json.dumps({"model": "base", "candidates": 1} | settings), encoding="utf-8")
        return written_with(file)

    first = noted("a.jsonl", server={"address": "http://localhost:8000/v1", "model": "m"})
    assert first == noted("b.jsonl", server={"address": "http://localhost:8001/v1", "model": None})
    assert first == noted("c.jsonl", served_model="m")
    assert noted("d.jsonl", server=None) == noted("e.jsonl", served_model=None) != first


def test_lines_are_read_as_they_stand(tmp_path: Path) -> None:
    lines = [prediction(1, candidate=2, scores={"rougeL": 0.5}), failure("ä")]
    file = write(tmp_path / "p.jsonl", *map(json.dumps, lines))
    assert read_predictions(file) == lines
    packed = tmp_path / "p.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert read_predictions(packed) == lines


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[1]", "a row is a JSON object"),
        ("{", "not valid JSON"),
        ('{"lang": "de", "headnote": "x"}', "has no `sample_id`"),
        ('{"sample_id": null, "lang": "de", "headnote": "x"}', "has no `sample_id`"),
        ('{"sample_id": true, "lang": "de", "headnote": "x"}', "has no `sample_id`"),
        ('{"sample_id": "a", "headnote": "x"}', "has no `lang`"),
        ('{"sample_id": "a", "lang": "", "headnote": "x"}', "has no `lang`"),
        ('{"sample_id": "a", "lang": "de"}', "neither a `headnote` nor an `error`"),
        ('{"sample_id": "a", "lang": "de", "headnote": 3}', "neither a `headnote` nor an `error`"),
        ('{"sample_id": "a", "lang": "de", "headnote": "x", "candidate": "two"}', "`candidate` is not a whole number"),
    ],
)
def test_a_line_with_a_fault_is_named(line: str, told: str, tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", json.dumps(prediction()), line)
    with pytest.raises(DataError, match=r"p\.jsonl:2") as raised:
        read_predictions(file)
    assert told in str(raised.value)


def test_a_file_that_is_not_there_or_empty_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        read_predictions(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no rows"):
        read_predictions(write(tmp_path / "empty.jsonl"))


def test_a_prediction_finds_the_row_of_its_sample_and_language() -> None:
    rows = [row("a", "de"), row("a", "fr"), row("b", "it")]
    joined = join([prediction("b", "it"), prediction("a", "fr")], rows)
    assert [pair.row for pair in joined.pairs] == [rows[2], rows[1]]
    assert joined.extra == [rows[0]]
    assert joined.missing == joined.duplicates == joined.failed == []


def test_numbers_and_text_name_the_same_sample() -> None:
    assert len(join([prediction("7")], [row(7)]).pairs) == len(join([prediction(7)], [row("7")]).pairs) == 1


def test_a_row_without_a_language_takes_any() -> None:
    joined = join([prediction("a", "de"), prediction("a", "it")], [row("a", None)])
    assert len(joined.pairs) == 2
    assert joined.extra == []


def test_another_language_is_no_partner() -> None:
    joined = join([prediction("a", "fr")], [row("a", "de")])
    assert joined.pairs == []
    assert len(joined.missing) == len(joined.extra) == 1


def test_rows_without_a_sample_id_have_the_name_that_generate_gives_them() -> None:
    rows = [{"decision": "x"}, {"decision_id": "D1", "decision": "y"}]
    assert [sample_name(one, place) for place, one in enumerate(rows)] == ["0", "D1"]
    assert [pair.row for pair in join([prediction("D1"), prediction("0")], rows).pairs] == rows[::-1]


def test_candidates_are_no_duplicates_and_the_first_headnote_counts() -> None:
    lines = [failure(), prediction(headnote="first"), prediction(headnote="again"), prediction(candidate=2)]
    joined = join(lines, [row()])
    assert [pair.prediction for pair in joined.pairs] == [lines[1], lines[3]]
    assert joined.duplicates == [lines[2], lines[0]]
    assert joined.failed == []


def test_a_row_whose_prediction_failed_is_not_one_that_nobody_tried() -> None:
    joined = join([failure()], [row()])
    assert len(joined.failed) == 1
    assert joined.pairs == joined.extra == joined.missing == []


def test_two_rows_of_one_sample_and_language_are_refused() -> None:
    with pytest.raises(DataError, match="row 2: the sample a in de appears twice"):
        join([], [row(), row()])


def test_notes_count_what_has_no_partner() -> None:
    joined = join([prediction("x"), failure("a"), failure("a"), failure("c")], [row("a"), row("b"), row("d")])
    assert joined.notes() == [
        "1 prediction without a row of the same sample and language, left out",
        "1 prediction of a sample, language and candidate that came before, left out",
        "2 predictions with an error instead of a headnote, left out",
        "2 rows without a prediction",
    ]
    assert Joined().notes() == []


SAMPLES = st.sampled_from(["a", "b", "1", 1])
LANGUAGES = st.sampled_from(["de", "fr"])
LINES = st.builds(prediction, SAMPLES, LANGUAGES, candidate=st.integers(1, 2)) | st.builds(failure, SAMPLES, LANGUAGES)


@settings(max_examples=examples(300))
@given(st.lists(LINES), st.lists(st.tuples(st.sampled_from(["a", "b", "1"]), LANGUAGES | st.none()), unique=True))
def test_any_prediction_and_any_row_is_counted_once(lines: list[dict[str, Any]], named: list[Any]) -> None:
    rows = [row(*one) for one in named]
    joined = join(lines, rows)
    parts = [pair.prediction for pair in joined.pairs] + joined.missing + joined.duplicates + joined.failed
    assert sorted(map(id, parts)) == sorted(map(id, lines))
    kept = [key_of(one) for one in parts if not any(one is other for other in joined.duplicates)]
    assert len(kept) == len(set(kept)) == len({key_of(one) for one in lines})
    assert not {id(pair.row) for pair in joined.pairs} & set(map(id, joined.extra))
    for pair in joined.pairs:
        assert str(pair.prediction["sample_id"]) == str(pair.row["sample_id"])
        assert pair.row.get("headnote_language") in (None, pair.prediction["lang"])
