"""Files: written atomically (to a temporary file, then renamed), appended to durably, and read and hashed with clear
errors."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headnote_cli.errors import DataError, UnreachableError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to write errors: the system's error for a full disk has none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically, so that nobody reads half of it."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text atomically; file names that are not text are escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a temporary file, flush it to the disk, and rename it."""
    _write_beside(path, (data,), f".{path.name}.{os.getpid()}.tmp")


def write_lines(path: Path, values: Iterable[object]) -> None:
    """Write JSON lines atomically, streamed."""
    _write_beside(path, map(_line, values), f".{path.name}.{os.getpid()}.tmp")


def _write_beside(path: Path, chunks: Iterable[bytes], name: str) -> None:
    """Write a temporary file first; on failure the file stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(name)
    try:
        with naming(path):
            with _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
                for chunk in chunks:
                    _write_all(descriptor, chunk)
                os.fsync(descriptor)
            temporary.replace(path)
            _flush_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)  # free its space, which a full disk needs


def _line(value: object) -> bytes:
    """A JSON line. Unpaired surrogates, which UTF-8 cannot encode, become JSON escapes."""
    return (json.dumps(value, ensure_ascii=False, default=str) + "\n").encode(errors="backslashreplace")


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all data: one system call may write only a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _flush_names(folder: Path) -> None:
    """Flush a folder's directory entries to the disk."""
    with _opened(folder, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)


@dataclass(frozen=True)
class Journal:
    """An append-only file of JSON objects, one per line.

    Appended lines are on the disk and stay there, even if the process is killed or the disk is full. An incomplete line
    is skipped, and the next one starts on a new line.
    """

    path: Path

    def lines(self) -> list[dict[str, Any]]:
        """The appended objects; empty if there is no file."""
        try:
            written = self.path.read_bytes()
        except FileNotFoundError:
            return []
        return [value for line in written.split(b"\n") if (value := _object(line)) is not None]

    def append(self, value: object) -> None:
        """Append an object and wait until it is on the disk.

        Raises:
            OSError: This object may be missing; earlier ones are safe, and more can be appended.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with naming(self.path), _opened(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as descriptor:
            size = os.fstat(descriptor).st_size
            is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            _write_all(descriptor, (b"\n" if is_torn else b"") + _line(value))
            os.fsync(descriptor)
            if is_new:
                _flush_names(self.path.parent)

    def publish(self, output: Path, values: Iterable[object]) -> None:
        """Write the objects, in their final order, to `output`; only then remove the journal.

        For one process at a time: the next one replaces what a killed one left half-written.
        """
        _write_beside(output, map(_line, values), f".{output.name}.new")
        self.path.unlink(missing_ok=True)


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object on a line, or None if it is incomplete."""
    try:
        value = json.loads(line.decode())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def is_path(name: str) -> bool:
    """Whether a name cannot be a hub id, `owner/name` or `name`."""
    return name.startswith((".", "~")) or name.endswith(".jinja") or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)


def require_there(kind: str, name: str) -> None:
    """
    Raises:
        UnreachableError: The name is a path that does not exist.
    """
    if is_path(name) and not os.path.exists(os.path.expanduser(name)):
        raise UnreachableError(f"the {kind} is not there: no such file or folder", name, "check the path")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, or None if there is no file.

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
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush(folder: Path) -> None:
    """Flush all files in a folder, and its directory entries, to the disk."""
    for path in (*folder.rglob("*"), folder):
        with _opened(path, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)


def altered(folder: Path, name: str, noted: Any, by_hash: bool = True) -> str | None:
    """What is wrong with a file, compared with its size and hash in a manifest; None if it is unchanged."""
    file = folder / name
    size = noted.get("bytes") if isinstance(noted, dict) else noted
    if not file.is_file():
        return f"{name} is missing"
    if file.stat().st_size != size:
        return f"{name} has {file.stat().st_size} bytes instead of {size}"
    if by_hash and isinstance(noted, dict) and sha256(file) != noted.get("sha256"):
        return f"{name} is not the file that was saved: its SHA-256 differs"
    return None
