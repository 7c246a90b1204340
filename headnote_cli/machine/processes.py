"""Which of several processes this is, and which of them failed first."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from headnote_cli import errors
from headnote_cli.errors import ExitCode, SldsError, UsageError

FAILURE = "SLDS_FAILURE"  # where the processes of `--num-processes` note what went wrong; their parent shows it
PARENT = "SLDS_PARENT"  # the process that started them
STALE = 60.0  # seconds after which a note is an earlier job's
_STARTED = time.time()


def rank() -> int:
    """This process among those that train together, from 0."""
    return int(os.environ.get("RANK") or 0)


def world_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes train together, by the launcher's environment variables."""
    return int(environment.get("WORLD_SIZE") or 1)


def own_gpu(gpus: int, environment: Mapping[str, str] = os.environ) -> int:
    """The index of this process's GPU among so many: the processes of a launcher share them out as accelerate does."""
    return int(environment.get("LOCAL_RANK") or 0) % max(1, gpus)


def require_all_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Stop where a launcher silently started fewer processes than it was asked for.

    `accelerate launch --cpu --num_processes 2` starts one: without a WORLD_SIZE, but with a meeting point of its own
    for several (accelerate/utils/launch.py, `prepare_simple_launcher_cmd_env`).

    Raises:
        UsageError: Fewer.
    """
    started, asked = world_size(environment), asked_processes(environment)
    lone = "ACCELERATE_MIXED_PRECISION" in environment and "WORLD_SIZE" not in environment
    if asked <= started and not (lone and environment.get("MASTER_ADDR") == "127.0.0.1"):
        return
    number = asked if asked > started else "several"
    raise UsageError(
        f"{started} of {number} processes train together: the launcher started no more",
        hint="`slds train --num-processes N` or `torchrun --nproc_per_node N -m headnote_cli train` starts all of them",
    )


def asked_processes(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes are to train together, as `--num-processes`, accelerate's launcher or torchrun says."""
    return int(environment.get("SLDS_PROCESSES") or world_size(environment))


def orphaned() -> bool:
    """Whether the process that started this one for `--num-processes` is gone."""
    parent = os.environ.get(PARENT)
    return bool(parent) and os.getppid() != int(parent or 0)


def is_to_show(error: SldsError) -> bool:
    """Whether this process is to show an error: of several, the first to fail does, or whoever started them."""
    if world_size() == 1:
        return True
    import tempfile

    started_by_slds = os.environ.get(FAILURE)
    file = Path(started_by_slds or Path(tempfile.gettempdir()) / f"slds-{os.getppid()}-failed.json")
    return _is_first(file, error) and not started_by_slds


def _is_first(file: Path, error: SldsError) -> bool:
    told = {"type": type(error).__name__, "message": error.message, "where": error.where, "hint": error.hint}
    try:
        if file.stat().st_mtime < _STARTED - STALE:
            file.unlink()
    except FileNotFoundError:
        pass
    try:
        with file.open("x", encoding="utf-8") as stream:
            json.dump(told | {"exit_code": int(error.exit_code)}, stream)
    except FileExistsError:
        return False
    return True


def first_failure(file: Path) -> SldsError | None:
    """The error that the first process to fail noted, None where none did."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    error: SldsError = getattr(errors, told["type"], SldsError)(told["message"], told["where"], told["hint"])
    error.exit_code = ExitCode(told["exit_code"])
    return error
