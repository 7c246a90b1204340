"""`slds train`: the plan, and the result of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from headnote_cli.machine.plan import shown
from headnote_cli.screen.console import duration, facts_table, number

if TYPE_CHECKING:
    from headnote_cli.events import Movement
    from headnote_cli.machine.plan import PlanRow
    from headnote_cli.training.record import TrainingReport


def plan_view(plan: Sequence[PlanRow[Any]]) -> RenderableType:
    """The settings that are on, and those that differ from what was asked for and why.

    One line if nothing differs.
    """
    if not any(row.changed or row.why for row in plan):
        return Text("plan: as asked")
    table = Table(title="Plan", title_justify="left")
    rows = [row for row in plan if row.changed or shown(row.effective) not in ("false", "none", "1")]
    explained = any(row.why for row in rows)
    table.add_column("setting", no_wrap=True)
    for column in ("asked", "here", *(("why",) if explained else ())):
        table.add_column(column, overflow="fold")
    for row in rows:
        here = Text(shown(row.effective), style="yellow" if row.changed else "")
        table.add_row(row.setting, shown(row.asked), here, *((row.why,) if explained else ()))
    return table


def after_training(report: TrainingReport, options: str) -> str | None:
    """The next command to type, with the options of the config."""
    if report.state == "dry run":
        return f"slds train {options}"
    if report.checkpoint is None:
        return None
    if report.has_adapter:
        return f"slds merge --checkpoint {report.checkpoint.name} {options}"
    return f"slds generate --decision FILE.txt --lang de {options}"  # full fine-tuning: nothing to merge


def training_view(report: TrainingReport) -> RenderableType:
    """The result of a run."""
    if report.state == "dry run":
        return facts_table({"run": str(report.run), "state": "dry run: nothing was trained"})
    rows = {
        "run": str(report.run),
        "state": report.state,
        "steps": str(report.steps),
        "training loss": number(report.train_loss),
        "evaluation loss": number(report.eval_loss),
        **({"adapters": _movement(report.movement)} if report.movement else {}),
        "checkpoint": str(report.checkpoint or "none"),
        "time": duration(report.seconds),
    }
    return facts_table(rows)


def _movement(movement: Movement) -> str:
    if movement.moved == movement.adapters:
        return f"all {movement.adapters} changed"
    return f"{movement.moved} of {movement.adapters} changed; the others are in parts that text does not use"
