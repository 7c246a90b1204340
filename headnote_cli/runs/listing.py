"""`slds runs`: what was trained, when, and how far."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headnote_cli.errors import UnreachableError
from headnote_cli.runs.folders import RECORD, Run


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """A row for each run under a folder, newest first.

    Raises:
        UnreachableError: There is no such folder.
    """
    if not folder.is_dir():
        raise UnreachableError("there is no such folder", str(folder), "name the folder that holds the runs")
    records = sorted(folder.rglob(RECORD), key=lambda file: file.stat().st_mtime, reverse=True)
    return [_row(Run(record.parent)) for record in records]


def _row(run: Run) -> dict[str, Any]:
    record, lines = run.record(), run.metrics()
    metrics = record.get("metrics", {})

    def last(key: str) -> float | None:
        return next((line[key] for line in reversed(lines) if key in line), None)

    return {
        "run": str(run.folder),
        "state": _state(run, record),
        "steps": metrics.get("steps", max((line["step"] for line in lines), default=0)),
        "train_loss": metrics.get("train_loss", last("loss")),
        "eval_loss": metrics.get("eval_loss", last("eval_loss")),
        "started": record.get("started"),
        "ended": record.get("ended"),
        "checkpoints": [checkpoint.path.name for checkpoint in run.whole_checkpoints()],
    }


def _state(run: Run, record: Mapping[str, Any]) -> str:
    """The recorded state; a run recorded as running that holds no lock was killed."""
    state = str(record.get("state", "unknown"))
    return "killed" if state == "running" and not run.is_locked() else state


def difference(first: Path, second: Path) -> dict[str, tuple[Any, Any]]:
    """The config keys that differ between two runs, with both values.

    Raises:
        UnreachableError: A folder has no run.
    """
    configs = []
    for run in (first, second):
        record = Run(run).record()
        if not record:
            raise UnreachableError("the folder holds no run", str(run), f"a run has a {RECORD}")
        configs.append(record.get("config", {}))
    before, after = configs
    values = {key: (before.get(key), after.get(key)) for key in sorted({*before, *after})}
    return {key: pair for key, pair in values.items() if pair[0] != pair[1]}
