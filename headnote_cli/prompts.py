"""Jinja templates → chat messages. All that is special to a data set lives in the templates."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
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
from jinja2.sandbox import SandboxedEnvironment

from headnote_cli.errors import ConfigError, DataError

ROLES = ("system", "user", "assistant")
Row = Mapping[str, Any]
Message = dict[str, str]


@dataclass(frozen=True)
class Conversation:
    """A row as chat messages: `prompt` (system, user) and `completion` (assistant)."""

    prompt: list[Message]
    completion: list[Message]


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
        environment = SandboxedEnvironment(loader=FileSystemLoader(folder), undefined=StrictUndefined)
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
            return self._templates[role].render(dict(row))
        except UndefinedError as error:
            raise DataError(self._undefined(error, row), self._place(role, error)) from error
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
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
