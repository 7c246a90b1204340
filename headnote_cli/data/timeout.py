"""A time limit for code that is not ours."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class OutOfTimeError(Exception):
    """The body of `time_limit` took too long."""


class _Watchdog:
    """Stops code that takes too long, in any thread.

    A template's loop is Python code, so it raises an exception that another thread sets (`PyThreadState_SetAsyncExc`,
    Python/C API) at its next step. A single operation in C is not interrupted.
    """

    def __init__(self) -> None:
        self._deadlines: dict[int, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Run the body for at most `seconds`.

        Raises:
            OutOfTimeError: It took longer.
        """
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


time_limit = _Watchdog().limit
