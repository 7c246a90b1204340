"""`slds preview-prompts`: what the model will see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from headnote_cli.config import Config
from headnote_cli.data import Rows, load_split
from headnote_cli.encoding import Encoded, Encoder, Lengths, quantiles
from headnote_cli.errors import DataError, UnreachableError, UsageError
from headnote_cli.prompts import Conversation, PromptTemplates


@dataclass(frozen=True)
class PreviewedRow:
    """One row as messages and, with a tokenizer, as the exact training sequence."""

    row: int
    split: str
    sample_id: Any
    conversation: Conversation
    encoded: Encoded | None
    overflow: str

    def to_json(self) -> dict[str, Any]:
        encoded = self.encoded
        return {
            "row": self.row,
            "split": self.split,
            "sample_id": self.sample_id,
            "prompt": self.conversation.prompt,
            "completion": self.conversation.completion,
            "text": encoded and encoded.text,
            "prompt_ids": encoded and encoded.prompt_ids,
            "completion_ids": encoded and encoded.completion_ids,
            "tokens": encoded
            and {
                "prompt": len(encoded.prompt_ids),
                "completion": len(encoded.completion_ids),
                "total": len(encoded.prompt_ids) + len(encoded.completion_ids),
                "cut": encoded.cut,
            },
            "overflow": self.overflow,
        }


@dataclass(frozen=True)
class Preview:
    """The rows asked for, and counts over the whole split."""

    rows: list[PreviewedRow]
    stats: dict[str, Any]
    source: str
    notes: tuple[str, ...]
    tokenizer_missing: str | None = None  # why there is none

    def to_json(self) -> dict[str, Any]:
        return {"rows": [row.to_json() for row in self.rows], "stats": self.stats, "source": self.source}


def preview(
    config: Config,
    count: int = 3,
    row: int | None = None,
    split: str = "train",
    stats: bool = False,
    with_tokenizer: bool = True,
    samples_if_unreachable: bool = False,
) -> Preview:
    """Render rows of a split, and encode them where a tokenizer can be had.

    Args:
        count: How many rows from the start.
        row: This row alone, counted from 1.
        stats: Encode the whole split for its counts (else only the rows shown).
        samples_if_unreachable: Show the shipped fictional rows where the data set cannot be had, and say so.

    Raises:
        UsageError: There is no such row.
        DataError: A row does not go through the templates.
    """
    rows = _rows(config, split, samples_if_unreachable)
    templates = PromptTemplates(config.path_of("prompts_path"))
    encoder, missing = _encoder(config, templates) if with_tokenizer else (None, "not asked for")
    if row is not None and not 1 <= row <= len(rows.rows):
        raise UsageError(f"--row {row}: the split `{split}` has rows 1 to {len(rows.rows)}")
    chosen = [row] if row is not None else list(range(1, min(count, len(rows.rows)) + 1))
    shown = [_previewed(rows, number, templates, encoder) for number in chosen]
    return Preview(shown, _stats(rows, encoder, stats), rows.source, rows.notes, missing)


def _rows(config: Config, split: str, samples_if_unreachable: bool) -> Rows:
    try:
        return load_split(config, split)
    except UnreachableError as error:
        if not samples_if_unreachable:
            raise
        samples = config.settings.model_copy(update={"dataset_name": "samples/slds"})
        note = f"{error}; shown instead: the fictional rows that slds ships"
        rows = load_split(replace(config, settings=samples), split)
        return replace(rows, notes=(note, *rows.notes))


def _encoder(config: Config, templates: PromptTemplates) -> tuple[Encoder | None, str | None]:
    from headnote_cli.engine.loading import base_model, load_tokenizer

    try:
        tokenizer = load_tokenizer(base_model(config), config)
    except UnreachableError as error:
        return None, str(error)
    return encoder_for(config, templates, tokenizer), None


def encoder_for(config: Config, templates: PromptTemplates, tokenizer: Any) -> Encoder:
    """The encoder that a config describes; training, preview and generation all take it."""
    settings = config.settings
    return Encoder(tokenizer, templates, settings.max_length, settings.overflow, settings.overflow_field)


def _previewed(rows: Rows, number: int, templates: PromptTemplates, encoder: Encoder | None) -> PreviewedRow:
    row = rows.rows[number - 1]
    try:
        encoded = encoder.encode(row) if encoder else None
        conversation = encoded.conversation if encoded else templates.conversation(row)
    except DataError as error:
        raise DataError(
            error.message, f"{rows.source}, split {rows.split}, row {number}: {error.where}", error.hint
        ) from error
    overflow = "" if encoder is None else "drop" if encoded is None else encoder.overflow if encoded.cut else ""
    return PreviewedRow(number, rows.split, row.get("sample_id"), conversation, encoded, overflow)


def _stats(rows: Rows, encoder: Encoder | None, whole: bool) -> dict[str, Any]:
    if encoder is None or not whole:
        characters = [len(str(row.get("decision", ""))) for row in rows.rows]
        return {"rows": len(rows.rows), "decision_characters": quantiles(characters)}
    lengths = Lengths()
    for row in rows.rows:
        lengths.add(row, encoder.encode(row))
    return lengths.summary()
