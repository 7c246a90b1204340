"""The fields of a row: its ids, its languages, and their faults."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from headnote_cli.data.row_files import Row, is_encodable

LANGUAGES = ("decision_language", "headnote_language")
CHAT_COLUMNS = ("messages", "conversations", "conversation", "prompt", "completion")


def language_pair(row: Mapping[str, Any]) -> str | None:
    """`fr_de` for a French decision with a German headnote, like SLDS's subsets."""
    pair = [row.get(name) for name in LANGUAGES]
    return f"{pair[0]}_{pair[1]}" if all(isinstance(part, str) for part in pair) else None


def decision_id(row: Row) -> str | None:
    """The `decision_id` of a row as text, or None."""
    return _identifier(row.get("decision_id"))


def sample_id(row: Row) -> str | None:
    """The `sample_id` of a row as text, or None."""
    return _identifier(row.get("sample_id"))


def year_of_row(row: Mapping[str, Any]) -> int | None:
    """The `year` of a decision, or None."""
    year = _identifier(row.get("year"))
    return int(year) if year is not None and re.fullmatch(r"\d{4}", year) else None


def _identifier(value: object) -> str | None:
    """Text or a whole number as an id, None for blanks and NaN. pandas writes 12.0 for 12 if others are missing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        return None
    return re.sub(r"^(\d+)\.0$", r"\1", str(value))


def row_fault(
    row: Row, used: Iterable[str], text_fields: Iterable[str], overflow_field: str = "decision"
) -> str | None:
    """What is wrong with the fields that the templates use, or None.

    A field that is missing, None or empty is left to the templates, which may not need it. Only the text that may be
    cut and the languages must not be empty.

    Args:
        used: Fields of the templates.
        text_fields: Fields that must be text, like `overflow_field`; others may be numbers.
    """
    text_fields = {*text_fields, overflow_field}
    chat = _chat_column(row)
    if chat is not None and not text_fields <= row.keys():
        return (
            f"the row is a chat (`{chat}`), but the templates make the messages, and need the fields "
            f"{', '.join(sorted(used))}: write the texts of the messages into these fields"
        )
    for name in used:
        value = row.get(name, "")
        if name in (overflow_field, *LANGUAGES) and name in row and (value is None or not str(value).strip()):
            return f"field `{name}` is empty"
        if value is None:
            continue
        if isinstance(value, str) and not is_encodable(value):
            return f"field `{name}` is not valid Unicode"
        allowed: tuple[type, ...] = (str,) if name in text_fields or name in LANGUAGES else (str, int, float)
        if not isinstance(value, allowed) or isinstance(value, bool):
            return f"field `{name}` is not text but {type(value).__name__}"
        if name in LANGUAGES and not any(character.isalpha() for character in str(value)):
            return f"field `{name}` is not a language but `{value}`"
    return None


def _chat_column(row: Row) -> str | None:
    """The column with a list of chat messages, or None."""
    columns = (name for name in CHAT_COLUMNS if isinstance(row.get(name), list))
    return next((name for name in columns if row[name] and all(isinstance(turn, dict) for turn in row[name])), None)
