"""Config values with their origins, and faults that are collected and reported at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headnote_cli.errors import ConfigError


@dataclass(frozen=True)
class Origin:
    """Where a value came from."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.source, self.line, self.column) if part is not None)


@dataclass(frozen=True)
class Entry:
    """One key's value as written, and its origin."""

    value: Any
    origin: Origin


@dataclass
class Problems:
    """All faults of a config, reported at once."""

    faults: list[tuple[Origin, str]] = field(default_factory=list)

    def add(self, origin: Origin, message: str) -> None:
        self.faults.append((origin, message))

    def raise_if_any(self) -> None:
        if not self.faults:
            return
        if len(self.faults) == 1:
            origin, message = self.faults[0]
            raise ConfigError(message, str(origin))
        in_file_order = sorted(self.faults, key=lambda fault: (fault[0].source, fault[0].line or 0))
        lines = [f"  {origin}: {message}" for origin, message in in_file_order]
        raise ConfigError("\n".join([f"{len(lines)} problems in the configuration:", *lines]))


def brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
