"""Predictions: the lines that `slds generate --output` writes, read back and put beside the rows that they are of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headnote_cli.data.fields import decision_id, sample_id
from headnote_cli.data.row_files import Row, stream_rows
from headnote_cli.data.sources import sound
from headnote_cli.errors import DataError, counted
from headnote_cli.runs.files import read_json

Prediction = dict[str, Any]
Key = tuple[str, str, int]  # sample, language, candidate
HINT = "predictions are the lines that `slds generate --output FILE.jsonl` writes"


@dataclass(frozen=True)
class Pair:
    """A headnote that was written, and the row with its decision and its reference headnote.

    Attributes:
        file: The name of its file, where several are read.
    """

    prediction: Prediction
    row: Row
    file: str = ""


@dataclass(frozen=True)
class Joined:
    """Predictions beside their rows, and all that has no partner; each in the order in which it came."""

    pairs: list[Pair] = field(default_factory=list)
    missing: list[Prediction] = field(default_factory=list)  # headnotes whose row is not there
    extra: list[Row] = field(default_factory=list)  # rows of which no prediction is, not even one that failed
    duplicates: list[Prediction] = field(default_factory=list)  # of a sample, language and candidate seen before
    failed: list[Prediction] = field(default_factory=list)  # with an error in the place of the headnote
    passed_over: list[Prediction] = field(default_factory=list)  # candidates of which another one was chosen

    def notes(self) -> list[str]:
        """What is to be said about those without a partner."""
        unmatched = {
            "without a row of the same sample and language, left out": self.missing,
            "of a sample, language and candidate that came before, left out": self.duplicates,
            "with an error instead of a headnote, left out": self.failed,
            "of which another candidate was chosen, left out": self.passed_over,
        }
        notes = [f"{counted(len(some), 'prediction')} {what}" for what, some in unmatched.items() if some]
        return notes + ([f"{counted(len(self.extra), 'row')} without a prediction"] if self.extra else [])


def part_of(output: Path) -> Path:
    """Where `slds generate` keeps what is written until all is there."""
    return output.with_name(f"{output.name}.part")


def settings_of(output: Path) -> Path:
    """Where `slds generate` notes all that decides what is written."""
    return output.with_name(f"{output.name}.settings.json")


def noted_settings(output: Path) -> dict[str, Any] | None:
    """What `slds generate` noted, None where it noted nothing. It once noted a server's address, too, which decides
    nothing.

    Raises:
        DataError: It cannot be read.
    """
    noted = read_json(settings_of(output))
    if noted is None:
        return None
    noted = {"grounded": False, "choose": False, "evidence": "words", **noted}  # older files do not say
    if "server" not in noted:
        return noted
    server = noted.pop("server")
    return noted | {"served_model": (server.get("model") or noted.get("model")) if isinstance(server, dict) else None}


def written_with(output: Path) -> dict[str, Any]:
    """How `slds generate` wrote a file, by setting, whatever the model; nothing where another tool wrote it.

    Raises:
        DataError: What it noted cannot be read.
    """
    noted = noted_settings(output)
    if noted is None:
        return {}
    prompting = dict(noted.get("prompting") or {})
    templates = {f"template {name}": str(sha256)[:8] for name, sha256 in prompting.pop("templates", {}).items()}
    writer = "a server" if noted.get("served_model") else "slds"
    written = {"candidates": noted.get("candidates"), "written by": writer}
    return {**(noted.get("sampling") or {}), **written, **prompting, **templates}


def is_begun(output: Path) -> bool:
    """Whether `slds generate` has begun or finished a file."""
    return part_of(output).exists() or (output.exists() and settings_of(output).exists())


def read_predictions(path: Path) -> list[Prediction]:
    """The lines of a file of predictions, as they stand there.

    Raises:
        DataError: The file cannot be read; a line is not an object, names no sample or language, or has neither a
            headnote nor an error.
    """
    predictions = []
    for where, row in stream_rows(path):
        prediction = sound(row)
        fault = _fault(prediction)
        if fault:
            raise DataError(fault, where, HINT)
        predictions.append(prediction)
    return predictions


def _fault(prediction: Prediction) -> str | None:
    """What is wrong with a line, None if nothing is."""
    named, lang = prediction.get("sample_id"), prediction.get("lang")
    if not isinstance(named, str | int) or isinstance(named, bool):
        return "has no `sample_id` that is text or a whole number"
    if not isinstance(lang, str) or not lang:
        return "has no `lang`"
    if not isinstance(prediction.get("headnote"), str) and "error" not in prediction:
        return "has neither a `headnote` nor an `error`"
    if not isinstance(prediction.get("candidate", 1), int | None):
        return "`candidate` is not a whole number"
    return None


def key_of(prediction: Prediction) -> Key:
    """What distinguishes a prediction from all others of its file."""
    return str(prediction["sample_id"]), str(prediction["lang"]), int(prediction.get("candidate") or 1)


def sample_name(row: Row, place: int) -> str:
    """What `slds generate` calls a row: its `sample_id`, else its `decision_id`, else its place, counted from 0."""
    return sample_id(row) or decision_id(row) or str(place)


def written_id(row: Row, name: str) -> str | int:
    """The `sample_id` to write for a row: a whole number as it is, else what the row is called."""
    own = row.get("sample_id")
    return own if isinstance(own, int) and not isinstance(own, bool) else name


def join(predictions: Iterable[Prediction], rows: Iterable[Row]) -> Joined:
    """Each prediction beside the row of its sample, and of its language where the row names one.

    Of several predictions of one sample, language and candidate the first with a headnote counts.

    Raises:
        DataError: Two rows are of one sample and language.
    """
    table, joined = _by_sample(rows), Joined()
    seen: set[Key] = set()
    asked: set[int] = set()
    for prediction in sorted(predictions, key=_is_failed):  # a headnote goes before an error of the same key
        key = key_of(prediction)
        row = _row_of(key, table)
        asked.add(id(row))
        if key in seen:
            joined.duplicates.append(prediction)
        elif _is_failed(prediction):
            joined.failed.append(prediction)
        elif prediction.get("chosen") is False:
            joined.passed_over.append(prediction)
        elif row is None:
            joined.missing.append(prediction)
        else:
            joined.pairs.append(Pair(prediction, row))
        seen.add(key)
    joined.extra.extend(row for of in table.values() for row in of.values() if id(row) not in asked)
    return joined


def _is_failed(prediction: Prediction) -> bool:
    return not isinstance(prediction.get("headnote"), str)


def _by_sample(rows: Iterable[Row]) -> dict[str, dict[str | None, Row]]:
    """The rows by sample, then by the language of their headnote, None where they name none.

    Raises:
        DataError: Two rows are of one sample and language.
    """
    table: dict[str, dict[str | None, Row]] = {}
    for place, row in enumerate(rows):
        name, language = sample_name(row, place), row.get("headnote_language")
        own = language if isinstance(language, str) else None
        if own in table.setdefault(name, {}):
            raise DataError(f"the sample {name} in {own or 'no language'} appears twice", f"row {place + 1}")
        table[name][own] = row
    return table


def _row_of(key: Key, table: dict[str, dict[str | None, Row]]) -> Row | None:
    by_language = table.get(key[0], {})
    return by_language.get(key[1], by_language.get(None))
