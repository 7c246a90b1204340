"""Render rows with Jinja templates to chat messages. Only the templates depend on the data set."""

from __future__ import annotations

import difflib
import hashlib
import shutil
import traceback
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
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
from jinja2.loaders import split_template_path
from jinja2.meta import find_referenced_templates, find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

from headnote_cli.data.timeout import OutOfTimeError, time_limit
from headnote_cli.errors import ConfigError, DataError

ROLES = ("system", "user", "assistant")
REQUIRED = ("user", "assistant")  # the system message is optional
RENDER_SECONDS = 10.0  # a real row takes less than a millisecond
# What rendering a row may raise: Jinja's errors, and those of the Python code beneath.
FAILURES = (
    TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError,
    OutOfTimeError,
)  # fmt: skip
LARGEST_NUMBER_BITS, LONGEST_TEXT = 10_000, 10**7
ZERO_WIDTH = "\ufeff\u200b\u2060"  # byte order mark, zero-width space, word joiner
RowFields = Mapping[str, Any]
Message = dict[str, str]


@dataclass(frozen=True)
class Conversation:
    """A row as chat messages: `prompt` (system, unless blank, and user) and `completion` (assistant)."""

    prompt: list[Message]
    completion: list[Message]


class _Null(str):
    """A null field of a row: renders as nothing; equals none and the empty text."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return other is None or str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other


class _Environment(SandboxedEnvironment):
    """Jinja's sandbox, with limits on the size of sums, products and powers."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def __init__(self, folder: Path) -> None:
        super().__init__(loader=_loader(folder), undefined=StrictUndefined)
        self.tests["none"] = lambda value: value is None or isinstance(value, _Null)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if _too_large(operator, left, right):
            raise OverflowError(f"the result of `{operator}` would be too large")
        return super().call_binop(context, operator, left, right)


def _too_large(operator: str, left: Any, right: Any) -> bool:
    """Whether the resulting integer, text, list or tuple would be longer than any row needs."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        return bits > LARGEST_NUMBER_BITS
    if operator == "+":
        return sum(len(side) for side in (left, right) if isinstance(side, Sized)) > LONGEST_TEXT
    lengths = [len(side) if isinstance(side, Sized) else side for side in (left, right)]
    repeated = any(isinstance(side, Sized) for side in (left, right)) and all(isinstance(n, int) for n in lengths)
    return operator == "*" and repeated and lengths[0] * lengths[1] > LONGEST_TEXT


def canonical(value: Any) -> Any:
    """Normalize text for prompts: NFC, LF line endings, no invisible characters at the start.

    All other characters stay, also no-break spaces: published checkpoints were trained with them.
    """
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n").lstrip(ZERO_WIDTH)
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def _loader(folder: Path) -> FileSystemLoader:
    return FileSystemLoader(folder, encoding="utf-8-sig")  # some editors add a byte order mark


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Turn errors while loading templates into ConfigErrors. Jinja evaluates constants here, hence the time limit."""
    try:
        with time_limit(RENDER_SECONDS):
            yield
    except TemplateNotFound as error:
        present = ", ".join(sorted(path.name for path in folder.glob("*.jinja"))) or "no template"
        raise ConfigError(f"there is no {error.name} (the folder holds {present})", str(folder)) from error
    except TemplateSyntaxError as error:
        raise ConfigError(f"not a valid template: {error.message}", f"{error.filename}:{error.lineno}") from error
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"a template cannot be read as UTF-8: {error}", str(folder)) from error
    except (SyntaxError, RecursionError, MemoryError, OutOfTimeError) as error:
        raise ConfigError(f"a template is too large or too deep: {error}", str(folder)) from error


def template_files(folder: Path) -> list[str]:
    """The templates of a folder and the files that they include, import or extend, by name.

    If a name is only known when rendering, all files of the folder.

    Raises:
        ConfigError: A file is not valid Jinja.
    """
    environment = SandboxedEnvironment()
    loader = _loader(folder)
    names: set[str] = set()
    unread = [f"{role}.jinja" for role in ROLES]
    while unread:
        with _loading(folder), suppress(TemplateNotFound):  # includes may ignore missing files
            name = "/".join(split_template_path(unread.pop()))
            source, file, _ = loader.get_source(environment, name)
            others = list(find_referenced_templates(environment.parse(source, name, file)))
            if None in others:
                return loader.list_templates()
            unread += [other for other in others if other is not None and name not in names]
            names.add(name)
    return sorted(names)


def _as_read(raw: bytes) -> bytes:
    """A template's bytes as Jinja reads them: no byte order mark, LF line endings."""
    return raw.removeprefix(BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


class PromptTemplates:
    """The three templates of a folder, rendered in a sandbox; unknown fields are errors.

    Otherwise Jinja's defaults apply, so the text equals the workshop's byte for byte.
    """

    def __init__(self, folder: Path) -> None:
        """Load `user.jinja`, `assistant.jinja` and, if present, `system.jinja`.

        Raises:
            ConfigError: A template is missing or not valid Jinja.
        """
        self.folder = folder
        environment = _Environment(folder)
        roles = [role for role in ROLES if role in REQUIRED or (folder / f"{role}.jinja").exists()]
        with _loading(folder):
            self._templates = {role: environment.get_template(f"{role}.jinja") for role in roles}
            sources = {role: _loader(folder).get_source(environment, f"{role}.jinja")[0] for role in roles}
            self._fields = {role: find_undeclared_variables(environment.parse(sources[role])) for role in roles}
        self.has_system = bool(sources.get("system", "").strip())
        template_files(folder)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file that rendering may read: the three by role, others by name."""
        roles = {f"{role}.jinja": role for role in ROLES}
        return {
            roles.get(name, name): hashlib.sha256(_as_read((self.folder / name).read_bytes())).hexdigest()
            for name in template_files(self.folder)
        }

    def fields(self, *roles: str) -> set[str]:
        """The row fields that the templates of these roles use; by default, of all roles."""
        return set().union(*(self._fields.get(role, set()) for role in roles or ROLES))

    def prompt(self, row: RowFields) -> list[Message]:
        """The system message, unless blank, and the user message; neither needs a headnote."""
        return [*self._message("system", row), *self._message("user", row)]

    def conversation(self, row: RowFields) -> Conversation:
        """The prompt and the assistant's completion."""
        return Conversation(self.prompt(row), self._message("assistant", row))

    def _message(self, role: str, row: RowFields) -> list[Message]:
        """A role's message; empty if the text is blank and the role is optional."""
        text = self._render(role, row) if role in self._templates else ""
        if text.strip():
            return [{"role": role, "content": text}]
        if role not in REQUIRED:
            return []
        fields = ", ".join(f"`{name}`" for name in sorted(self._fields[role])) or "none"
        what = "headnote" if role == "assistant" else "user message"
        raise DataError(f"the {what} is empty; fields of the template: {fields}", self._place(role))

    def _render(self, role: str, row: RowFields) -> str:
        try:
            values = {name: _Null() if value is None else canonical(value) for name, value in row.items()}
            with time_limit(RENDER_SECONDS):
                text = self._templates[role].render(values)
            if len(text) <= LONGEST_TEXT:
                return text
            fault = DataError(f"the template writes more than {LONGEST_TEXT:,} characters", self._place(role))
        except FAILURES as error:
            fault = DataError(self._reason(error, row), self._place(role, error))
        # Raised outside the handler, so that the error's frames, and the memory they hold, are freed.
        raise fault

    @staticmethod
    def _reason(error: Exception, row: RowFields) -> str:
        """Why a template failed on a row."""
        if isinstance(error, OutOfTimeError):
            return f"the template did not end within {RENDER_SECONDS:g} seconds on this row"
        if isinstance(error, MemoryError):
            return "the template takes more memory on this row than there is"
        if not isinstance(error, UndefinedError):
            return f"the template fails on this row: {error}"
        message = error.message or "undefined variable"
        quoted = message.split("'")
        near = difflib.get_close_matches(quoted[1], list(row), n=1) if len(quoted) > 2 else []
        hint = f"; did you mean `{near[0]}`?" if near else ""
        return f"{message}{hint} (the row has: {', '.join(row)})"

    def _place(self, role: str, error: BaseException | None = None) -> str:
        """File and line of the error's innermost template frame."""
        frames = traceback.walk_tb(error.__traceback__) if error else ()
        places = [(frame.f_code.co_filename, line) for frame, line in frames]
        in_templates = [f"{file}:{line}" for file, line in places if file.endswith(".jinja")]
        return in_templates[-1] if in_templates else str(self.folder / f"{role}.jinja")


def copy_prompts(source: Path, target: Path) -> None:
    """Copy the training templates beside a model, so that it can be prompted the same way later."""
    if source.resolve() == target.resolve():
        return
    for name in template_files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
