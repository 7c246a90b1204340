"""Rows from a folder, a file or the hub: found, read, checked and split."""

from __future__ import annotations

import csv
import fnmatch
import gzip
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from headnote_cli.config import Config
from headnote_cli.errors import ConfigError, DataError, SldsError, UnreachableError
from headnote_cli.libraries import quieten

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
SPLIT_SEED = 42  # the workshop's
LANGUAGES = ("de", "fr", "it")


@dataclass(frozen=True)
class Rows:
    """The rows of one split, with where they came from."""

    split: str
    source: str
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """SHA-256 over the rows in their order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode())
            digest.update(b"\n")
        return digest.hexdigest()


def language_pair(row: dict[str, Any]) -> str | None:
    """`fr_de` for a French decision with a German headnote, SLDS's name for its subsets."""
    pair = row.get("decision_language"), row.get("headnote_language")
    return f"{pair[0]}_{pair[1]}" if all(isinstance(part, str) for part in pair) else None


def load_split(config: Config, split: str) -> Rows:
    """The rows of one split of the config's data set.

    Args:
        split: `train`, `eval` or `test` by role; any other name is taken as it is.

    Raises:
        ConfigError: No data set is named.
        UnreachableError: The data set, its subset or the split is not to be had.
        DataError: A row cannot be read.
    """
    if not config.settings.dataset_name:
        raise ConfigError("`dataset_name` is not set", str(config.path), "name a hub data set, a folder or a file")
    source = _open(config)
    names = _split_names(config, source)
    if split not in names:
        return source.read(split)
    name = names[split]
    if names["eval"] is None and split in _split_off_roles(names):
        return _split_off(source, names, split)
    if name is None:
        raise ConfigError(
            f"`dataset_{split}_split` is not set", str(config.path), f"splits found: {', '.join(source.splits)}"
        )
    return source.read(name)


@dataclass(frozen=True)
class _Source:
    """A data set whose splits are known and not yet read."""

    name: str
    splits: tuple[str, ...]
    reader: Callable[[str], list[dict[str, Any]]]
    notes: tuple[str, ...] = ()

    def read(self, split: str) -> Rows:
        if split not in self.splits:
            raise UnreachableError(
                f"there is no split `{split}`", self.name, f"splits found: {', '.join(self.splits) or 'none'}"
            )
        return Rows(split, self.name, self.reader(split), self.notes)


def _split_names(config: Config, source: _Source) -> dict[str, str | None]:
    """The split that plays each role; None where one has to be split off."""
    settings = config.settings
    names = {
        "train": settings.dataset_train_split,
        "eval": settings.dataset_eval_split,
        "test": settings.dataset_test_split,
    }
    # A lone file has no split names: whatever the config calls them, it is the training split.
    return {"train": "train", "eval": None, "test": None} if source.splits == ("train",) else names


def _split_off_roles(names: dict[str, str | None]) -> tuple[str, ...]:
    """The splits that come out of the training rows where no evaluation split is named."""
    return ("train", "eval") if names["test"] else ("train", "eval", "test")


def _split_off(source: _Source, names: dict[str, str | None], role: str) -> Rows:
    """The workshop's rule for missing splits: seeded, 10 % of train halved into eval and test,
    or, with a test split at hand, as many training rows as it has."""
    train = names["train"] or "train"
    rows = source.read(train).rows
    order = list(range(len(rows)))
    random.Random(SPLIT_SEED).shuffle(order)
    if names["test"] is not None:
        held = min(len(source.read(names["test"]).rows), len(rows) // 2)
        parts = {"eval": order[:held], "train": order[held:]}
    else:
        held = len(rows) // 10
        parts = {"eval": order[: held // 2], "test": order[held // 2 : held], "train": order[held:]}
    kept = sorted(parts[role])
    share = f"{len(kept)} of {len(rows)} rows of `{train}` are `{role}` (seed {SPLIT_SEED})"
    note = f"no evaluation split is to be had: {share}"
    return Rows(role, source.name, [rows[index] for index in kept], (*source.notes, note))


def _open(config: Config) -> _Source:
    name = str(config.settings.dataset_name)
    local = config.locate(name)
    subset = config.settings.dataset_subset
    if local is None:
        if name.startswith((".", "/", "~")) or name.endswith(SUFFIXES):
            raise UnreachableError(f"there is no file or folder {name}", config.where("dataset_name"))
        return _hub(name, subset)
    inner = local / subset if subset and local.is_dir() else None
    if inner is not None and inner.is_dir():
        return _local(inner)
    source = _local(local)
    return source if subset is None else _only_pair(source, subset)


def _only_pair(source: _Source, subset: str) -> _Source:
    """Rows of one language pair, which is what SLDS's subsets are, or of several by a pattern such as `*_de`."""

    def read(split: str) -> list[dict[str, Any]]:
        rows = source.reader(split)
        kept = [row for row in rows if fnmatch.fnmatchcase(language_pair(row) or "", subset)]
        if rows and not kept:
            pairs = sorted({pair for row in rows if (pair := language_pair(row))})
            raise UnreachableError(
                f"`dataset_subset: {subset}` is neither a folder nor a language pair of the rows",
                source.name,
                f"language pairs found: {', '.join(pairs) or 'none'}",
            )
        return kept

    return _Source(source.name, source.splits, read, (*source.notes, f"language pairs {subset} only"))


def _local(path: Path) -> _Source:
    if path.is_file():
        return _Source(str(path), ("train",), lambda _: read_rows(path))
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _saved_to_disk(path)
    files = {_stem(file): file for file in sorted(path.iterdir()) if file.name.endswith(SUFFIXES)}
    if not files:
        raise UnreachableError(
            "the folder holds no data files",
            str(path),
            f"name them by split: train{SUFFIXES[0]}; kinds: {' '.join(SUFFIXES)}",
        )
    return _Source(str(path), tuple(files), lambda split: read_rows(files[split]))


def _stem(file: Path) -> str:
    return next(file.name.removesuffix(suffix) for suffix in SUFFIXES[1:] + SUFFIXES[:1] if file.name.endswith(suffix))


def _saved_to_disk(path: Path) -> _Source:
    quieten()
    from datasets import load_from_disk

    return _from_datasets(str(path), load_from_disk(str(path)))


def _hub(name: str, subset: str | None) -> _Source:
    quieten()
    from datasets import load_dataset

    label = f"{name} ({subset})" if subset else name
    try:
        return _from_datasets(label, load_dataset(name, subset))
    except Exception as error:
        raise unreachable(error, "data set", label) from error


def _from_datasets(name: str, data: Dataset | DatasetDict) -> _Source:
    splits: dict[str, Dataset] = dict(data) if isinstance(data, dict) else {"train": data}
    return _Source(name, tuple(splits), lambda split: splits[split].to_list())


def unreachable(error: Exception, kind: str, name: str) -> SldsError:
    """The message for a model or data set that the hub did not give."""
    if "BuilderConfig" in str(error):
        hint = "the hub has the data set, but not this `dataset_subset`"
    else:
        access = f"if {name} is gated, ask for access on its page, then run `hf auth login`"
        hint = f"check the name and the network; {access}; a local folder works too, offline"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") in ("1", "ON", "YES", "TRUE") else ""
    return UnreachableError(f"the {kind} cannot be reached{offline}: {first}", name, hint)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """All rows of a JSONL(.gz), JSON, CSV or parquet file.

    Raises:
        DataError: The file or a row cannot be read; it names the line.
    """
    try:
        rows = list(_reader(file))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read: {error}", str(file)) from error
    if not rows:
        raise DataError("holds no rows", str(file))
    return rows


def _reader(file: Path) -> Iterator[dict[str, Any]]:
    if file.name.endswith(".parquet"):
        yield from _read_parquet(file)
        return
    with _text(file) as stream:
        if file.name.endswith((".jsonl", ".jsonl.gz")):
            yield from _read_jsonl(file, stream)
        elif file.name.endswith(".json"):
            yield from _read_json(file, stream)
        elif file.name.endswith(".csv"):
            csv.field_size_limit(10**9)
            yield from csv.DictReader(stream)
        else:
            raise DataError(f"unknown kind of file; kinds: {' '.join(SUFFIXES)}", str(file))


def _text(file: Path) -> IO[str]:
    if file.name.endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8-sig")
    return file.open(encoding="utf-8-sig", newline="" if file.suffix == ".csv" else None)


def _read_jsonl(file: Path, stream: IO[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield _json_object(line, f"{file}:{number}")


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}", where) from error
    if not isinstance(row, dict):
        raise DataError("a row is a JSON object with named fields", where)
    return row


def _read_json(file: Path, stream: IO[str]) -> Iterator[dict[str, Any]]:
    try:
        rows = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}", str(file)) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("a JSON file of rows is a list of objects", str(file))
    yield from rows


def _read_parquet(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        yield from pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"not a parquet file: {error}", str(file)) from error
