"""What the training rows need: their real lengths, and the memory over an epoch."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

from headnote_cli.config.keys import Settings
from headnote_cli.config.layers import Config
from headnote_cli.errors import DataError
from headnote_cli.machine.detect import detect
from headnote_cli.memory.advice import SetupFor
from headnote_cli.memory.estimate import estimate
from headnote_cli.memory.shapes import Shapes


@dataclass(frozen=True)
class DataLengths:
    """What the rows need: the peak for the longest row, and the mean weighted by tokens over an epoch."""

    rows: int
    longest: int
    labels: int  # most labelled tokens in a row
    mean_peak: int
    cut: dict[int, float]  # share of rows that a shorter `max_length` would cut
    rows_cut: int
    rows_dropped: int
    lines: list[str]  # the lines that every command shows about its rows

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "lines"}


def lengths_of_rows(config: Config, settings: Settings, shapes: Shapes, setup_for: SetupFor) -> DataLengths:
    """The memory for the rows' lengths, in the batches of training.

    Raises:
        DataError: There is no row.
    """
    lengths, labels, summary, lines = _row_lengths(config)
    if not lengths:
        hint = "raise `max_length`, or set `overflow: structure`" if summary["rows"] else None
        raise DataError("no row is left whose length could be taken", str(settings.dataset_name), hint)
    batch, limit = settings.per_device_train_batch_size, max(lengths)
    order = training_order(lengths, settings)

    @cache
    def peak(length: int, label: int) -> int:
        setup = setup_for(settings.model_copy(update={"max_length": length}))
        return estimate(shapes, dataclasses.replace(setup, labels=label)).total

    weighted = tokens = 0
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        # Rounded up to 64 tokens: exact enough for a mean, and few different estimates.
        length, label = (min(limit, -(-max(of[row] for row in rows) // 64) * 64) for of in (lengths, labels))
        weighted += peak(length, label) * length
        tokens += length
    return DataLengths(
        len(lengths),
        limit,
        max(labels),
        weighted // tokens,
        {limit // part: sum(length > limit // part for length in lengths) / len(lengths) for part in (2, 4)},
        summary["rows_cut"],
        summary["rows_dropped"],
        lines,
    )


def training_order(lengths: list[int], settings: Settings) -> list[int]:
    """The order of the first epoch: rows of similar length together, unless the config says otherwise."""
    if settings.train_sampling_strategy != "group_by_length" and "train_sampling_strategy" in settings.model_fields_set:
        order = list(range(len(lengths)))
        random.Random(settings.seed).shuffle(order)
        return order
    from headnote_cli.data.batches import GroupedByLength

    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    seed = settings.seed if settings.data_seed is None else settings.data_seed
    return list(GroupedByLength(lengths, batch, seed))


def _row_lengths(config: Config) -> tuple[list[int], list[int], dict[str, Any], list[str]]:
    """Tokens of each training row, how many are labelled, the summary of the encoding, and lines about the rows."""
    from headnote_cli.data.encoding import encoder_for
    from headnote_cli.data.lengths import lengths_lines
    from headnote_cli.data.preparation import lengths_of, prepare
    from headnote_cli.data.prompts import PromptTemplates
    from headnote_cli.data.sources import load_split
    from headnote_cli.models.base import base_model, load_tokenizer

    templates = PromptTemplates(config.path_of("prompts_path"))
    encoder = encoder_for(config, templates, load_tokenizer(base_model(config), config))
    rows = load_split(config, "train")
    prepared = prepare(rows, encoder, detect().cores)
    lines = [*rows.notes, *lengths_lines(rows, prepared.summary, prepared.cached)]
    return *lengths_of(prepared.dataset), prepared.summary, lines
