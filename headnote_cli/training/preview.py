"""`slds preview-prompts`: what the model sees."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from headnote_cli.config.layers import Config
from headnote_cli.data.encoding import Encoded, Encoder, encoder_for
from headnote_cli.data.fields import row_fault, sample_id
from headnote_cli.data.leaks import leak_warnings
from headnote_cli.data.lengths import quantiles
from headnote_cli.data.prompts import Conversation, PromptTemplates
from headnote_cli.data.row_files import Located, Row
from headnote_cli.data.sources import Rows, load_split
from headnote_cli.errors import ConfigError, DataError, UnreachableError, UsageError
from headnote_cli.machine.detect import detect


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
    """One row as messages, and with a tokenizer as the exact training sequence."""

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
    """The selected rows, and counts over the whole split."""

    rows: list[PreviewedRow]
    stats: dict[str, Any]
    source: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    control_tokens: tuple[str, ...] = ()
    tokenizer_missing: str | None = None  # the reason, if there is none

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
    """Render rows of a split, and encode them if a tokenizer is available.

    Args:
        stats: Encode the whole split for counts, and look for decisions that several splits contain.
        samples_if_unreachable: Show the shipped fictional rows, with a note, if the data set is unavailable.

    Raises:
        UsageError: There is no such row.
        DataError: A row has a fault or does not fit the templates.
    """
    rows, replaced = _rows(config, split, samples_if_unreachable)
    templates = PromptTemplates(config.path_of("prompts_path"))
    encoder, missing, too_long = _encoder(config, templates) if with_tokenizer else (None, "not asked for", None)
    if encoder is None and selection.only_cut:
        raise UsageError("--only-cut needs a tokenizer", hint="set `model_name_or_path` to a folder that has one")
    field = config.settings.overflow_field
    look = partial(_previewed, split=rows.split, templates=templates, encoder=encoder, overflow_field=field)
    chosen = list(_chosen(rows, selection, look, skip_bad_rows))
    if not chosen and selection.count and (selection.row or selection.sample_id):
        count = sum(1 for _ in rows.stream())
        asked = f"--row {selection.row}" if selection.row else f"--sample-id {selection.sample_id}"
        raise UsageError(f"{asked}: no such row; the split `{split}` has rows 1 to {count}")
    leaked = leak_warnings(config) if stats and replaced is None else []
    counts, cached = _stats(rows, templates, encoder if stats else None, skip_bad_rows)
    return Preview(
        chosen,
        counts,
        rows.source,
        (
            *rows.notes,
            *(encoder.notes if encoder else ()),
            *([f"{rows.split}: the counts are taken from the cache"] if cached else []),
        ),
        (*filter(None, [replaced, too_long]), *_turn_warnings(encoder), *leaked),
        tuple(encoder.control_tokens) if encoder else (),
        missing,
    )


def _rows(config: Config, split: str, samples_if_unreachable: bool) -> tuple[Rows, str | None]:
    """The split, or the shipped samples and the reason why they replace it."""
    try:
        return load_split(config, split), None
    except UnreachableError as error:
        if not samples_if_unreachable:
            raise
        samples = config.settings.model_copy(update={"dataset_name": "samples/slds"})
        note = f"{error}; shown instead: the fictional rows that slds ships"
        return load_split(replace(config, settings=samples), split), note


def _encoder(config: Config, templates: PromptTemplates) -> tuple[Encoder | None, str | None, str | None]:
    """The encoder, or why there is none; and a warning if rows may be longer than the model's positions."""
    if not config.settings.model_name_or_path:
        return None, "`model_name_or_path` is not set", None
    from headnote_cli.models.base import base_model, load_tokenizer, longer_than_made_for, require_fitting_class

    base = base_model(config)
    try:
        tokenizer = load_tokenizer(base, config)
    except UnreachableError as error:
        return None, str(error), None
    encoder = encoder_for(config, templates, tokenizer)
    if Path(base.name).is_dir() and not (Path(base.name) / "config.json").is_file():  # only a tokenizer
        return encoder, None, None
    require_fitting_class(base, config.where("model_class"))
    return encoder, None, longer_than_made_for(config, base)


def _turn_warnings(encoder: Encoder | None) -> list[str]:
    """Why training would reject the chat template, if it would."""
    try:
        if encoder is not None:
            encoder.turn_end_id()
    except ConfigError as error:
        return [f"training would refuse this: {error.message} ({error.hint})"]
    return []


def _chosen(
    rows: Rows, selection: Selection, look: Callable[[Located, int], PreviewedRow], skip_bad_rows: bool
) -> Iterator[PreviewedRow]:
    """The selected rows in order; only as many as needed are read."""
    numbered: Iterator[tuple[int, Located]] = enumerate(rows.stream(), 1)
    if selection.row is not None:
        numbered = (item for item in numbered if item[0] == selection.row)
    if selection.sample_id is not None:
        numbered = (item for item in numbered if sample_id(_fields(item[1])) == selection.sample_id)
    if selection.longest:
        by_length = sorted(numbered, key=lambda item: _characters_of(_fields(item[1])))
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
        elif single:
            raise UsageError(f"row {number} fits `max_length` and is not cut", hint="leave --only-cut out to see it")
        if not wanted:
            return


def _fields(located: Located) -> Row:
    """The fields of a row; empty if it cannot be read."""
    return {} if isinstance(located[1], DataError) else located[1]


def _characters_of(row: Row) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))


def _previewed(
    located: Located,
    number: int,
    split: str,
    templates: PromptTemplates,
    encoder: Encoder | None,
    overflow_field: str,
) -> PreviewedRow:
    where, row = located
    if isinstance(row, DataError):
        raise row
    fault = row_fault(row, templates.fields(), templates.fields("assistant"), overflow_field)
    if fault is not None:
        raise DataError(fault, where)
    try:
        encoded = encoder.encode(row) if encoder else None
        conversation = encoded.conversation if encoded else templates.conversation(row)
    except DataError as error:
        raise DataError(error.message, f"{where}: {error.where}", error.hint) from error
    overflow = "" if encoder is None else "drop" if encoded is None else encoder.overflow if encoded.cut else ""
    return PreviewedRow(number, split, row.get("sample_id"), conversation, encoded, overflow)


def _stats(
    rows: Rows, templates: PromptTemplates, encoder: Encoder | None, skip_bad_rows: bool
) -> tuple[dict[str, Any], bool]:
    """Counts over the split, of characters or, with an encoder, of tokens and cuts; and whether they were cached."""
    if encoder is None:
        return _characters(rows, templates.fields("user"), skip_bad_rows), False
    from headnote_cli.data.preparation import prepare

    prepared = prepare(rows, encoder, detect().cores, skip_bad_rows)
    return prepared.summary, prepared.cached


def _characters(rows: Rows, fields: Collection[str], skip_bad_rows: bool) -> dict[str, Any]:
    """The number of rows, and lengths of each row's longest field among `fields`."""
    lengths, unreadable = [], 0
    for _, row in rows.stream():
        if not isinstance(row, DataError):
            lengths.append(max((len(str(row.get(name, ""))) for name in fields), default=0))
        elif skip_bad_rows:
            unreadable += 1
        else:
            raise row
    counts = {"rows": len(lengths) + unreadable} | ({"rows_unreadable": unreadable} if unreadable else {})
    return counts | {"characters_of_the_longest_field": quantiles(lengths)}
