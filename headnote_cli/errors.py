"""The errors that a user can see, each with its exit code."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NOT_ALLOWED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR})


class ExitCode(IntEnum):
    """What the process returns; scripts rely on these numbers."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    DOES_NOT_FIT = 3
    UNREACHABLE = 4
    BAD_DATA = 5
    INTERRUPTED = 130
    TERMINATED = 143


@dataclass
class SldsError(Exception):
    """One clear message: what is wrong, where, and how to fix it."""

    message: str
    where: str | None = None
    hint: str | None = None

    exit_code = ExitCode.FAILED

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    def to_json(self) -> dict[str, str | None]:
        return {"type": type(self).__name__, "message": self.message, "where": self.where, "hint": self.hint}


class UsageError(SldsError):
    """Options or arguments that cannot be used."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """A configuration file, key or template that cannot be used."""


class DoesNotFitError(SldsError):
    """More memory is needed than is available."""

    exit_code = ExitCode.DOES_NOT_FIT


class UnreachableError(SldsError):
    """A model or data set that is missing, gated or offline."""

    exit_code = ExitCode.UNREACHABLE


class DataError(SldsError):
    """Rows or files whose content cannot be used."""

    exit_code = ExitCode.BAD_DATA


class DivergedError(SldsError):
    """A step that must not update the weights: its loss or gradient is NaN, infinite or far too large."""


class UnsoundTrainingError(SldsError):
    """A run that does not train as it should: adapters do not change, or a library warns about it."""


@dataclass
class Interrupted(SldsError):
    """The user or the system stopped the run; its state is saved."""

    exit_code: ExitCode = ExitCode.INTERRUPTED


@contextmanager
def package(name: str, extra: str, what: str = "this", where: str | None = None, otherwise: str = "") -> Iterator[None]:
    """Import a package that an extra of slds installs.

    Args:
        what: What needs the package.
        otherwise: An alternative, added to the hint.

    Raises:
        UsageError: The package is not installed.
    """
    try:
        yield
    except ImportError as error:
        hint = f"install it with `pip install 'headnote-cli[{extra}]'`{otherwise}"
        raise UsageError(f"{what} takes the `{name}` package", where, hint) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory: from Python, the GPU, its libraries (cuBLAS, cuDNN), or the CPU allocator,
    which raises a plain RuntimeError."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "STATUS_ALLOC_FAILED")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))
    )


def in_words(error: Exception) -> SldsError:
    """Any error as an `SldsError`: out of memory, disk full, permission denied, or unexpected."""
    if isinstance(error, SldsError):
        return error
    if is_out_of_memory(error):
        hint = "see `slds check-memory` for what fits: a smaller batch or `max_length`, 4-bit, gradient checkpointing"
        return DoesNotFitError(f"out of memory: {error}", hint=hint)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        hint = "make room, or choose another place; temporary files go to $TMPDIR"
        return SldsError(f"cannot be written: {error.strerror}", error.filename and str(error.filename), hint)
    if isinstance(error, OSError) and error.filename and error.errno in NOT_ALLOWED:
        return SldsError(str(error.strerror), str(error.filename), "see who may read and write it")
    return SldsError(f"{type(error).__name__}: {error}", hint="run again with --debug for the traceback")


def is_of_the_network(error: BaseException) -> bool:
    """Whether an error comes from an HTTP client: an interrupted download does not raise an OSError."""
    library = type(error).__module__.partition(".")[0]
    return library in ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")


def counted(count: int, noun: str) -> str:
    """`1 row`, `1,024 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
