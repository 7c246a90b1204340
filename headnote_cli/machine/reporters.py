"""Where metrics are sent. Reporting never asks for a login; without one it works offline."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from headnote_cli.errors import UsageError
from headnote_cli.machine.detect import REPORTERS


@dataclass(frozen=True)
class Tracker:
    """A reporter; without a login its metrics stay on this machine."""

    name: str
    is_offline: bool = False

    def __str__(self) -> str:
        return f"{self.name} (offline)" if self.is_offline else self.name


class _Login(NamedTuple):
    """How a reporter logs in, and the environment variable that makes it work offline."""

    key: str
    file: str  # under the home folder
    mode: str
    offline: str


# Other reporters never ask: trackio and MLflow write local files unless a server is set, the rest raise an error.
_LOGINS = {
    "wandb": _Login("WANDB_API_KEY", ".netrc", "WANDB_MODE", "offline"),
    "swanlab": _Login("SWANLAB_API_KEY", ".swanlab/.netrc", "SWANLAB_MODE", "local"),
}


def reporters_of(
    report_to: str | list[str] | None, packages: frozenset[str]
) -> tuple[list[str], tuple[Tracker, ...], str]:
    """The names asked for, the reporters that will work, and why these differ.

    Raises:
        UsageError: A name is unknown.
    """
    names = [report_to] if isinstance(report_to, str) else report_to or []
    if names == ["all"]:
        names = [name for name, package in REPORTERS.items() if package in packages]
    names = [name for name in names if name != "none"]
    if unknown := [name for name in names if name not in REPORTERS]:
        raise UsageError(f"`report_to: {', '.join(unknown)}`: write none, all, {', '.join(REPORTERS)}")
    missing = [name for name in names if REPORTERS[name] not in packages]
    effective = [Tracker(name, name in _LOGINS and not _logged_in(name)) for name in names if name not in missing]
    reasons = [f"the `{REPORTERS[name]}` package is not installed" for name in missing]
    reasons += [f"no {tracker.name} login on this machine" for tracker in effective if tracker.is_offline]
    return names, tuple(effective), "; ".join(reasons)


def offline_environment(reporters: Iterable[Tracker]) -> dict[str, str]:
    """The environment variables that make reporters without a login work offline."""
    logins = [_LOGINS[tracker.name] for tracker in reporters if tracker.is_offline]
    return {login.mode: login.offline for login in logins}


def _logged_in(name: str) -> bool:
    """Whether a reporter has a login, or its mode is set."""
    login = _LOGINS[name]
    if os.environ.get(login.key) or os.environ.get(login.mode):
        return True
    try:
        return name in (Path.home() / login.file).read_text(encoding="utf-8")
    except OSError:
        return False
