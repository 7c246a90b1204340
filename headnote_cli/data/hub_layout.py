"""The files of each split in a folder from the hub, by the rules of `datasets`."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from headnote_cli.errors import DataError

KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
MEANINGS = {
    split: re.compile(rf"(?:.*[-._ 0-9])?(?:{'|'.join(words)})(?:[-._ 0-9].*)?", re.IGNORECASE)
    for split, words in KEYWORDS.items()
}
SHARD = re.compile(r"(?P<name>.+)-\d{5}-of-(?P<count>\d{5})(?:-.*)?")
NO_DATA = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


@dataclass(frozen=True)
class Subset:
    """A subset that a data set's README.md declares."""

    files: dict[str, list[str]] = field(default_factory=dict)  # patterns by split
    folder: str = "."  # used without patterns
    is_default: bool = False


def layout(files: Mapping[str, Path], where: str) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The files of each split, and those of each file name that is not its split's name.

    A folder's or file's name means a split if it contains one of the split's keywords. If several names mean one split,
    the split's own name is that split; the others are splits of their own. If no name means a split, all is `train`.

    Args:
        files: By their path in the folder, without suffixes: `data/train-00000-of-00002`.
        where: The folder, for messages.

    Raises:
        DataError: Some of a split's shards are missing.
    """
    by_name: dict[str, list[str]] = {}
    for path in sorted(files):
        by_name.setdefault(_name(path), []).append(path)
    by_split: dict[str, list[str]] = {}
    for name, paths in by_name.items():
        split = name if _all_in_data(paths) else _meaning(name) or name
        by_split.setdefault(split, []).append(name)
    if not any(split in KEYWORDS or _all_in_data(by_name[split]) for split in by_split):
        by_split = {"train": list(by_name)}
    splits: dict[str, list[str]] = {}
    for split, names in by_split.items():
        if split in names:
            splits |= {name: by_name[name] for name in names}
        else:
            splits[split] = [path for name in names for path in by_name[name]]
    for paths in splits.values():
        _check_shards(paths, where)
    return (
        {split: [files[path] for path in _uppermost(paths)] for split, paths in splits.items()},
        {name: [files[path] for path in paths] for name, paths in by_name.items() if name not in splits},
    )


def _name(path: str) -> str:
    """The innermost folder whose name means a split, else the file's name without its shard number."""
    *folders, last = path.split("/")
    meaning = [folder for folder in folders if _meaning(folder)]
    shard = SHARD.fullmatch(last)
    return meaning[-1] if meaning else shard["name"] if shard else last


def _meaning(name: str) -> str | None:
    return next((split for split, pattern in MEANINGS.items() if pattern.fullmatch(name)), None)


def _all_in_data(paths: list[str]) -> bool:
    """Whether all are shards in `data/`, where the hub writes them: there, a name is the split itself."""
    return all(path.startswith("data/") and SHARD.fullmatch(path.removeprefix("data/")) for path in paths)


def _uppermost(paths: list[str]) -> list[str]:
    """The files with the shortest path; a subfolder may hold a subset or an older copy."""
    depth = min(path.count("/") for path in paths)
    return [path for path in paths if path.count("/") == depth]


def _check_shards(paths: list[str], where: str) -> None:
    shards = [(shard["name"], int(shard["count"])) for path in paths if (shard := SHARD.fullmatch(path))]
    for (name, count), present in Counter(shards).items():
        if present < count:
            hint = "the download is not complete: download the data set again"
            raise DataError(f"only {present} of the {count} shards of {name} are there", where, hint)


def declared_subsets(folder: Path) -> dict[str, Subset]:
    """The subsets declared as `configs` in the YAML header of a folder's README.md, by name.

    Raises:
        DataError: The header cannot be read.
    """
    readme = folder / "README.md"
    if not readme.is_file():
        return {}
    head = re.match(r"---\r?\n(.*?)\r?\n---", readme.read_text(encoding="utf-8-sig", errors="replace"), re.DOTALL)
    try:
        card = yaml.safe_load(head[1]) if head else None
        configs = (card.get("configs") if isinstance(card, dict) else None) or []
        return {str(config["config_name"]): _subset(config) for config in configs}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        hint = "its `configs` list has for each subset a `config_name` and `data_files`"
        raise DataError(f"the YAML at its head cannot be read: {error}", str(readme), hint) from error


def _subset(config: Mapping[str, Any]) -> Subset:
    declared = config.get("data_files") or []
    entries = [declared] if isinstance(declared, str | dict) else declared
    files: dict[str, list[str]] = {}
    for entry in entries:
        split, paths = (entry["split"], entry["path"]) if isinstance(entry, dict) else ("train", entry)
        files.setdefault(str(split), []).extend([paths] if isinstance(paths, str) else paths)
    return Subset(files, str(config.get("data_dir") or "."), config.get("default") is True)


def default_subset(subsets: Mapping[str, Subset]) -> str | None:
    """The subset to read if none is named: the only one, the one marked as default, or `default`."""
    marked = [name for name, subset in subsets.items() if subset.is_default or len(subsets) == 1]
    return next(iter(marked), "default" if "default" in subsets else None)


def declared_files(folder: Path, subset: Subset) -> dict[str, list[Path]]:
    """The files of each split of a declared subset.

    Raises:
        DataError: A pattern matches no file.
    """
    by_split: dict[str, list[Path]] = {}
    root = folder / subset.folder
    for split, patterns in subset.files.items():
        for pattern in patterns:
            paths = sorted(glob.glob(pattern, root_dir=root, recursive=True))
            files = [file for path in paths if (file := root / path).is_file()]
            if not files:
                hint = "the download may not be complete: download the data set again"
                raise DataError(f"there are no files {pattern}, which README.md declares", str(folder), hint)
            by_split.setdefault(split, []).extend(files)
    return by_split
