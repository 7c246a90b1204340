"""Whether a run can resume as the same run, and from where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headnote_cli.config.layers import Config
from headnote_cli.errors import UsageError
from headnote_cli.events import Listener, Note
from headnote_cli.machine.plan import Plan
from headnote_cli.machine.processes import world_size
from headnote_cli.runs.files import write_text
from headnote_cli.runs.folders import (
    LOCK,
    METRICS,
    RECORD,
    Checkpoint,
    Run,
    is_adapter,
    locked,
    set_aside,
    tampered,
)
from headnote_cli.runs.resuming import breaks_a_resume, changes_since

if TYPE_CHECKING:
    from headnote_cli.models.base import BaseModel
from headnote_cli.training.record import base_fingerprint
from headnote_cli.training.splits import Splits


def is_finished(record: Mapping[str, Any], folder: Path, emit: Listener) -> bool:
    """Whether a run has finished and its checkpoint still exists."""
    if record.get("state") != "finished":
        return False
    last = (record.get("metrics") or {}).get("checkpoint")
    if last is None or (folder / Path(last).name).is_dir():
        return True
    emit(Note(f"this run was finished, and its {Path(last).name} is gone: it is trained again from what is left"))
    return False


def require_same_run(
    config: Config, plan: Plan, base: BaseModel, record: Mapping[str, Any], folder: Path, force: bool, emit: Listener
) -> bool:
    """Report what changed since the run began.

    Returns:
        Whether it is the same run.

    Raises:
        UsageError: It is not, and `force` is not set.
    """
    known = record.get("base_fingerprint")
    is_renamed = record.get("config", {}).get("model_name_or_path") != config.settings.model_name_or_path
    same_base = is_renamed and known is not None and known == base_fingerprint(base)
    changes = changes_since(record, config.settings, plan, world_size(), same_base)
    if changes.free:
        emit(Note(f"since the run began: {', '.join(changes.free)}"))
    if changes.binding:
        _refuse_unless_forced(
            f"the config is not the one of the run in this folder: {', '.join(changes.binding)}", folder, force, emit
        )
    return not changes.binding


def require_resumable(
    config: Config, record: Mapping[str, Any], splits: Splits, folder: Path, force: bool, emit: Listener
) -> None:
    """Check that a run keeps what a resume needs, and has its original rows, prompts and tokenizer.

    Raises:
        UsageError: It does not, and `force` is not set.
    """
    for fault in breaks_a_resume(config.settings) if Run(folder).newest_whole() else ():
        _refuse_unless_forced(f"the run in this folder cannot go on as the same run: {fault}", folder, force, emit)
    before = record.get("data", {}).get("fingerprint")
    if before != splits.train.fingerprint:
        what = "the rows, the prompts or the tokenizer are not those that the run in this folder began with"
        _refuse_unless_forced(what, folder, force, emit)


def _refuse_unless_forced(what: str, folder: Path, force: bool, emit: Listener) -> None:
    """Report a change that makes the resumed run a different one: an error, or with `force` a warning."""
    if force:
        emit(Note(f"{what}; --force goes on all the same", warning=True))
        return
    hint = (
        "undo the change, set another `output_dir`, start afresh with --no-resume (the old run is set aside), or go on"
    )
    raise UsageError(what, str(folder), f"{hint} with --force")


def make_room(folder: Path, emit: Listener) -> None:
    """Implements `--no-resume`: sets aside the run in this folder."""
    if not folder.is_dir() or not any(file.name not in (LOCK, f"{LOCK}.json") for file in folder.iterdir()):
        return
    if not (folder / RECORD).is_file() and not Run(folder).checkpoints():
        hint = "choose another `output_dir`; only runs are set aside"
        raise UsageError("the folder is not empty, and holds no run of slds", str(folder), hint)
    with locked(folder):
        pass  # no run is using it
    emit(Note(f"the earlier run now lies in {set_aside(folder)}"))


def starting_point(folder: Path, emit: Listener) -> Checkpoint | None:
    """The newest complete checkpoint; incomplete and altered ones are set aside and named."""
    whole = None
    for checkpoint in reversed(Run(folder).checkpoints()):
        fault = checkpoint.fault or (tampered(checkpoint.path) if whole is None else None)
        if fault is not None:
            aside = set_aside(checkpoint.path)
            text = f"{checkpoint.path.name} is not whole ({fault}): set aside as {aside.name}"
            emit(Note(text, warning=True))
        else:
            whole = whole or checkpoint
    if whole is not None:
        emit(Note(f"resuming from {whole.path}"))
    _forget_steps_after(whole.step if whole else 0, folder)
    return whole


def start_adapter(config: Config, folder: Path) -> Path | None:
    """`peft_peft_model_path` of another run, to train on; inside the run's own folder it only selects what to merge."""
    named = config.settings.peft_peft_model_path
    path = config.locate(named) if named and config.settings.use_peft else None
    if path is None or not is_adapter(path) or path.resolve().is_relative_to(folder.resolve()):
        return None
    return path


def _forget_steps_after(step: int, folder: Path) -> None:
    """Remove the steps that a resumed run will repeat from its metrics."""
    lines = Run(folder).metrics()
    if lines:
        write_text(folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))
