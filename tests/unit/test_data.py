"""Rows from every kind of file, and the messages where they cannot be had."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headnote_cli.config import load_config
from headnote_cli.data import SUFFIXES, Rows, _Source, _split_off, decision_id, leaks, load_split, stream_rows
from headnote_cli.errors import DataError, SldsError, UnreachableError
from tests.conftest import examples

ROWS = [{"decision": f"Erwägung {n}", "headnote": f"«{n}»"} for n in range(40)]


@pytest.fixture
def split_of(write_config: Callable[..., Path]) -> Callable[..., Rows]:
    def load(split: str, **keys: Any) -> Rows:
        return load_split(load_config(write_config(**keys)), split)

    return load


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows in the kind of file that the name says."""
    if file.name.endswith(".jsonl"):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif file.name.endswith(".jsonl.gz"):
        file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif file.name.endswith(".json"):
        file.write_text(json.dumps(rows), encoding="utf-8")
    elif file.name.endswith(".csv"):
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet"])
def test_a_folder_of_files_named_by_split(tmp_path: Path, split_of: Callable[..., Rows], suffix: str) -> None:
    for name in ("train", "validation"):
        write_rows(tmp_path / f"{name}{suffix}", ROWS[:7])
    assert split_of("train", dataset_name=str(tmp_path)).rows == ROWS[:7]
    assert split_of("eval", dataset_name=str(tmp_path), dataset_eval_split="validation").rows == ROWS[:7]


def test_a_saved_data_set(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:3])}).save_to_disk(
        tmp_path / "saved"
    )
    assert split_of("train", dataset_name=str(tmp_path / "saved"), dataset_eval_split="test").rows == ROWS


def test_a_lone_file_is_split_by_the_workshops_rule(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    name = str(tmp_path / "rows.jsonl")
    parts = [split_of(role, dataset_name=name).rows for role in ("eval", "test")]
    assert [len(part) for part in parts] == [2, 2]
    assert split_of("eval", dataset_name=name).rows == parts[0], "seeded: the same rows each time"
    assert "2 of 40 rows" in split_of("eval", dataset_name=name).notes[-1]


def test_no_row_is_in_two_of_the_splits_that_were_split_off(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    write_rows(tmp_path / "train.jsonl", ROWS)
    parts = [split_of(role, dataset_name=str(tmp_path)).rows for role in ("train", "eval", "test")]
    texts = [row["decision"] for part in parts for row in part]
    assert sorted(texts) == sorted(row["decision"] for row in ROWS)


def test_a_subset_is_a_folder_or_a_language_pair(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    pairs = [
        {"decision_language": a, "headnote_language": b, "headnote": a + b} for a in ("de", "fr") for b in ("de", "it")
    ]
    write_rows(tmp_path / "train.jsonl", pairs)
    assert [row["headnote"] for row in split_of("train", dataset_name=str(tmp_path), dataset_subset="fr_de").rows] == [
        "frde"
    ]
    assert len(split_of("train", dataset_name=str(tmp_path), dataset_subset="*_de").rows) == 2
    (tmp_path / "it_it").mkdir()
    write_rows(tmp_path / "it_it" / "train.jsonl", ROWS[:2])
    assert split_of("train", dataset_name=str(tmp_path), dataset_subset="it_it").rows == ROWS[:2]
    with pytest.raises(UnreachableError) as caught:
        split_of("train", dataset_name=str(tmp_path), dataset_subset="it_fr")
    assert caught.value.hint == "language pairs found: de_de, de_it, fr_de, fr_it"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": \n', "2: not valid JSON"),
        ("[1]\n", "1: a row is a JSON object"),
        ("", "holds no rows"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(
    tmp_path: Path, split_of: Callable[..., Rows], content: str, message: str
) -> None:
    (tmp_path / "train.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        _ = split_of("train", dataset_name=str(tmp_path)).rows
    assert message in str(caught.value)


@pytest.mark.parametrize("ids", [[None], [""], [None, ["a", 1], {"a": 1}, True, 1.5]])
def test_what_is_no_decision_id_counts_as_none(
    tmp_path: Path, split_of: Callable[..., Rows], ids: list[object]
) -> None:
    rows = [row | {"decision_id": ids[n % len(ids)]} for n, row in enumerate(ROWS)]
    write_rows(tmp_path / "train.jsonl", rows)
    parts = {role: split_of(role, dataset_name=str(tmp_path)) for role in ("train", "eval", "test")}
    assert [len(part.rows) for part in parts.values()] == [36, 2, 2]
    assert leaks(parts, "decision") == []


def test_a_number_and_the_same_digits_are_one_decision_id() -> None:
    assert decision_id({"decision_id": 7}) == decision_id({"decision_id": "7"}) == "7"


ANY_ID = st.none() | st.booleans() | st.integers(0, 3) | st.floats() | st.text("ab ", max_size=2) | st.just(["a", 1])


@settings(max_examples=examples(2000))
@given(ids=st.lists(ANY_ID, max_size=30))
def test_any_decision_ids_are_split_off_without_a_leak(ids: list[object]) -> None:
    rows = [{"decision": str(n), "decision_id": value} for n, value in enumerate(ids)]
    source = _Source("rows", ("train",), lambda _: ((str(n), row) for n, row in enumerate(rows)), lambda _: "")
    names = {"train": "train", "eval": None, "test": None}
    parts = {role: _split_off(source, names, role) for role in ("train", "eval", "test")}
    assert sorted(row["decision"] for part in parts.values() for row in part) == sorted(r["decision"] for r in rows)
    assert leaks(parts, "decision") == []


@pytest.mark.parametrize("name", ["./nowhere", "rows.jsonl", "/no/such/folder"])
def test_a_missing_path_is_not_looked_up_on_the_hub(split_of: Callable[..., Rows], name: str) -> None:
    with pytest.raises(UnreachableError, match="there is no file or folder"):
        split_of("train", dataset_name=name)


def test_an_unreachable_hub_says_that_a_local_folder_works(split_of: Callable[..., Rows]) -> None:
    with pytest.raises(SldsError) as caught:
        split_of("train", dataset_name="ipst/slds", dataset_subset="fr_de")
    assert isinstance(caught.value, UnreachableError)
    assert "local folder" in str(caught.value.hint)


def test_a_missing_split_lists_those_present(split_of: Callable[..., Rows]) -> None:
    with pytest.raises(UnreachableError) as caught:
        split_of("eval", dataset_eval_split="dev")
    assert caught.value.hint == "splits found: test, train, validation"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ODD_LINES = ['{"a": 1}', "[" * 9999, '{"a": NaN}', "a,b\n1,2,3", '"']
LINES = st.text(max_size=60) | JSON.map(json.dumps) | st.sampled_from(ODD_LINES)


@settings(max_examples=examples(2000))
@given(
    content=st.lists(LINES, max_size=5).map(lambda lines: "\n".join(lines).encode(errors="surrogatepass"))
    | st.binary(max_size=120),
    suffix=st.sampled_from(SUFFIXES),
    packed=st.booleans(),
)
def test_any_file_gives_rows_or_one_message(content: bytes, suffix: str, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"train{suffix}"
        file.write_bytes(gzip.compress(content) if packed and suffix.endswith(".gz") else content)
        with contextlib.suppress(DataError):
            rows = list(stream_rows(file))
            assert rows
            assert all(isinstance(row, dict | DataError) for _, row in rows)
