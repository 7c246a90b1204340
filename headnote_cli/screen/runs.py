"""`slds runs`: runs in a table, and what two of them differ in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    pass
from headnote_cli.screen.console import number


def runs_view(found: list[dict[str, Any]]) -> RenderableType:
    """Runs, newest first."""
    if not found:
        return Text("no runs here")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("run", "left"), ("state", "left"), ("steps", "right"), ("loss", "right"),
                          ("eval loss", "right"), ("started", "left")):  # fmt: skip
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for one in found:
        losses = (number(one["train_loss"]), number(one["eval_loss"]))
        table.add_row(one["run"], one["state"], str(one["steps"]), *losses, str(one["started"] or ""))
    return table


def difference_view(changed: dict[str, tuple[Any, Any]]) -> RenderableType:
    """Config keys in which two runs differ."""
    if not changed:
        return Text("the same config")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("key", "first", "second"):
        table.add_column(name, overflow="fold")
    for key, (one, other) in changed.items():
        table.add_row(key, str(one), str(other))
    return table
