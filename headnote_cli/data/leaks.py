"""Find decisions in more than one split, which evaluation would see after training."""

from __future__ import annotations

import hashlib
import itertools
from contextlib import suppress
from dataclasses import dataclass

from headnote_cli.config.layers import Config
from headnote_cli.data.fields import decision_id
from headnote_cli.data.sources import ROLES, Rows, load_split
from headnote_cli.errors import ConfigError, UnreachableError, counted
from headnote_cli.runs.files import read_json, write_json

VERSION = "2"  # raise it when the same rows would give another answer


@dataclass(frozen=True)
class Leak:
    """Decisions that two splits share, by `decision_id` and by text."""

    splits: tuple[str, str]
    ids: list[str]
    texts: int

    def __str__(self) -> str:
        first, second = self.splits
        named = f" ({', '.join(self.ids[:3])}{' …' if len(self.ids) > 3 else ''})" if self.ids else ""
        ids, texts = counted(len(self.ids), "decision_id"), counted(self.texts, "decision text")
        return f"{first} and {second} share {ids}{named} and {texts}"


def leaks(splits: dict[str, Rows], text_field: str) -> list[Leak]:
    """The shared decisions of each pair of splits, where there are any."""
    decisions = {role: _decisions(rows, text_field) for role, rows in splits.items()}
    pairs = []
    for (first, (ids, texts)), (second, (other_ids, other_texts)) in itertools.combinations(decisions.items(), 2):
        pairs.append(Leak((first, second), sorted(ids & other_ids), len(texts & other_texts)))
    return [leak for leak in pairs if leak.ids or leak.texts]


def _decisions(rows: Rows, text_field: str) -> tuple[set[str], set[bytes]]:
    """The decision ids of a split, and the hashes of the decisions' texts."""
    ids, texts = set(), set()
    with suppress(UnreachableError):  # no row of this language pair in this split
        for row in (row for _, row in rows.stream() if isinstance(row, dict)):
            identifier, text = decision_id(row), row.get(text_field)
            if identifier is not None:
                ids.add(identifier)
            if isinstance(text, str):
                texts.add(hashlib.blake2b(text.strip().encode(errors="replace"), digest_size=16).digest())
    return ids, texts


def leak_warnings(config: Config) -> list[str]:
    """One line for each pair of splits that share decisions; cached by content."""
    from headnote_cli.data.preparation import cached_json

    splits = {}
    for role in ROLES:
        with suppress(ConfigError, UnreachableError):
            splits[role] = load_split(config, role)
    field = config.settings.overflow_field
    kept = cached_json("leaks", VERSION, field, *(f"{role} {rows.identity()}" for role, rows in splits.items()))
    known = read_json(kept)
    if known is None:
        known = {"leaks": [f"{leak}: evaluation would see what training saw" for leak in leaks(splits, field)]}
        write_json(kept, known)
    return list(known["leaks"])
