"""`slds runs`: a table of runs, and the differences between two."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from headnote_cli.screen.console import number


def runs_view(runs: list[dict[str, Any]]) -> RenderableType:
    """Runs, newest first."""
    if not runs:
        return Text("no runs here")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("run", "state", "steps", "loss", "eval loss", "started"):
        table.add_column(name, justify="right" if name in ("steps", "loss", "eval loss") else "left", overflow="fold")
    for run in runs:
        losses = (number(run["train_loss"]), number(run["eval_loss"]))
        table.add_row(run["run"], run["state"], str(run["steps"]), *losses, _moment(run["started"]))
    return table


def difference_view(changed: dict[str, tuple[Any, Any]]) -> RenderableType:
    """Config keys that differ between two runs."""
    if not changed:
        return Text("the same config")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("key", "first", "second"):
        table.add_column(name, overflow="fold")
    for key, values in changed.items():
        table.add_row(key, *map(str, values))
    return table


def _moment(started: str | None) -> str:
    """`2026-11-28T10:37:07+00:00` as `2026-11-28 10:37`, in local time."""
    return datetime.fromisoformat(started).astimezone().strftime("%Y-%m-%d %H:%M") if started else ""
