"""A run's training and evaluation splits, encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headnote_cli.config.layers import Config
from headnote_cli.data.encoding import Encoder
from headnote_cli.data.leaks import leak_warnings
from headnote_cli.data.lengths import lengths_lines
from headnote_cli.data.sources import load_split
from headnote_cli.errors import DataError
from headnote_cli.events import Listener, Note
from headnote_cli.machine.plan import Plan

if TYPE_CHECKING:
    from headnote_cli.data.preparation import Prepared


@dataclass(frozen=True)
class Splits:
    """Encoded rows for training and evaluation, and lines that describe the encoding."""

    train: Prepared
    evaluation: Prepared | None
    lines: list[str]


def prepared_splits(config: Config, encoder: Encoder, plan: Plan, skip_bad_rows: bool, emit: Listener) -> Splits:
    """The encoded rows of the training and evaluation splits."""
    from headnote_cli.data.preparation import prepare

    lines: list[str] = []

    def split(role: str) -> Prepared:
        rows = load_split(config, role)
        for note in rows.notes:
            emit(Note(note))
        prepared = prepare(rows, encoder, plan.workers, skip_bad_rows)
        lines.extend(lengths_lines(rows, prepared.summary, prepared.cached))
        return prepared

    train = split("train")
    if not len(train.dataset):
        hint = "raise `max_length`, or set `overflow: structure`"
        raise DataError("no row is left to train on", str(config.settings.dataset_name), hint)
    evaluation = split("eval") if config.settings.eval_strategy != "no" else None
    if evaluation is not None and not len(evaluation.dataset):
        raise DataError("no row is left to evaluate on", str(config.settings.dataset_name), "set `eval_strategy: no`")
    for warning in leak_warnings(config):
        emit(Note(warning, warning=True))
    return Splits(train, evaluation, lines)
