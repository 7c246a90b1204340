"""Jinja templates → chat messages. All that is special to a data set lives in the templates."""

from __future__ import annotations

import ctypes
import difflib
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import (
    FileSystemLoader,
    StrictUndefined,
    TemplateError,
    TemplateNotFound,
    TemplateSyntaxError,
    UndefinedError,
)
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

from headnote_cli.errors import ConfigError, DataError

ROLES = ("system", "user", "assistant")
RENDER_SECONDS = 10.0  # a real row takes less than a millisecond
# What a template may raise on a row: Jinja's own errors, and those of the Python beneath.
FAILURES = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
LARGEST_NUMBER_BITS, LONGEST_TEXT = 10_000, 10**7
Row = Mapping[str, Any]
Message = dict[str, str]


@dataclass(frozen=True)
class Conversation:
    """A row as chat messages: `prompt` (system, user) and `completion` (assistant)."""

    prompt: list[Message]
    completion: list[Message]


class _Environment(SandboxedEnvironment):
    """Jinja's sandbox, in which products and powers stay small enough to be computed at once."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            too_large = bits > LARGEST_NUMBER_BITS
        else:
            sizes = [len(side) if isinstance(side, Sized) else abs(side) for side in (left, right)]
            too_large = operator == "*" and sizes[0] * sizes[1] > LONGEST_TEXT
        if too_large:
            raise OverflowError(f"the result of `{operator}` would be too large")
        return super().call_binop(context, operator, left, right)


class _TooLongError(Exception):
    """A template did not come to an end."""


class _Watchdog:
    """Ends renderings that take too long, in whatever thread they run.

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
                        error = ctypes.py_object(_TooLongError)
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error)


_WATCHDOG = _Watchdog()


class PromptTemplates:
    """The three templates of a folder, rendered in a sandbox where an unknown field is an error.

    Apart from strict undefined variables, Jinja's defaults hold, so the text equals the workshop's byte for byte.
    """

    def __init__(self, folder: Path) -> None:
        """Load `system.jinja`, `user.jinja` and `assistant.jinja`.

        Raises:
            ConfigError: A template is missing or is not valid Jinja.
        """
        self.folder = folder
        environment = _Environment(loader=FileSystemLoader(folder), undefined=StrictUndefined)
        try:
            self._templates = {role: environment.get_template(f"{role}.jinja") for role in ROLES}
            sources = {role: (folder / f"{role}.jinja").read_text(encoding="utf-8") for role in ROLES}
            self._fields = {role: find_undeclared_variables(environment.parse(sources[role])) for role in ROLES}
        except TemplateNotFound as error:
            present = ", ".join(sorted(path.name for path in folder.glob("*.jinja"))) or "no template"
            raise ConfigError(f"there is no {error.name} (the folder holds {present})", str(folder)) from error
        except TemplateSyntaxError as error:
            raise ConfigError(f"not a valid template: {error.message}", f"{error.filename}:{error.lineno}") from error
        except (UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"a template cannot be read as UTF-8: {error}", str(folder)) from error

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each template file of the folder (those that others include, too), by name without `.jinja`."""
        files = sorted(self.folder.rglob("*.jinja"))
        name = {file: str(file.relative_to(self.folder)).removesuffix(".jinja") for file in files}
        return {name[file]: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    def fields(self, *roles: str) -> set[str]:
        """The row's fields that templates name, of all roles or of those given."""
        return set().union(*(self._fields[role] for role in roles or ROLES))

    def prompt(self, row: Row) -> list[Message]:
        """The system and user messages, which need no headnote."""
        return [{"role": role, "content": self._render(role, row)} for role in ("system", "user")]

    def conversation(self, row: Row) -> Conversation:
        """The prompt and the assistant's completion."""
        return Conversation(self.prompt(row), [{"role": "assistant", "content": self._render("assistant", row)}])

    def _render(self, role: str, row: Row) -> str:
        try:
            with _WATCHDOG.limit(RENDER_SECONDS):
                return self._templates[role].render(dict(row))
        except _TooLongError as error:
            message = f"the template did not end within {RENDER_SECONDS:g} seconds on this row"
            raise DataError(message, self._place(role, error)) from None
        except UndefinedError as error:
            raise DataError(self._undefined(error, row), self._place(role, error)) from error
        except (
            TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:
            raise DataError(f"the template fails on this row: {error}", self._place(role, error)) from error

    def _place(self, role: str, error: BaseException) -> str:
        """File and line of the template in which the innermost frame of the error lies."""
        file, line, trace = str(self.folder / f"{role}.jinja"), None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename.endswith(".jinja"):
                file, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
            trace = trace.tb_next
        return f"{file}:{line}" if line else file

    @staticmethod
    def _undefined(error: UndefinedError, row: Row) -> str:
        message = error.message or "undefined variable"
        quoted = message.split("'")
        near = difflib.get_close_matches(quoted[1], list(row), n=1) if len(quoted) > 2 else []
        hint = f"; did you mean `{near[0]}`?" if near else ""
        return f"{message}{hint} (the row has: {', '.join(row)})"
