"""A disk that fails at a chosen point: each opening for writing, write, flush, rename and removal is one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest

# Refused once; full from then on; the process killed; each also within a write, half of which is then on the disk.
FAULTS = ("refused", "refused half-way", "full", "full half-way", "killed", "killed half-way")


class Killed(BaseException):
    """The process is no more: nothing that it would do afterwards happens."""


class Disk:
    """Counts the points; with a fault, fails at one of them."""

    def __init__(self, fault: str = "", at: int | None = None) -> None:
        self.fault = fault
        self.at = at
        self.points = 0
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Disk:
        for name in ("open", "write", "fsync", "replace", "unlink"):
            self._patch.setattr(os, name, self._failing(name, getattr(os, name)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._patch.undo()

    def _failing(self, name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return own(*arguments, **options)
            point, self.points = self.points, self.points + 1
            if self.at is None or point < self.at:
                return own(*arguments, **options)
            if point == self.at and name == "write" and "half-way" in self.fault:
                own(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            if self.fault == "gone":
                os._exit(9)
            if self.fault.startswith("killed"):
                raise Killed
            is_full = self.fault.startswith("full") and name in ("open", "write", "fsync")
            if point == self.at or is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return own(*arguments, **options)

        return call
