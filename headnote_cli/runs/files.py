"""Files: written beside and renamed, so that nobody meets half of one; added to line by line, so that nothing is lost;
read and hashed with a word on what is wrong."""

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
    """Failures to write name the file: of a full disk the system only says that it is full."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_json(path: Path, value: object) -> None:
    """Write beside and rename, so that a reader never meets half a file."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """The same for a text, in UTF-8; file names that are not text are escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside, flush to the disk, rename."""
    _write_beside(path, (data,), f".{path.name}.{os.getpid()}.tmp")


def write_lines(path: Path, values: Iterable[object]) -> None:
    """The same for JSON lines, written as they come."""
    _write_beside(path, map(_line, values), f".{path.name}.{os.getpid()}.tmp")


def _write_beside(path: Path, chunks: Iterable[bytes], name: str) -> None:
    """The whole of a file under another name first; a failure leaves the file as it was."""
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
        temporary.unlink(missing_ok=True)  # a full disk needs the room


def _line(value: object) -> bytes:
    """A JSON line. Half a surrogate pair, which UTF-8 cannot hold, stands there as JSON's own escape."""
    return (json.dumps(value, ensure_ascii=False, default=str) + "\n").encode(errors="backslashreplace")


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    """The system may take a part at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _flush_names(folder: Path) -> None:
    """A folder's own list of names, onto the disk."""
    with _opened(folder, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)


@dataclass(frozen=True)
class Journal:
    """A file of JSON objects, a line each, that is only ever added to.

    What was added is on the disk and stays there, whatever ends the process or fills the disk. A line that was cut
    short is passed over, and the next one begins on a line of its own.
    """

    path: Path

    def lines(self) -> list[dict[str, Any]]:
        """What was added; nothing where there is no file."""
        try:
            written = self.path.read_bytes()
        except FileNotFoundError:
            return []
        return [value for line in written.split(b"\n") if (value := _object(line)) is not None]

    def append(self, value: object) -> None:
        """Add an object and wait until the disk has it.

        Raises:
            OSError: It may be there or not; what came before is, and the next one can be added.
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
        """Write what was added, in its final order, into `output`; only then is the journal removed.

        One process at a time: what a killed one left half-written is replaced by the next.
        """
        _write_beside(output, map(_line, values), f".{output.name}.new")
        self.path.unlink(missing_ok=True)


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object on a line, None if it is not whole: no object without its end is one."""
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
        UnreachableError: The name is a path, and nothing lies there.
    """
    if is_path(name) and not os.path.exists(os.path.expanduser(name)):
        raise UnreachableError(f"the {kind} is not there: no such file or folder", name, "check the path")


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
        with _opened(path, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)


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
