"""Encode rows into an Arrow file of token ids: in parallel, streamed, and cached by content."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from headnote_cli.data.encoding import IGNORED, Encoded, Encoder
from headnote_cli.data.fields import row_fault, sample_id
from headnote_cli.data.lengths import LengthReport
from headnote_cli.data.row_files import Located
from headnote_cli.data.sources import Rows
from headnote_cli.errors import DataError
from headnote_cli.runs.files import read_json, write_json

SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32()), "name": pa.string()})
CHUNK = 16  # rows per task
SHOWN_FAULTS = 10


@dataclass(frozen=True)
class Prepared:
    """One encoded split. `summary` is from a `LengthReport`; `fingerprint` identifies rows and settings."""

    dataset: Dataset
    summary: dict[str, Any]
    fingerprint: str
    cached: bool


def cache_root() -> Path:
    """The folder of prepared splits: `$SLDS_CACHE`, else `slds` in the user's cache folder."""
    own = os.environ.get("SLDS_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "slds"


def prepare(rows: Rows, encoder: Encoder, workers: int, skip_bad: bool = False) -> Prepared:
    """Encode a split, or read it from the cache if rows, templates, tokenizer and settings are the same.

    Args:
        workers: Threads; the tokenizer runs outside Python's lock.
        skip_bad: Skip and count rows with faults instead of raising an error.

    Raises:
        DataError: Rows have faults; the first ones are listed with their place.
    """
    parts = [rows.identity(), encoder.fingerprint(), str(skip_bad), str(SCHEMA)]
    fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    folder = cache_root() / "prepared" / fingerprint
    file = folder / "rows.arrow"
    summary = read_json(folder / "summary.json")
    cached = summary is not None and file.is_file()
    if summary is None or not cached:
        temporary = folder.with_name(f".{fingerprint}.{os.getpid()}.tmp")
        temporary.mkdir(parents=True, exist_ok=True)
        try:
            summary = _write(rows, encoder, workers, skip_bad, temporary / file.name)
            write_json(temporary / "summary.json", summary)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Prepared(Dataset.from_file(str(file)), summary, fingerprint, cached)


def _write(rows: Rows, encoder: Encoder, workers: int, skip_bad: bool, file: Path) -> dict[str, Any]:
    """Stream a split into an Arrow file; return the summary."""
    report = LengthReport()
    faults: list[str] = []
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for chunk in _encoded_chunks(rows, encoder, workers):
            kept = []
            for (where, row), result in chunk:
                fields = row if isinstance(row, dict) else {}
                report.add(fields, result)
                if isinstance(result, DataError):
                    faults.append(f"{where}: {result.message}" + (f" ({result.hint})" if result.hint else ""))
                elif isinstance(result, Encoded):
                    kept.append(result.example() | {"name": sample_id(fields) or where})
            if kept:
                writer.write_batch(pa.RecordBatch.from_pylist(kept, SCHEMA))
    summary = report.summary() | {"faults": faults[:SHOWN_FAULTS]}
    if faults and not skip_bad:
        rest = [f"… and {len(faults) - SHOWN_FAULTS} more"] if len(faults) > SHOWN_FAULTS else []
        lines = [f"{len(faults)} of {summary['rows']} rows cannot be used:", *summary["faults"], *rest]
        raise DataError("\n  ".join(lines), hint="correct them, or leave them out with --skip-bad-rows")
    return summary


Result = Encoded | DataError | int  # a row, its fault, or the size of a dropped one


def _encoded_chunks(rows: Rows, encoder: Encoder, workers: int) -> Iterator[list[tuple[Located, Result]]]:
    """Chunks in row order; only a few are in flight, so memory use stays constant."""
    textual = encoder.templates.fields("assistant")
    used = encoder.templates.fields()

    def encode(located: Located) -> tuple[Located, Result]:
        where, row = located
        if isinstance(row, DataError):
            return located, row
        fault = row_fault(row, used, textual, encoder.overflow_field)
        if fault is not None:
            return located, DataError(fault, where)
        try:
            return located, encoder.encode_or_measure(row)
        except DataError as error:
            inner = f"{error.where}: {error.message}" if error.where else error.message
            return located, DataError(inner, where, error.hint)

    stream = rows.stream()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[list[tuple[Located, Result]]]] = deque()
        while True:
            while len(waiting) < 2 * workers and (chunk := list(itertools.islice(stream, CHUNK))):
                waiting.append(pool.submit(lambda part: [encode(located) for located in part], chunk))
            if not waiting:
                return
            yield waiting.popleft().result()


def cached_json(name: str, *identities: str) -> Path:
    """The cache file of a small result about rows with these identities."""
    key = hashlib.sha256(json.dumps(identities).encode()).hexdigest()
    return cache_root() / name / f"{key}.json"


def lengths_of(rows: Dataset) -> tuple[list[int], list[int]]:
    """Tokens of each prepared row, and how many of them are in the loss."""
    lengths, labelled = [], []
    for batch in rows.with_format("arrow").iter(1000):
        lengths += pc.list_value_length(batch["input_ids"]).to_pylist()
        labelled += [len(row) - row.count(IGNORED) for row in batch["labels"].to_pylist()]
    return lengths, labelled
