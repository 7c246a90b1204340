"""`slds preview-prompts`: what the model will see."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from headnote_cli.commands.rows import encoder_for, leak_warnings
from headnote_cli.config import Config
from headnote_cli.data import Located, Rows, load_split, row_fault
from headnote_cli.encoding import Encoded, Encoder, quantiles
from headnote_cli.errors import DataError, UnreachableError, UsageError
from headnote_cli.hardware import detect
from headnote_cli.prompts import Conversation, PromptTemplates


@dataclass(frozen=True)
class Selection:
    """Which rows of a split to show; `row` counts from 1."""

    count: int = 3
    row: int | None = None
    sample_id: str | None = None
    longest: bool = False
    only_cut: bool = False


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
    warnings: tuple[str, ...] = ()
    control_tokens: tuple[str, ...] = ()
    tokenizer_missing: str | None = None  # why there is none

    def to_json(self) -> dict[str, Any]:
        return {"rows": [row.to_json() for row in self.rows], "stats": self.stats, "source": self.source}


def preview(
    config: Config,
    selection: Selection,
    split: str = "train",
    stats: bool = False,
    with_tokenizer: bool = True,
    samples_if_unreachable: bool = False,
    skip_bad_rows: bool = False,
) -> Preview:
    """Render rows of a split, and encode them where a tokenizer can be had.

    Args:
        stats: Encode the whole split for its counts, and look for decisions that splits share.
        samples_if_unreachable: Show the shipped fictional rows where the data set cannot be had, and say so.

    Raises:
        UsageError: There is no such row.
        DataError: A row has a fault or does not go through the templates.
    """
    rows, replaced = _rows(config, split, samples_if_unreachable)
    templates = PromptTemplates(config.path_of("prompts_path"))
    textual = templates.fields("assistant") | {config.settings.overflow_field}
    encoder, missing = _encoder(config, templates) if with_tokenizer else (None, "not asked for")
    if encoder is None and selection.only_cut:
        raise UsageError("--only-cut needs a tokenizer", hint="set `model_name_or_path` to a folder that has one")
    look = partial(_previewed, split=rows.split, templates=templates, encoder=encoder, textual=textual)
    chosen = list(_chosen(rows, selection, look, skip_bad_rows))
    if not chosen and selection.count and (selection.row or selection.sample_id):
        count = sum(1 for _ in rows.stream())
        asked = f"--row {selection.row}" if selection.row else f"--sample-id {selection.sample_id}"
        raise UsageError(f"{asked}: no such row; the split `{split}` has rows 1 to {count}")
    leaked = leak_warnings(config) if stats and replaced is None else []
    return Preview(
        chosen,
        _stats(rows, templates, encoder if stats else None, skip_bad_rows),
        rows.source,
        rows.notes,
        tuple(([replaced] if replaced else []) + leaked),
        tuple(encoder.control_tokens) if encoder else (),
        missing,
    )


def _rows(config: Config, split: str, samples_if_unreachable: bool) -> tuple[Rows, str | None]:
    """The split, or the samples with the reason why they stand in for it."""
    try:
        return load_split(config, split), None
    except UnreachableError as error:
        if not samples_if_unreachable:
            raise
        samples = config.settings.model_copy(update={"dataset_name": "samples/slds"})
        note = f"{error}; shown instead: the fictional rows that slds ships"
        return load_split(replace(config, settings=samples), split), note


def _encoder(config: Config, templates: PromptTemplates) -> tuple[Encoder | None, str | None]:
    if not config.settings.model_name_or_path:
        return None, "`model_name_or_path` is not set"
    from headnote_cli.engine.base import base_model, load_tokenizer

    try:
        tokenizer = load_tokenizer(base_model(config), config)
    except UnreachableError as error:
        return None, str(error)
    return encoder_for(config, templates, tokenizer), None


def _chosen(
    rows: Rows, selection: Selection, look: Callable[[Located, int], PreviewedRow], skip_bad_rows: bool
) -> Iterator[PreviewedRow]:
    """The rows asked for, in their order; only as many are read as are needed."""
    numbered: Iterator[tuple[int, Located]] = enumerate(rows.stream(), 1)
    if selection.row is not None:
        numbered = (item for item in numbered if item[0] == selection.row)
    if selection.sample_id is not None:
        numbered = (item for item in numbered if str(item[1][1].get("sample_id")) == selection.sample_id)
    if selection.longest:
        by_length = sorted(numbered, key=lambda item: sum(len(v) for v in item[1][1].values() if isinstance(v, str)))
        numbered = iter(by_length[::-1])
    single = selection.row is not None or selection.sample_id is not None
    wanted = min(selection.count, 1) if single else selection.count
    for number, located in numbered if wanted else ():
        try:
            previewed = look(located, number)
        except DataError:
            if skip_bad_rows and not single:
                continue
            raise
        if previewed.overflow or not selection.only_cut:
            yield previewed
            wanted -= 1
        if not wanted:
            return


def _previewed(
    located: Located,
    number: int,
    split: str,
    templates: PromptTemplates,
    encoder: Encoder | None,
    textual: Collection[str],
) -> PreviewedRow:
    """
    Raises:
        DataError: The row has a fault, does not go through the templates or does not fit.
    """
    where, row = located
    fault = row_fault(row, templates.fields(), textual)
    if fault is not None:
        raise DataError(fault, where)
    try:
        encoded = encoder.encode(row) if encoder else None
        conversation = encoded.conversation if encoded else templates.conversation(row)
    except DataError as error:
        raise DataError(error.message, f"{where}: {error.where}", error.hint) from error
    overflow = "" if encoder is None else "drop" if encoded is None else encoder.overflow if encoded.cut else ""
    return PreviewedRow(number, split, row.get("sample_id"), conversation, encoded, overflow)


def _stats(rows: Rows, templates: PromptTemplates, encoder: Encoder | None, skip_bad_rows: bool) -> dict[str, Any]:
    """Counts over the split: of characters, or with an encoder of tokens and of what gives way."""
    if encoder is None:
        fields = templates.fields("user")
        characters = [max((len(str(row.get(name, ""))) for name in fields), default=0) for row in rows]
        return {"rows": len(characters), "characters_of_the_longest_field": quantiles(characters)}
    from headnote_cli.engine.preparation import prepare

    return prepare(rows, encoder, detect().cores, skip_bad_rows).summary
