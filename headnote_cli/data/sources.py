"""Find, read, check and split rows from a folder, a file or the hub."""

from __future__ import annotations

import fnmatch
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from headnote_cli.config.layers import Config
from headnote_cli.data.fields import decision_id, language_pair
from headnote_cli.data.hub_layout import NO_DATA, Subset, declared_files, declared_subsets, default_subset, layout
from headnote_cli.data.row_files import (
    KIND_HINT,
    SUFFIXES,
    Located,
    Row,
    encoding_note,
    is_row_file,
    plain,
    stem,
    stream_rows,
)
from headnote_cli.errors import ConfigError, DataError, SldsError, UnreachableError
from headnote_cli.runs.files import sha256
from headnote_cli.upstream import fingerprint_of

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

ROLES = ("train", "eval", "test")
SPLIT_SEED = 42  # the workshop's
READING = "2"  # raise it when the same files would give other rows


@dataclass(frozen=True)
class Rows:
    """The rows of one split. Each iteration reads them again, so none are kept in memory."""

    split: str
    source: str
    stream: Callable[[], Iterator[Located]]
    identity: Callable[[], str]  # changes with the content
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        """The rows without their places.

        Raises:
            DataError: A row cannot be read.
        """
        return (sound(row) for _, row in self.stream())


def sound(row: Row | DataError) -> Row:
    """Return a row, or raise its fault.

    Raises:
        DataError: The row could not be read.
    """
    if isinstance(row, DataError):
        raise row
    return row


def located_rows(config: Config, split: str, file: Path | None = None) -> Iterator[tuple[str, Row]]:
    """The rows of a file, or of a split of the config's data set, each with its place.

    Raises:
        DataError: A row cannot be read.
    """
    located = stream_rows(file) if file is not None else load_split(config, split).stream()
    return ((where, sound(row)) for where, row in located)


def load_split(config: Config, split: str) -> Rows:
    """The rows of one split of the config's data set.

    Args:
        split: A role, `train`, `eval` or `test`, or any other split name.

    Raises:
        ConfigError: No data set is named.
        UnreachableError: There is no such data set, subset or split, or the hub does not respond.
    """
    if not config.settings.dataset_name:
        raise ConfigError("`dataset_name` is not set", str(config.path), "name a hub data set, a folder or a file")
    source = _open(config)
    names = _split_names(config, source)
    if split not in names:
        return source.read(split)
    name = names[split]
    if names["eval"] is None and (split != "test" or name is None):
        return _split_off(source, names, split)
    if name is None:
        hint = f"splits found: {', '.join(source.splits)}"
        raise ConfigError(f"`dataset_{split}_split` is not set", str(config.path), hint)
    return source.read(name)


@dataclass(frozen=True)
class _Source:
    """A data set whose splits are known but not yet read."""

    name: str
    splits: tuple[str, ...]
    reader: Callable[[str], Iterator[Located]]
    identity: Callable[[str], str]
    notes: tuple[str, ...] = ()
    other_names: frozenset[str] = frozenset()  # names of files that are part of a split

    def read(self, split: str) -> Rows:
        if split not in self.splits and split not in self.other_names:
            hint = f"splits found: {', '.join(self.splits) or 'none'}"
            raise UnreachableError(f"there is no split `{split}`", self.name, hint)
        return Rows(split, self.name, lambda: self.reader(split), lambda: self.identity(split), self.notes)


def _split_names(config: Config, source: _Source) -> dict[str, str | None]:
    """The split for each role; None if it has to be split off."""
    names = {role: getattr(config.settings, f"dataset_{role}_split") for role in ROLES}
    # A single file has no split names: it is always the training split.
    alone = source.splits == ("train",) and source.other_names.isdisjoint(names.values())
    return {"train": "train", "eval": None, "test": None} if alone else names


def _split_off(source: _Source, names: dict[str, str | None], role: str) -> Rows:
    """The workshop's rule for missing splits, seeded: 10 % of train, halved into eval and test; or, if there is a test
    split, as many training rows as it has. Rows of one decision stay together."""
    train = source.read(names["train"] or "train")
    groups: dict[str | int, list[int]] = {}
    count = 0
    for _, row in train.stream():
        identifier = decision_id(row) if isinstance(row, dict) else None
        groups.setdefault(count if identifier is None else identifier, []).append(count)
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
    note = f"there is no evaluation split: {share}"

    def stream() -> Iterator[Located]:
        return (located for index, located in enumerate(train.stream()) if index in kept)

    return Rows(role, source.name, stream, lambda: f"{train.identity()} {role} {sorted(kept)}", (*source.notes, note))


def _open(config: Config) -> _Source:
    name = str(config.settings.dataset_name)
    local = config.locate(name)
    subset = config.settings.dataset_subset
    if local is None:
        if name.startswith((".", "/", "~")) or name.lower().endswith(SUFFIXES):
            raise UnreachableError(f"there is no file or folder {name}", config.where("dataset_name"))
        return _hub(name, subset)
    if subset is None:
        return _local(local)
    return _subset(local, subset) or _only_pair(_local(local, any_subset=True), subset, _subsets(local))


def _local(path: Path, any_subset: bool = False) -> _Source:
    """A file, or a folder's default subset, else all of its files.

    Args:
        any_subset: Read a folder with several subsets and no default as a whole.

    Raises:
        ConfigError: The folder has several subsets and no default.
    """
    if path.is_file():
        return _from_files(str(path), {"train": [path]})
    if _is_saved(path):
        return _saved_to_disk(path)
    subsets = declared_subsets(path)
    default = default_subset(subsets)
    if default is not None:
        return _declared(path, default, subsets[default])
    if subsets and not any_subset:
        hint = f"set `dataset_subset` to one of: {', '.join(subsets)}"
        raise ConfigError("the data set has several subsets", str(path), hint)
    return _by_name(path)


def _subset(path: Path, name: str) -> _Source | None:
    """The subset that a folder's README.md declares, or that has its own subfolder; None if there is none."""
    declared = declared_subsets(path).get(name)
    if declared is not None:
        return _declared(path, name, declared)
    folder = next((inner for inner in (path / name, path / "data" / name) if inner.is_dir()), None)
    return _local(folder) if folder else None


def _subsets(path: Path) -> list[str]:
    """The names of a folder's subsets."""
    folders = {file.relative_to(path).parts[0] for file in _row_files(path) if file.parent != path}
    return sorted({*declared_subsets(path), *folders})


def _declared(path: Path, name: str, subset: Subset) -> _Source:
    if not subset.files:
        return _by_name(path / subset.folder)
    return _from_files(f"{path} ({name})", declared_files(path, subset))


def _by_name(path: Path) -> _Source:
    """The files of a folder, by the split that each name or folder means."""
    listed = _row_files(path)
    files = {(file.parent / stem(file)).relative_to(path).as_posix(): file for file in listed}
    if len(files) < len(listed):
        hint = f"keep one of each: {', '.join(str(file.relative_to(path)) for file in listed)}"
        raise DataError("two files are of the same split", str(path), hint)
    if not files:
        hint = f"name them by split: train{SUFFIXES[0]}; {KIND_HINT}"
        raise UnreachableError("the folder holds no data files", str(path), hint)
    splits, names = layout(files, str(path))
    unread = set(listed).difference(*splits.values())
    left = sorted(str(file.relative_to(path)) for file in unread)
    note = f"not part of any split: {', '.join(left[:5])}{' …' if len(left) > 5 else ''}"
    return _from_files(str(path), splits, names, (note,) if left else ())


def _row_files(path: Path) -> list[Path]:
    """The row files in a folder and its subfolders, without hidden files and descriptions of data sets."""
    files = (file for file in path.rglob("*") if is_row_file(file) and file.name not in NO_DATA and file.is_file())
    return sorted(
        file for file in files if not any(name.startswith((".", "__")) for name in file.relative_to(path).parts)
    )


def _from_files(
    name: str,
    splits: Mapping[str, Sequence[Path]],
    other_names: Mapping[str, Sequence[Path]] | None = None,
    notes: tuple[str, ...] = (),
) -> _Source:
    files = {**(other_names or {}), **splits}
    encodings = map(encoding_note, sorted({file for paths in files.values() for file in paths}))
    return _Source(
        name,
        tuple(splits),
        lambda split: stream_rows(*files[split]),
        lambda split: " ".join((READING, *map(sha256, files[split]))),
        (*notes, *filter(None, encodings)),
        frozenset(other_names or ()),
    )


def _only_pair(source: _Source, subset: str, others_found: Sequence[str]) -> _Source:
    """Rows of one language pair, like SLDS's subsets, or of several by a pattern such as `*_de`.

    Args:
        others_found: The data set's subsets, for the message if no row matches.
    """
    named = f"subsets found: {', '.join(others_found)}; " if others_found else ""

    def read(split: str) -> Iterator[Located]:
        others: set[str] = set()
        any_kept = False
        for where, row in source.reader(split):
            pair = language_pair(row) or "" if isinstance(row, dict) else None
            if pair is None or fnmatch.fnmatchcase(pair, subset):  # an unreadable row may be of any pair
                any_kept |= pair is not None
                yield where, row
            else:
                others.add(pair)
        if not any_kept and others:
            message = f"`dataset_subset: {subset}` is neither a subset nor a language pair of the rows"
            hint = f"{named}language pairs found: {', '.join(sorted(others - {''})) or 'none'}"
            raise UnreachableError(message, source.name, hint)

    notes = (*source.notes, f"language pairs {subset} only")
    return replace(source, reader=read, identity=lambda split: f"{source.identity(split)} {subset}", notes=notes)


def _is_saved(path: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote a folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _saved_to_disk(path: Path) -> _Source:
    from datasets import load_from_disk

    try:
        return _from_datasets(str(path), load_from_disk(str(path)))
    except Exception as error:
        hint = "save it again with `datasets.save_to_disk`"
        raise DataError(f"the saved data set cannot be read: {error}", str(path), hint) from error


def _hub(name: str, subset: str | None) -> _Source:
    from datasets import load_dataset

    label = f"{name} ({subset})" if subset else name
    try:
        return _from_datasets(label, load_dataset(name, subset))
    except Exception as error:
        raise unreachable(error, "data set", label) from error


def _from_datasets(name: str, data: Dataset | DatasetDict) -> _Source:
    from datasets import ClassLabel

    splits: dict[str, Dataset] = dict(data) if isinstance(data, dict) else {"train": data}

    def read(split: str) -> Iterator[Located]:
        features = splits[split].features.items()
        classes = {column: feature.names for column, feature in features if isinstance(feature, ClassLabel)}
        for number, row in enumerate(splits[split], 1):
            yield f"{name}, split {split}, row {number}", plain(row, classes)

    return _Source(name, tuple(splits), read, lambda split: f"{READING} {fingerprint_of(splits[split])}")


def unreachable(error: Exception, kind: str, name: str) -> SldsError:
    """The error for a model or data set that cannot be loaded from the hub."""
    if "BuilderConfig" in str(error):
        hint = "the hub has the data set, but not this `dataset_subset`"
    elif "Config name is missing" in str(error):
        listed = re.search(r"\[.*?\]", str(error))
        hint = f"the data set has several subsets: set `dataset_subset` to one of {listed[0] if listed else 'them'}"
    else:
        access = f"if {name} is gated, ask for access on its page, then run `hf auth login`"
        hint = f"check the name and the network; {access}; a local folder works too, offline"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") in ("1", "ON", "YES", "TRUE") else ""
    return UnreachableError(f"the {kind} cannot be reached{offline}: {first}", name, hint)
