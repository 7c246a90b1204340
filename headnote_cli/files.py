"""Files: written beside and renamed, so that nobody meets half of one; read and hashed with a word on what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headnote_cli.errors import DataError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Failures to write tell the file: of a full disk the system only says that it is full."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, value: object) -> None:
    """Write beside and rename, so that a reader never meets half a file."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """The same for a text, in UTF-8; names of files that are no text are escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside, flush to the disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:  # a full disk needs the room
        temporary.unlink(missing_ok=True)
        raise


def write_lines(path: Path, values: Iterable[object]) -> int:
    """Write JSON lines as they come, each flushed, into `NAME.part`; it gets its name when all are there.

    Returns:
        How many there were.
    """
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with naming(path), part.open("w", encoding="utf-8") as stream:
        for value in values:
            stream.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
            stream.flush()
            count += 1
        os.fsync(stream.fileno())
    part.replace(path)
    return count


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, None where there is no file.

    Raises:
        DataError: The file is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", str(path)) from error
    if not isinstance(value, dict):
        raise DataError("is not a JSON object", str(path))
    return value


def sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush(folder: Path) -> None:
    """Everything in a folder, and the folder's own list of names, onto the disk."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def altered(folder: Path, name: str, noted: Any, by_hash: bool = True) -> str | None:
    """What is wrong with a file of which a manifest notes size and hash; None if it is as it was."""
    file = folder / name
    size = noted.get("bytes") if isinstance(noted, dict) else noted
    if not file.is_file():
        return f"{name} is missing"
    if file.stat().st_size != size:
        return f"{name} has {file.stat().st_size} bytes instead of {size}"
    if by_hash and isinstance(noted, dict) and sha256(file) != noted.get("sha256"):
        return f"{name} is not the file that was saved: its SHA-256 differs"
    return None
