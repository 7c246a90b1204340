"""Run the tests with the installed versions, and print these beside those of constraints.txt.

For `make test-latest`, whose environment holds the newest versions that pyproject.toml allows. The table lists the
dependencies of slds, and whatever else is not the pinned version.
"""

from __future__ import annotations

import sys
from importlib.metadata import distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.table import Table

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
OUTCOMES = ("passed", "failed", "error", "skipped")


class Counts:
    """A plugin of pytest that keeps how many tests came out which way."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        self.of = {outcome: len(terminalreporter.stats.get(outcome, [])) for outcome in OUTCOMES}


def pinned() -> dict[str, str]:
    """The version of each package in constraints.txt."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


def versions() -> Table:
    """Package, the pinned version and the installed one."""
    installed: dict[str, str] = {canonicalize_name(one.name): one.version for one in distributions()}
    required = [Requirement(text) for text in requires("headnote-cli") or ()]
    direct = {canonicalize_name(one.name) for one in required if one.marker is None}
    table = Table("package", "ours", "newest")
    for name, ours in sorted(pinned().items()):
        newest = installed.get(name)
        if newest and (name in direct or newest.partition("+")[0] != ours):
            table.add_row(name, ours, newest)
    return table


def main() -> int:
    counts = Counts()
    status = pytest.main(["-m", "not slow", "-n", "2", *sys.argv[1:]], plugins=[counts])
    console = Console()
    console.print(versions())
    console.print(", ".join(f"{count} {outcome}" for outcome, count in counts.of.items()))
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
