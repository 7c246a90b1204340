"""Marks that come back from reviewers: read, compared, and refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import krippendorff
import pytest

from headnote_cli.errors import DataError
from headnote_cli.review.marks import Mark, MarkName, Reviewer, agreement, read_marks
from headnote_cli.runs.files import sha256


def reviewer(name: str, marks: str) -> Reviewer:
    """Marks by their first letters; a blank is none."""
    names: dict[str, MarkName] = {"g": "good", "w": "wrong", "u": "unsure"}
    return Reviewer(name, {(str(at), "de", 1): Mark(names[one], "") for at, one in enumerate(marks) if one != " "})


def test_cohens_kappa_of_a_table_from_the_literature() -> None:
    """20 both good, 15 both wrong, 5 and 10 apart: κ is 0.40 (Cohen's own form of the example of 50 applications)."""
    found = agreement([reviewer("a", "g" * 25 + "w" * 25), reviewer("b", "g" * 20 + "w" * 5 + "g" * 10 + "w" * 15)])
    assert found is not None
    assert (found.headnotes, found.percent, found.alpha) == (50, 70.0, None)
    assert found.kappa == pytest.approx(0.4)


def test_alpha_of_three_is_the_librarys_and_counts_what_at_least_two_marked() -> None:
    three = [reviewer("a", "gwg u"), reviewer("b", "gwu  "), reviewer("c", "gww  ")]
    found = agreement(three)
    assert found is not None
    assert (found.headnotes, found.kappa) == (3, None)
    assert found.percent == pytest.approx(100 * 6 / 9)
    expected = krippendorff.alpha([[0, 1, 0], [0, 1, 2], [0, 1, 1]], level_of_measurement="nominal")
    assert found.alpha == pytest.approx(float(expected))


def test_where_nothing_can_be_compared_nothing_is_said() -> None:
    assert agreement([reviewer("a", "g"), reviewer("b", " w")]) is None
    assert agreement([]) is None
    same = agreement([reviewer("a", "gg"), reviewer("b", "gg")])
    assert same is not None
    assert (same.percent, same.kappa) == (100.0, None), "κ is not defined where all marks are equal"


def write(folder: Path, **change: Any) -> tuple[Path, list[str], str]:
    predictions = folder / "p.jsonl"
    predictions.write_text("{}\n", encoding="utf-8")
    marks = [{"sample_id": 7, "lang": "de", "candidate": 1, "mark": "good", "comment": "c"}]
    value = {"predictions": "p.jsonl", "sha256": sha256(predictions), "reviewer": "Anna", "marks": marks} | change
    path = folder / "a.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path, [predictions.name], sha256(predictions)


def test_marks_are_read(tmp_path: Path) -> None:
    read = read_marks(*write(tmp_path))
    assert read == Reviewer("Anna", {("7", "de", 1): Mark("good", "c")})
    assert read_marks(*write(tmp_path, reviewer=" ")).name == "a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0"}, "has marks of other predictions than p.jsonl"),
        ({"marks": 7}, "has no list of `marks`"),
        ({"marks": [{"lang": "de"}]}, "mark 1: names no `sample_id` and `lang`"),
        ({"marks": [{"sample_id": "a", "lang": "de", "mark": "fine"}]}, "mark 1: `mark` is 'fine'"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_marks(*write(tmp_path, **change))


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    path, names, digest = write(tmp_path)
    path.write_text("reviewer;mark", encoding="utf-8")
    with pytest.raises(DataError, match="is no JSON"):
        read_marks(path, names, digest)
