"""Rows from a folder, a file or the hub: found, read, checked and split."""

from __future__ import annotations

import contextlib
import csv
import fnmatch
import gzip
import hashlib
import itertools
import json
import os
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from headnote_cli.config import Config
from headnote_cli.errors import ConfigError, DataError, SldsError, UnreachableError, UsageError
from headnote_cli.libraries import quieten

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
SPLIT_SEED = 42  # the workshop's


Row = dict[str, Any]
Located = tuple[str, Row | DataError]  # where a row stands (file and line), and the row, or why it cannot be read


@dataclass(frozen=True)
class Rows:
    """The rows of one split: read anew on each iteration, so that nothing is held."""

    split: str
    source: str
    stream: Callable[[], Iterator[Located]]
    identity: Callable[[], str]  # changes with the content
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        """The rows alone.

        Raises:
            DataError: One of them cannot be read.
        """
        return (sound(row) for _, row in self.stream())

    @property
    def rows(self) -> list[Row]:
        """All rows in memory."""
        return list(self)


def sound(row: Row | DataError) -> Row:
    """A row that could be read.

    Raises:
        DataError: It could not.
    """
    if isinstance(row, DataError):
        raise row
    return row


def language_pair(row: Row) -> str | None:
    """`fr_de` for a French decision with a German headnote, SLDS's name for its subsets."""
    pair = row.get("decision_language"), row.get("headnote_language")
    return f"{pair[0]}_{pair[1]}" if all(isinstance(part, str) for part in pair) else None


def decision_id(row: Row) -> str | None:
    """The `decision_id` of a row as text, None where it has none: nothing, a blank, or no text or whole number."""
    value = row.get("decision_id")
    named = isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip()
    return str(value) if named else None


def located_rows(config: Config, split: str, file: Path | None = None) -> Iterator[Located]:
    """The rows of a file, else of a split of the config's data set, each with its place."""
    return stream_rows(file) if file is not None else load_split(config, split).stream()


def load_split(config: Config, split: str) -> Rows:
    """The rows of one split of the config's data set.

    Args:
        split: `train`, `eval` or `test` by role; any other name is taken as it is.

    Raises:
        ConfigError: No data set is named.
        UnreachableError: The data set, its subset or the split is not to be had.
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
        found = ", ".join(source.splits)
        raise ConfigError(f"`dataset_{split}_split` is not set", str(config.path), f"splits found: {found}")
    return source.read(name)


def available_splits(config: Config) -> dict[str, Rows]:
    """Those of train, eval and test that the config and the data set give, by role."""
    found = {}
    for role in ("train", "eval", "test"):
        with contextlib.suppress(ConfigError, UnreachableError):
            found[role] = load_split(config, role)
    return found


@dataclass(frozen=True)
class Leak:
    """Decisions that two splits share: by `decision_id`, and by the text itself."""

    splits: tuple[str, str]
    ids: list[str]
    texts: int

    def __str__(self) -> str:
        first, second = self.splits
        named = f" ({', '.join(self.ids[:3])}{' …' if len(self.ids) > 3 else ''})" if self.ids else ""
        return f"{first} and {second} share {len(self.ids)} decision_ids{named} and {self.texts} decision texts"


def leaks(splits: dict[str, Rows], text_field: str) -> list[Leak]:
    """Decisions that stand in more than one split, so that evaluation would see what training saw."""
    ids: dict[str, set[str]] = {}
    texts: dict[str, set[bytes]] = {}
    for role, rows in splits.items():
        ids[role], texts[role] = set(), set()
        with contextlib.suppress(UnreachableError):  # no row of the language pair in this split
            for row in (row for _, row in rows.stream() if isinstance(row, dict)):
                named = decision_id(row)
                if named is not None:
                    ids[role].add(named)
                if isinstance(row.get(text_field), str):
                    text = row[text_field].strip().encode(errors="replace")
                    texts[role].add(hashlib.blake2b(text, digest_size=16).digest())
    found = []
    for first, second in itertools.combinations(splits, 2):
        shared = sorted(ids[first] & ids[second])
        same = len(texts[first] & texts[second])
        if shared or same:
            found.append(Leak((first, second), shared, same))
    return found


def row_fault(row: Row, used: Iterable[str], text_fields: Iterable[str]) -> str | None:
    """What is wrong with the fields that the templates use, None if nothing is.

    Args:
        used: Fields of the templates. One that is missing is left to the template, which may not need it.
        text_fields: Fields that must be text; others may be numbers.
    """
    if None in row:  # what csv calls the cells beyond the header
        return "the row has more cells than the header"
    for name in used:
        value = row.get(name, "-")
        if value is None or (isinstance(value, str) and not value.strip()):
            return f"field `{name}` is empty"
        if isinstance(value, str) and not _encodable(value):
            return f"field `{name}` is not valid Unicode"
        allowed: tuple[type, ...] = (str,) if name in text_fields else (str, int, float)
        if not isinstance(value, allowed) or isinstance(value, bool):
            return f"field `{name}` is not text but {type(value).__name__}"
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


@dataclass(frozen=True)
class _Source:
    """A data set whose splits are known and not yet read."""

    name: str
    splits: tuple[str, ...]
    reader: Callable[[str], Iterator[Located]]
    identity: Callable[[str], str]
    notes: tuple[str, ...] = ()

    def read(self, split: str) -> Rows:
        if split not in self.splits:
            found = ", ".join(self.splits) or "none"
            raise UnreachableError(f"there is no split `{split}`", self.name, f"splits found: {found}")
        return Rows(split, self.name, lambda: self.reader(split), lambda: self.identity(split), self.notes)


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
    or, with a test split at hand, as many training rows as it has. Rows of one decision stay together."""
    train = source.read(names["train"] or "train")
    groups: dict[str | int, list[int]] = {}
    count = 0
    for _, row in train.stream():
        named = decision_id(row) if isinstance(row, dict) else None
        groups.setdefault(count if named is None else named, []).append(count)
        count += 1
    order = list(groups.values())
    random.Random(SPLIT_SEED).shuffle(order)
    if names["test"] is not None:
        wanted = {"eval": min(sum(1 for _ in source.read(names["test"]).stream()), count // 2)}
    else:
        wanted = {"eval": count // 10 // 2, "test": count // 10 - count // 10 // 2}
    parts: dict[str, set[int]] = {name: set() for name in (*wanted, "train")}
    for group in order:
        short = next((name for name, size in wanted.items() if len(parts[name]) + len(group) <= size), "train")
        parts[short].update(group)
    kept = parts[role]
    share = f"{len(kept)} of {count} rows of `{train.split}` are `{role}` (seed {SPLIT_SEED})"
    note = f"no evaluation split is to be had: {share}"

    def stream() -> Iterator[Located]:
        return (located for index, located in enumerate(train.stream()) if index in kept)

    return Rows(role, source.name, stream, lambda: f"{train.identity()} {role} {sorted(kept)}", (*source.notes, note))


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

    def read(split: str) -> Iterator[Located]:
        others: set[str] = set()
        any_kept = False
        for located in source.reader(split):
            row = located[1]
            if isinstance(row, DataError):  # of what pair it is nobody knows
                yield located
                continue
            pair = language_pair(row) or ""
            if fnmatch.fnmatchcase(pair, subset):
                any_kept = True
                yield located
            else:
                others.add(pair)
        if not any_kept and others:
            raise UnreachableError(
                f"`dataset_subset: {subset}` is neither a folder nor a language pair of the rows",
                source.name,
                f"language pairs found: {', '.join(sorted(others - {''})) or 'none'}",
            )

    notes = (*source.notes, f"language pairs {subset} only")
    return _Source(source.name, source.splits, read, lambda split: f"{source.identity(split)} {subset}", notes)


def _local(path: Path) -> _Source:
    if path.is_file():
        return _Source(str(path), ("train",), lambda _: stream_rows(path), lambda _: _digest(path))
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _saved_to_disk(path)
    listed = [file for file in sorted(path.iterdir()) if file.name.endswith(SUFFIXES)]
    files = {_stem(file): file for file in listed}
    if len(files) < len(listed):
        names = ", ".join(file.name for file in listed)
        raise DataError("two files are of the same split", str(path), f"keep one of each: {names}")
    if not files:
        hint = f"name them by split: train{SUFFIXES[0]}; kinds: {' '.join(SUFFIXES)}"
        raise UnreachableError("the folder holds no data files", str(path), hint)
    return _Source(
        str(path), tuple(files), lambda split: stream_rows(files[split]), lambda split: _digest(files[split])
    )


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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

    def read(split: str) -> Iterator[Located]:
        return ((f"{name}, split {split}, row {number}", row) for number, row in enumerate(splits[split], 1))

    return _Source(name, tuple(splits), read, lambda split: str(splits[split]._fingerprint))


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


def stream_rows(file: Path) -> Iterator[Located]:
    """The rows of a JSONL(.gz), JSON, CSV or parquet file, each with its place; a line that is no row with its fault.

    Raises:
        UsageError: There is no such file.
        DataError: It cannot be read.
    """
    empty = True
    try:
        for located in _reader(file):
            empty = False
            yield located
    except FileNotFoundError as error:
        raise UsageError("there is no such file", str(file)) from error
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", str(file)) from error
    if empty:
        raise DataError("holds no rows", str(file))


def _reader(file: Path) -> Iterator[Located]:
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
            yield from _numbered(file, csv.DictReader(stream))
        else:
            raise DataError(f"unknown kind of file; kinds: {' '.join(SUFFIXES)}", str(file))


def _numbered(file: Path, rows: Iterable[Row]) -> Iterator[Located]:
    return ((f"{file}, row {number}", row) for number, row in enumerate(rows, 1))


def _text(file: Path) -> IO[str]:
    if file.name.endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8-sig")
    return file.open(encoding="utf-8-sig", newline="" if file.suffix == ".csv" else None)


def _read_jsonl(file: Path, stream: IO[str]) -> Iterator[Located]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            where = f"{file}:{number}"
            yield where, _json_object(line, where)


def _json_object(text: str, where: str) -> Row | DataError:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return DataError(f"not valid JSON: {error}", where)
    return row if isinstance(row, dict) else DataError("a row is a JSON object with named fields", where)


def _read_json(file: Path, stream: IO[str]) -> Iterator[Located]:
    try:
        rows = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}", str(file)) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("a JSON file of rows is a list of objects", str(file))
    return _numbered(file, rows)


def _read_parquet(file: Path) -> Iterator[Located]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            batches = (row for batch in table.iter_batches(batch_size=64) for row in batch.to_pylist())
            yield from _numbered(file, batches)
    except pyarrow.ArrowException as error:
        raise DataError(f"not a parquet file: {error}", str(file)) from error
