"""Bounds on code that is not ours: how long a template may run, and how much memory it may take."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STATM = "/proc/self/statm"  # only Linux tells what is in use, and holds the limit


class OutOfTimeError(Exception):
    """What runs inside `time_limit` did not come to an end."""


class _Watchdog:
    """Ends what takes too long, in whatever thread it runs.

    A loop in a template is Python code, so an exception that another thread sets there is met at its next step
    (`PyThreadState_SetAsyncExc`, Python/C API).
    """

    def __init__(self) -> None:
        self._deadlines: dict[int, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        thread = threading.get_ident()
        with self._lock:
            self._deadlines[thread] = time.monotonic() + seconds
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._deadlines[thread]

    def _watch(self) -> None:
        while True:
            time.sleep(0.25)
            with self._lock:
                for thread, deadline in self._deadlines.items():
                    if time.monotonic() > deadline:
                        error = ctypes.py_object(OutOfTimeError)
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error)


class _MemoryCeiling:
    """Lets the process grow so much and no more; whoever wants more gets a MemoryError.

    The ceiling holds for the whole process (`RLIMIT_DATA`, setrlimit(2)), so threads that overlap share the first
    one's, and the last one lifts it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = (-1, -1)
        self._possible = os.path.exists(_STATM)

    @contextmanager
    def limit(self, growth: int) -> Iterator[None]:
        if not self._possible:
            yield
            return
        import resource

        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = resource.getrlimit(resource.RLIMIT_DATA)
                ceiling = [_data_bytes() + growth, *(bound for bound in self._before if bound >= 0)]
                resource.setrlimit(resource.RLIMIT_DATA, (min(ceiling), self._before[1]))
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    resource.setrlimit(resource.RLIMIT_DATA, self._before)


def _data_bytes() -> int:
    """Bytes of data and stack that the process has mapped (proc(5), statm)."""
    import resource

    with open(_STATM, "rb", buffering=0) as stream:
        return int(stream.read().split()[5]) * resource.getpagesize()


_WATCHDOG = _Watchdog()
_CEILING = _MemoryCeiling()


@contextmanager
def limited(seconds: float, memory: int) -> Iterator[None]:
    """Run the body for at most `seconds`, with at most `memory` bytes more than the process has.

    Raises:
        OutOfTimeError: It took longer.
        MemoryError: It wanted more (on Linux; elsewhere memory is not limited).
    """
    with _WATCHDOG.limit(seconds), _CEILING.limit(memory):
        yield
