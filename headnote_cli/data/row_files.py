"""Read files of rows one row at a time: JSON lines, JSON, CSV and parquet."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from headnote_cli.errors import DataError, UsageError

LINES, TABLES = (".jsonl", ".ndjson", ".jsonlines"), (".csv", ".tsv")
KINDS = (*LINES, ".json", *TABLES, ".parquet")
PACKED = (".gz", ".zst")
SUFFIXES = (*KINDS, *(kind + packed for kind in KINDS if kind != ".parquet" for packed in PACKED))
SEPARATORS = (";", "\t", ",", "|")
KIND_HINT = f"kinds: {' '.join(KINDS)}, all but parquet also with {' or '.join(PACKED)}"
JSON_HINT = "a JSON file is a list of objects; JSON lines hold one object on each line"
UNREADABLE = (OSError, EOFError, ValueError, zlib.error)  # raised when reading a damaged or missing file
LFS_POINTER = b"version https://git-lfs"
UTF8_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")

Row = dict[str, Any]
Located = tuple[str, Row | DataError]  # its place (file and line), and the row, or why it cannot be read


def is_row_file(path: Path) -> bool:
    """Whether a file's name has a suffix for rows."""
    return path.name.lower().endswith(SUFFIXES)


def stem(file: Path) -> str:
    """A row file's name without suffixes: `train` of `train.jsonl.gz`."""
    return file.name[: -len("".join(_kind(file)))]


def stream_rows(*files: Path) -> Iterator[Located]:
    """The rows of all files in order, each with its place; an unreadable row comes as its fault.

    Raises:
        UsageError: There is no such file.
        DataError: A file cannot be read, or there are no rows.
    """
    empty = True
    for file in files:
        try:
            for located in _reader(file):
                empty = False
                yield located
        except FileNotFoundError as error:
            raise UsageError("there is no such file", str(file)) from error
        except UNREADABLE as error:
            raise DataError(f"cannot be read: {error}", str(file)) from error
    if empty:
        raise DataError("holds no rows", ", ".join(map(str, files)))


def encoding_note(file: Path) -> str | None:
    """A note on a file's encoding; None if it is Unicode or cannot be read."""
    with contextlib.suppress(*UNREADABLE):
        if _kind(file)[0] in TABLES and _encoding(file) == "cp1252":
            return f"{file.name} is not UTF-8: it is read as Windows-1252"
    return None


def plain(row: Row, classes: Mapping[str, Sequence[str]]) -> Row | DataError:
    """A row with class names instead of numbers, and None instead of NaN.

    Args:
        classes: The names by `ClassLabel` column; `datasets` writes a missing label as -1.
    """
    values = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
    for column, names in classes.items():
        number = values.get(column)
        if isinstance(number, int) and number >= len(names):
            return DataError(f"`{column}` is class {number}, but there are names only for 0 to {len(names) - 1}")
        if isinstance(number, int):
            values[column] = names[number] if number >= 0 else None
    return values


def is_encodable(text: str) -> bool:
    """Whether a text is valid Unicode, without unpaired surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(file: Path) -> tuple[str, str]:
    """`.csv` and `.gz` for `rows.csv.gz`."""
    name = file.name.lower()
    packed = next((suffix for suffix in PACKED if name.endswith(suffix)), "")
    kind = next((kind for kind in KINDS if name.endswith(kind + packed)), "")
    return kind, packed


def _reader(file: Path) -> Iterator[Located]:
    kind, packed = _kind(file)
    if not kind or (kind == ".parquet" and packed):
        raise DataError("unknown kind of file", str(file), KIND_HINT)
    with file.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise DataError("is a pointer of Git LFS, not the data", str(file), "get the file with `git lfs pull`")
    if kind == ".parquet":
        return _read_parquet(file)
    return _read_table(file) if kind in TABLES else _read_json(file)


def _binary(file: Path) -> IO[bytes]:
    """A stream of the file's bytes, decompressed."""
    packed = _kind(file)[1]
    if packed == ".zst":
        import pyarrow

        return cast("IO[bytes]", pyarrow.input_stream(str(file), compression="zstd"))
    return cast("IO[bytes]", gzip.open(file)) if packed else file.open("rb")


def _encoding(file: Path) -> str:
    """UTF-8, -16 or -32, by the mark or the zeros at the start; a table may be Windows-1252."""
    with _binary(file) as stream:
        head = stream.read(4)
        encoding = json.detect_encoding(head)
        is_1252 = encoding == "utf-8" and _kind(file)[0] in TABLES and not _is_utf8(head, stream)
    return "cp1252" if is_1252 else encoding


def _is_utf8(head: bytes, stream: IO[bytes]) -> bool:
    """Decide by the first non-ASCII character: in other encodings its bytes are rarely valid UTF-8."""
    chunk = head
    while chunk:
        beyond = re.search(rb"[\x80-\xff]", chunk)
        if beyond:
            return UTF8_CHARACTER.match(chunk[beyond.start() :] + stream.read(3)) is not None
        chunk = stream.read(2**16)
    return True


def _lines(file: Path) -> Iterator[str]:
    """The lines of a text file, with their line endings."""
    encoding, number = _encoding(file), 0
    name = "Windows-1252" if encoding == "cp1252" else encoding[:6].upper().rstrip("-")
    with io.TextIOWrapper(_binary(file), encoding, "surrogateescape", newline="") as stream:
        try:
            for number, line in enumerate(stream, 1):
                if not is_encodable(line):  # undecodable bytes become unpaired surrogates
                    raise DataError(f"is not {name}", f"{file}:{number}", "save the file as UTF-8")
                if "\0" in line:
                    raise DataError("holds a zero byte, so it is not text", f"{file}:{number}", "write the file anew")
                yield line
        except UnicodeDecodeError as error:
            raise DataError(f"is not {name}", f"{file}:{number + 1}", "save the file as UTF-8") from error


def _read_json(file: Path) -> Iterator[Located]:
    """Read either kind of JSON under either suffix: a list of objects, or one object per line."""
    numbered = ((number, line) for number, line in enumerate(_lines(file), 1) if line.strip())
    start = list(itertools.islice(numbered, 2))
    if _is_json_lines(file, [line for _, line in start]):
        for number, line in itertools.chain(start, numbered):
            where = f"{file}:{number}"
            yield where, _json_object(line, where)
    elif start:
        for number, row in enumerate(_json_rows(file, "".join(_lines(file))), 1):
            yield f"{file}, row {number}", row


def _is_json_lines(file: Path, start: list[str]) -> bool:
    """Whether a file with these first two lines has one object per line."""
    if _kind(file)[0] in LINES:
        return not (start and re.match(r"\s*\[\s*(\{|$)", start[0]))
    return len(start) == 2 and isinstance(_json_object(start[0], ""), dict)


def _json_object(text: str, where: str) -> Row | DataError:
    try:
        row = _parsed(text)
    except (ValueError, RecursionError) as error:
        return DataError(f"not valid JSON: {error}", where)
    return row if isinstance(row, dict) else DataError("a row is a JSON object with named fields", where)


def _parsed(text: str) -> Any:
    """A JSON value, with None for NaN, which libraries write for missing numbers."""
    return json.loads(text, object_pairs_hook=_fields, parse_constant=lambda _: None)


def _fields(pairs: list[tuple[str, Any]]) -> Row:
    twice = _first_twice(name for name, _ in pairs)
    if twice is not None:
        raise ValueError(f"the field `{twice}` stands twice in one object")
    return dict(pairs)


def _json_rows(file: Path, text: str) -> list[Row]:
    try:
        value = _parsed(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}", str(file), JSON_HINT) from error
    rows = _rows_within(file, value) if isinstance(value, dict) else value
    if not _is_rows(rows):
        raise DataError("a JSON file of rows is a list of objects", str(file), JSON_HINT)
    return cast("list[Row]", rows)


def _rows_within(file: Path, value: Row) -> list[Row]:
    """The rows in a JSON object: its only list or its `data`, else the object as a single row."""
    lists = {name: inner for name, inner in value.items() if inner and _is_rows(inner)}
    if len(lists) > 1 and len(lists) == len(value):
        hint = "write each into a file of its own, named by its split: train.json"
        raise DataError(f"holds several lists of rows: {', '.join(lists)}", str(file), hint)
    if "data" in lists or len(lists) == len(value) == 1:
        return cast("list[Row]", lists.get("data") or next(iter(lists.values())))
    if value and all(isinstance(inner, list | dict) for inner in value.values()):
        hint = 'write a row as an object, with pandas: to_json(FILE, orient="records", lines=True)'
        raise DataError(f"holds columns instead of rows: {', '.join(value)}", str(file), hint)
    return [value]


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _read_table(file: Path) -> Iterator[Located]:
    csv.field_size_limit(10**9)
    lines = _lines(file)
    header, separator = _header(file, lines)
    reader = csv.reader(itertools.chain([header], lines), delimiter=separator, strict=True)
    try:
        names = next(reader, [])
        _check_names(file, names)
        for number, cells in enumerate(reader, 1):
            if any(cells):  # spreadsheets write empty rows at the end
                where = f"{file}, row {number}"
                yield where, _table_row(names, cells, where)
    except csv.Error as error:
        hint = "close each quoted cell, and write a quotation mark inside of it twice"
        raise DataError(f"the quotation marks do not match: {error}", f"{file}:{reader.line_num}", hint) from error


def _header(file: Path, lines: Iterator[str]) -> tuple[str, str]:
    """The table's header, possibly of several lines, and the separator: the most frequent one outside quotes."""
    filled = (line for line in lines if line.strip())
    header = next(filled, "")
    declared = re.fullmatch(r'"?sep=(.)"?\s*', header, re.IGNORECASE)  # Excel's way to declare it
    if declared:
        header = next(filled, "")
    while header.count('"') % 2 and (more := next(lines, "")):
        header += more
    bare = re.sub(r'"[^"]*"', "", header)
    counts = {separator: bare.count(separator) for separator in SEPARATORS}
    if declared or _kind(file)[0] == ".tsv":
        return header, declared[1] if declared else "\t"
    return header, max(SEPARATORS, key=counts.__getitem__) if any(counts.values()) else ","


def _check_names(file: Path, names: Sequence[str]) -> None:
    twice = _first_twice(name for name in names if name)
    if twice is not None:
        hint = "rename or remove one of the two"
        raise DataError(f"the column `{twice}` stands twice in the header", str(file), hint)
    if names and not any(names):
        raise DataError("the header names no column", str(file), "the first line of a table names its columns")


def _first_twice(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _table_row(names: list[str], cells: list[str], where: str) -> Row | DataError:
    """Cells by column name; missing cells are None, columns without a name are dropped."""
    if any(cells[len(names) :]):
        fault = f"the row has more cells than the header: {len(cells)} instead of {len(names)}"
        return DataError(fault, where, "put a cell that holds a separator into quotation marks")
    return {name: cell for name, cell in itertools.zip_longest(names, cells[: len(names)]) if name}


def _read_parquet(file: Path) -> Iterator[Located]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            _check_names(file, table.schema_arrow.names)
            classes = _class_names(table.schema_arrow.metadata or {})
            rows = (row for batch in table.iter_batches(batch_size=64) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield f"{file}, row {number}", plain(row, classes)
    except pyarrow.ArrowException as error:
        raise DataError(f"not a parquet file: {error}", str(file)) from error


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names of `ClassLabel` columns, from a parquet schema written by `datasets`."""
    info = json.loads(metadata.get(b"huggingface", b"{}"))
    features = info.get("info", {}).get("features") or {}
    return {
        column: feature["names"]
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
