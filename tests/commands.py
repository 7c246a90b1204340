"""Commands as a user gives them, run in this process, and what a run logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from headnote_cli.cli.app import app


def slds(*arguments: object, stdin: str | None = None) -> Result:
    """Run a command."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def slds_json(*arguments: object) -> Any:
    """Run a command that must succeed, and read what it prints."""
    result = slds(*arguments, "--json")
    assert result.exit_code == 0, result.stderr + result.stdout
    return json.loads(result.stdout)


def losses(run: Path) -> list[float]:
    """The losses that a run logged, step by step."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
