"""Rows from every kind of file, and the messages where they cannot be had."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headnote_cli.config.layers import load_config
from headnote_cli.data.fields import decision_id, row_fault, sample_id
from headnote_cli.data.leaks import leaks
from headnote_cli.data.row_files import SUFFIXES, plain, stream_rows
from headnote_cli.data.sources import Rows, _Source, _split_off, load_split, sound, unreachable
from headnote_cli.errors import ConfigError, DataError, SldsError, UnreachableError
from tests.conftest import examples

ROWS = [{"decision": f"Erwägung {n}", "headnote": f"«{n}»"} for n in range(40)]


@pytest.fixture
def split_of(write_config: Callable[..., Path]) -> Callable[..., Rows]:
    def load(split: str, **keys: Any) -> Rows:
        return load_split(load_config(write_config(**keys)), split)

    return load


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows in the kind of file that the name says."""
    import pyarrow
    import pyarrow.parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    kind = next(suffix for suffix in file.suffixes if suffix in SUFFIXES)
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        return
    if kind in (".csv", ".tsv"):
        text = table(rows, delimiter="\t" if kind == ".tsv" else ",")
    else:
        text = json.dumps(rows) if kind == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    packed = {".gz": "gzip", ".zst": "zstd"}.get(file.suffix)
    with pyarrow.output_stream(str(file), compression=packed) as stream:
        stream.write(text.encode())


def table(rows: list[dict[str, Any]], **dialect: Any) -> str:
    """Rows as Python's own csv module writes them."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), **dialect)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def rows_of(*files: Path) -> list[dict[str, Any]]:
    return [sound(row) for _, row in stream_rows(*files)]


def fault_of(*files: Path) -> str:
    """The message and the remedy for files that cannot be read."""
    with pytest.raises(DataError) as caught:
        rows_of(*files)
    return f"{caught.value} ({caught.value.hint})"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_of_files_named_by_split(tmp_path: Path, split_of: Callable[..., Rows], suffix: str) -> None:
    for name in ("train", "validation"):
        write_rows(tmp_path / f"{name}{suffix}", ROWS[:7])
    assert list(split_of("train", dataset_name=str(tmp_path))) == ROWS[:7]
    assert list(split_of("eval", dataset_name=str(tmp_path), dataset_eval_split="validation")) == ROWS[:7]


def test_a_saved_data_set(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:3])}).save_to_disk(
        tmp_path / "saved"
    )
    assert list(split_of("train", dataset_name=str(tmp_path / "saved"), dataset_eval_split="test")) == ROWS


def test_a_lone_file_is_split_by_the_workshops_rule(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    name = str(tmp_path / "rows.jsonl")
    parts = [list(split_of(role, dataset_name=name)) for role in ("eval", "test")]
    assert [len(part) for part in parts] == [2, 2]
    assert list(split_of("eval", dataset_name=name)) == parts[0], "seeded: the same rows each time"
    assert "2 of 40 rows" in split_of("eval", dataset_name=name).notes[-1]


def test_no_row_is_in_two_of_the_splits_that_were_split_off(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    write_rows(tmp_path / "train.jsonl", ROWS)
    parts = [list(split_of(role, dataset_name=str(tmp_path))) for role in ("train", "eval", "test")]
    texts = [row["decision"] for part in parts for row in part]
    assert sorted(texts) == sorted(row["decision"] for row in ROWS)


def test_a_subset_is_a_folder_or_a_language_pair(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    pairs = [
        {"decision_language": a, "headnote_language": b, "headnote": a + b} for a in ("de", "fr") for b in ("de", "it")
    ]
    write_rows(tmp_path / "train.jsonl", pairs)
    assert [row["headnote"] for row in split_of("train", dataset_name=str(tmp_path), dataset_subset="fr_de")] == [
        "frde"
    ]
    assert len(list(split_of("train", dataset_name=str(tmp_path), dataset_subset="*_de"))) == 2
    (tmp_path / "it_it").mkdir()
    write_rows(tmp_path / "it_it" / "train.jsonl", ROWS[:2])
    assert list(split_of("train", dataset_name=str(tmp_path), dataset_subset="it_it")) == ROWS[:2]
    with pytest.raises(UnreachableError) as caught:
        split_of("train", dataset_name=str(tmp_path), dataset_subset="it_fr")
    assert caught.value.hint == "subsets found: it_it; language pairs found: de_de, de_it, fr_de, fr_it"


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
        _ = list(split_of("train", dataset_name=str(tmp_path)))
    assert message in str(caught.value)


@pytest.mark.parametrize("ids", [[None], [""], [None, ["a", 1], {"a": 1}, True, 1.5]])
def test_what_is_no_decision_id_counts_as_none(
    tmp_path: Path, split_of: Callable[..., Rows], ids: list[object]
) -> None:
    rows = [row | {"decision_id": ids[n % len(ids)]} for n, row in enumerate(ROWS)]
    write_rows(tmp_path / "train.jsonl", rows)
    parts = {role: split_of(role, dataset_name=str(tmp_path)) for role in ("train", "eval", "test")}
    assert [len(list(part)) for part in parts.values()] == [36, 2, 2]
    assert leaks(parts, "decision") == []


def test_a_number_and_the_same_digits_are_one_id() -> None:
    for value in (7, 7.0, "7", "7.0"):
        assert decision_id({"decision_id": value}) == sample_id({"sample_id": value}) == "7"


@pytest.mark.parametrize("value", [None, "", float("nan"), float("inf"), True, ["a"], 1.5])
def test_what_is_no_sample_id_counts_as_none(value: object) -> None:
    assert sample_id({"sample_id": value}) is sample_id({}) is None


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


HUB_LAYOUTS = [
    "data/train-00000-of-00002.parquet data/train-00001-of-00002.parquet data/validation-00000-of-00001.parquet",
    "data/swiss-00000-of-00001.parquet data/train_extra-00000-of-00001.parquet",
    "data/train-00000-of-00001-0123456789abcdef.parquet",
    "data/train.jsonl data/validation.jsonl",
    "train-00000-of-00002.jsonl train-00001-of-00002.jsonl test-00000-of-00001.jsonl",
    "default/train/0000.parquet default/train/0001.parquet default/test/0000.parquet",
    "train/0000.parquet dev/0000.parquet",
    "training-part/a.jsonl split-val/a.jsonl",
    "fr_de/train-00000-of-00001.parquet de_de/train-00000-of-00001.parquet de_de/test-00000-of-00001.parquet",
    "my_train_1.csv my_train_2.csv my-test.csv",
    "training.tsv valid.tsv testing.tsv",
    "2020_dev.ndjson 2021_train.ndjson",
    "evaluation.json.gz train.json.gz",
    "trainer.jsonl unnamed.jsonl",
    ".cache/huggingface/train.jsonl __MACOSX/train.jsonl train.jsonl",
]


@pytest.mark.parametrize("names", HUB_LAYOUTS)
def test_a_folder_from_the_hub_has_the_splits_that_datasets_finds(
    tmp_path: Path, split_of: Callable[..., Rows], names: str
) -> None:
    from datasets import load_dataset

    folder = tmp_path / "downloaded"
    for name in names.split():
        write_rows(folder / name, [{"decision": f"{name} {n}", "headnote": str(n)} for n in range(2)])
    expected = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    for split in expected:
        rows = split_of(split, dataset_name=str(folder), dataset_train_split=next(iter(expected)), **no_roles(split))
        assert sorted(row["decision"] for row in rows) == sorted(expected[split]["decision"])


def no_roles(split: str) -> dict[str, str]:
    """Keys with which no split has to be split off from the training rows."""
    return {"dataset_eval_split": split, "dataset_test_split": split}


def test_the_rows_of_all_shards_are_one_split_and_one_identity(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    shards = [tmp_path / f"data/train-0000{n}-of-00002.parquet" for n in range(2)]
    for n, shard in enumerate(shards):
        write_rows(shard, ROWS[20 * n : 20 * n + 20])
    write_rows(tmp_path / "data/test-00000-of-00001.parquet", ROWS[:1])
    train = split_of("train", dataset_name=str(tmp_path), **no_roles("test"))
    assert list(train) == ROWS
    before = train.identity()
    write_rows(shards[1], ROWS[:20])
    assert train.identity() != before
    shards[1].unlink()
    with pytest.raises(DataError, match="only 1 of the 2 shards of data/train are there"):
        split_of("train", dataset_name=str(tmp_path))


def test_a_file_is_found_under_its_own_name_too(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    for n, name in enumerate(("train", "dev", "eval", "test")):
        write_rows(tmp_path / f"{name}.jsonl", ROWS[n : n + 1])
    keys = {"dataset_name": str(tmp_path), "dataset_test_split": "test"}
    assert list(split_of("eval", **keys, dataset_eval_split="dev")) == ROWS[1:2]
    assert list(split_of("eval", **keys, dataset_eval_split="validation")) == ROWS[1:2]
    assert list(split_of("eval", **keys, dataset_eval_split="eval")) == ROWS[2:3]
    assert list(split_of("test", **keys)) == ROWS[3:4], "the evaluation rows are no test rows"


def test_a_copy_in_a_sub_folder_is_not_joined_and_named(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    write_rows(tmp_path / "train.jsonl", ROWS)
    write_rows(tmp_path / "old" / "train.jsonl", ROWS)
    rows = split_of("train", dataset_name=str(tmp_path), dataset_train_split="train")
    assert len(list(rows)) == 36
    assert rows.notes[0] == "not part of any split: old/train.jsonl"


CARD = """---
license: cc0-1.0
configs:
- config_name: de_de
  data_files:
  - split: train
    path: parts/de-*.jsonl
  - split: validation
    path: [parts/v1.jsonl, parts/v2.jsonl]
- config_name: fr_de
  data_files: parts/fr.jsonl
---
# Rows
"""


def test_a_data_sets_card_says_which_files_make_up_a_subset(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    from datasets import load_dataset

    folder = tmp_path / "downloaded"
    for n, name in enumerate(("de-1", "de-2", "v1", "v2", "fr")):
        write_rows(folder / "parts" / f"{name}.jsonl", ROWS[n : n + 1])
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    for subset in ("de_de", "fr_de"):
        expected = load_dataset(str(folder), subset, cache_dir=str(tmp_path / "cache"))
        for split in expected:
            keys = {"dataset_name": str(folder), "dataset_subset": subset, "dataset_eval_split": "validation"}
            assert list(split_of(split, **keys, dataset_test_split="validation")) == list(expected[split])
    with pytest.raises(ConfigError, match="several subsets") as caught:
        split_of("train", dataset_name=str(folder))
    assert caught.value.hint == "set `dataset_subset` to one of: de_de, fr_de"
    marked = CARD.replace("- config_name: fr_de", "- config_name: fr_de\n  default: true")
    (folder / "README.md").write_text(marked, encoding="utf-8")
    assert list(split_of("train", dataset_name=str(folder))) == ROWS[4:5]
    (folder / "README.md").write_text(CARD.replace("v2.jsonl", "v3.jsonl"), encoding="utf-8")
    with pytest.raises(DataError, match=r"there are no files parts/v3.jsonl, which README.md declares"):
        split_of("train", dataset_name=str(folder), dataset_subset="de_de")


def test_a_hub_data_set_with_several_subsets_lists_them(tmp_path: Path) -> None:
    from datasets import load_dataset

    for name in ("de-1", "v1", "v2", "fr"):
        write_rows(tmp_path / "parts" / f"{name}.jsonl", ROWS)
    (tmp_path / "README.md").write_text(CARD, encoding="utf-8")
    with pytest.raises(ValueError, match="Config name is missing") as caught:
        load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert "set `dataset_subset` to one of ['de_de', 'fr_de']" in str(unreachable(caught.value, "data set", "x").hint)


def test_a_card_without_valid_yaml_is_named(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    write_rows(tmp_path / "train.jsonl", ROWS)
    for head in ("configs: [", "configs:\n- data_files: a.csv", "configs: 7"):
        (tmp_path / "README.md").write_text(f"---\n{head}\n---\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"README.md: the YAML at its head cannot be read"):
            split_of("train", dataset_name=str(tmp_path))


def test_class_labels_are_read_by_name(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    language = ClassLabel(names=["de", "fr", "it"])
    features = Features(headnote=Value("string"), decision_language=language, headnote_language=language)
    pairs = [("de", "de"), ("fr", "de"), ("fr", "fr"), ("it", None)]
    rows = [{"headnote": str(n), "decision_language": a, "headnote_language": b} for n, (a, b) in enumerate(pairs)]
    numbered = Dataset.from_list(rows, features=features)
    numbered.to_parquet(tmp_path / "files" / "train.parquet")
    DatasetDict(train=numbered, test=numbered).save_to_disk(tmp_path / "saved")
    for folder in ("files", "saved"):
        keys = {"dataset_name": str(tmp_path / folder), "dataset_test_split": "test", "dataset_eval_split": "test"}
        assert list(split_of("train", **(keys if folder == "saved" else keys | no_roles("train"))))
    assert rows_of(tmp_path / "files" / "train.parquet") == rows
    assert list(split_of("test", **keys)) == rows
    assert list(split_of("test", **keys, dataset_subset="fr_de")) == rows[1:2]


def test_a_number_that_is_missing_is_none_in_every_kind_of_file(tmp_path: Path) -> None:
    rows = [{"decision": "x", "year": 2001.5}, {"decision": "y", "year": float("nan")}]
    for name in ("a.jsonl", "a.json", "a.parquet"):
        write_rows(tmp_path / name, rows)
        assert rows_of(tmp_path / name) == [rows[0], {"decision": "y", "year": None}]


def test_a_class_without_a_name_is_a_fault_of_its_row() -> None:
    assert "`l` is class 2, but there are names only for 0 to 1" in str(plain({"l": 2}, {"l": ["de", "fr"]}))


def test_a_language_that_is_a_number_is_a_fault() -> None:
    row = {"decision": "x", "headnote": "y", "headnote_language": 0, "year": 2001}
    assert row_fault(row, row, ["headnote"]) == "field `headnote_language` is not text but int"
    for digits in ("0", "1.0", "-1"):  # how tables write the number of a class
        fault = f"field `headnote_language` is not a language but `{digits}`"
        assert row_fault(row | {"headnote_language": digits}, row, ["headnote"]) == fault


@pytest.mark.parametrize("name", ["headnote_language", "decision_language"])
@pytest.mark.parametrize("empty", [None, "", " "])
def test_a_language_that_a_template_uses_is_not_empty(name: str, empty: str | None) -> None:
    row = {"decision": "x", "headnote": "y", name: empty}
    assert row_fault(row, row, ["headnote"]) == f"field `{name}` is empty"
    assert row_fault(row, ["decision", "headnote"], ["headnote"]) is None


TURNS = [{"role": "user", "content": "Write."}, {"role": "assistant", "content": "Art. 1."}]


@pytest.mark.parametrize("row", [{"messages": TURNS}, {"prompt": TURNS[:1], "completion": TURNS[1:]}])
def test_a_chat_is_told_which_fields_the_templates_need(row: dict[str, Any]) -> None:
    fault = row_fault(row, ["decision", "headnote"], ["headnote"])
    assert fault is not None
    assert f"the row is a chat (`{next(iter(row))}`)" in fault
    assert "fields decision, headnote" in fault
    assert row_fault(row | {"decision": "x", "headnote": "y"}, ["decision", "headnote"], ["headnote"]) is None


def test_only_the_text_that_is_cut_may_not_be_empty() -> None:
    used = ["decision", "headnote", "input"]
    assert row_fault({"decision": "x", "headnote": None, "input": " "}, used, ["headnote"]) is None
    for empty in (None, "", " \n"):
        assert row_fault({"decision": empty, "headnote": "y"}, used, ["headnote"]) == "field `decision` is empty"
        assert row_fault({"table": empty, "sql": "y"}, ["table", "sql"], ["sql"], "table") == "field `table` is empty"


NAMES = st.lists(st.text("abÄ .", min_size=1, max_size=4), min_size=2, max_size=4, unique=True)
CELLS = st.text(st.sampled_from("aäé€\"'\n\r;,\t| «’"), max_size=9)


@settings(max_examples=examples(1000))
@given(
    names=NAMES,
    cells=st.lists(st.lists(CELLS, min_size=4, max_size=4), min_size=1, max_size=4),
    delimiter=st.sampled_from(";,\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"]),
    ending=st.sampled_from(["\r\n", "\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    declared=st.booleans(),
    suffix=st.sampled_from([".csv", ".csv.gz", ".tsv"]),
)
def test_a_table_comes_back_as_it_was_written(
    names: list[str],
    cells: list[list[str]],
    delimiter: str,
    encoding: str,
    ending: str,
    quoting: int,
    declared: bool,
    suffix: str,
) -> None:
    if quoting == csv.QUOTE_MINIMAL:  # Python 3.11 does not quote a line end that is not the file's own
        cells = [[re.sub(f"[\r\n](?<![{ending}])", " ", cell) for cell in row] for row in cells]
    rows = [dict(zip(names, row, strict=False)) for row in cells]
    delimiter = "\t" if suffix == ".tsv" else delimiter
    if encoding == "utf-16-le" and not declared:
        rows, names = [{"a": "b", "c": value} for value in cells[0]], ["a", "c"]  # known by the zeros of plain letters
    text = table(rows, delimiter=delimiter, lineterminator=ending, quoting=quoting)
    content = (f"sep={delimiter}{ending}" * declared + text).encode(encoding)
    # Windows-1252 is what is not UTF-8: "Ã¼" in it has the bytes of a "ü".
    assume(encoding != "cp1252" or not re.search(rb"[\xc2-\xf4][\x80-\xbf]", content))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"train{suffix}"
        file.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
        kept = [row for row in rows if any(row.values())]
        if kept:
            assert rows_of(file) == kept
        else:
            assert "holds no rows" in fault_of(file)


def test_a_windows_1252_table_is_read_and_told(tmp_path: Path, split_of: Callable[..., Rows]) -> None:
    file = tmp_path / "train.csv"
    file.write_bytes("decision;headnote\nHöhe – «Zaun»;Art. 1\n".encode("cp1252"))
    rows = split_of("train", dataset_name=str(file))
    assert list(rows) == [{"decision": "Höhe – «Zaun»", "headnote": "Art. 1"}]
    assert rows.notes[0] == "train.csv is not UTF-8: it is read as Windows-1252"


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.csv", "a,b\nä,ä\nü,".encode() + b"\xfc\n", "a.csv:3: is not UTF-8 (save the file as UTF-8)"),
        ("a.jsonl", '{"a": "x"}\n{"a": "ä"}\n'.encode("latin-1"), "a.jsonl:2: is not UTF-8 (save the file as UTF-8)"),
        ("a.json", '[{"a":\n"ä"}]'.encode("latin-1"), "a.json:2: is not UTF-8 (save the file as UTF-8)"),
        ("a.jsonl", b'\xff\xfe{\x00"\x00a', "a.jsonl:1: is not UTF-16"),
        ("a.csv", b"a,b\n1,2\n\x00\x00,3\n", "a.csv:3: holds a zero byte"),
        ("a.csv", b"a,b,a\n1,2,3\n", "the column `a` stands twice in the header (rename"),
        ("a.jsonl", b'{"a": 1, "a": 2}\n', "a.jsonl:1: not valid JSON: the field `a` stands twice"),
        ("a.csv", b";;\n1;2;3\n", "the header names no column"),
        ("a.csv", b"a;b\n", "a.csv: holds no rows"),
        ("a.csv", b"a;b\n1;2;3\n", "a.csv, row 1: the row has more cells than the header: 3 instead of 2"),
        ("a.csv", b'a,b\n1,2\n3,"4\n5,6\n', "a.csv:4: the quotation marks do not match"),
        ("a.csv", b'a,b\n1,"x"y"\n', "the quotation marks do not match"),
        ("a.json", b'{"train": [{"a": 1}], "test": [{"a": 2}]}', "several lists of rows: train, test (write each"),
        ("a.json", b'{"a": ["x", "y"], "b": ["z", "w"]}', "holds columns instead of rows: a, b (write a row as an"),
        ("a.json", b'[{"a": 1}\n{"a": 2}]', "not valid JSON"),
        ("a.xlsx", b"PK", "unknown kind of file (kinds: .jsonl .ndjson .jsonlines .json .csv .tsv .parquet"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS, not the data (get the"),
        ("a.jsonl.zst", b"(\xb5/\xfd broken", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_place_and_remedy(
    tmp_path: Path, name: str, content: bytes, fault: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert fault in fault_of(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"a": 1}\n{"a": 2}\n'),
        ("a.json", '\n{"a": 1}\r\n\r\n{"a": 2}'),
        ("a.jsonl", '[{"a": 1}, {"a": 2}]'),
        ("a.ndjson", '[\n  {"a": 1},\n  {"a": 2}\n]\n'),
        ("a.json", '{"data": [{"a": 1}, {"a": 2}]}'),
        ("a.json", '{"version": 1, "data": [\n{"a": 1}, {"a": 2}]}'),
        ("a.json", '{"rows": [{"a": 1}, {"a": 2}]}'),
        ("a.jsonlines", '{"a": 1}\n{"a": 2}\n'),
        ("a.jsonlines", '[{"a": 1},\n{"a": 2}]'),
        ("A.JSONL", '{"a": 1}\r{"a": 2}\r'),
    ],
)
def test_json_is_read_by_what_it_holds(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert rows_of(tmp_path / name) == [{"a": 1}, {"a": 2}]


def test_a_lone_object_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1, "cited": [{"b": 2}]}\n', encoding="utf-8")
    assert rows_of(tmp_path / "a.json") == [{"a": 1, "cited": [{"b": 2}]}]


def test_what_a_spreadsheet_adds_to_a_table_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(";decision;headnote;\r\n0;x;y;\r\n1;z\r\n;;;\r\n", encoding="utf-8", newline="")
    assert rows_of(tmp_path / "a.csv") == [{"decision": "x", "headnote": "y"}, {"decision": "z", "headnote": None}]


@pytest.mark.parametrize("above", ["\n", "\r\n \r\n", "\ufeff\n", "\nsep=;\n", "sep=;\n\n"])
def test_blank_lines_above_the_header_are_skipped(tmp_path: Path, above: str) -> None:
    (tmp_path / "a.csv").write_text(f"{above}a;b\n1;2\n", encoding="utf-8", newline="")
    assert rows_of(tmp_path / "a.csv") == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("name", ["dev.jsonlines", "dev.JSONLINES.gz"])
def test_a_split_of_json_lines_by_their_long_name(tmp_path: Path, split_of: Callable[..., Rows], name: str) -> None:
    pack = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / "train.jsonl").write_text('{"decision": "x"}', encoding="utf-8")
    (tmp_path / name).write_bytes(pack(b'{"decision": "y"}\n'))
    assert list(split_of("validation", dataset_name=str(tmp_path))) == [{"decision": "y"}]


def test_a_header_that_holds_line_ends_and_other_separators(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"text,\nof, the, court";headnote\nx;y\n', encoding="utf-8", newline="")
    assert rows_of(tmp_path / "a.csv") == [{"text,\nof, the, court": "x", "headnote": "y"}]


def test_an_empty_shard_is_no_fault_if_others_have_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    write_rows(tmp_path / "b.jsonl", ROWS)
    assert rows_of(tmp_path / "a.jsonl", tmp_path / "b.jsonl") == ROWS


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
