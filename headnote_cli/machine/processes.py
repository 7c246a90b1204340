"""Which of several processes this is, and which of them failed first."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from headnote_cli import errors
from headnote_cli.errors import ExitCode, SldsError, UsageError

PARENT = "SLDS_PARENT"  # id of the process that started this one for `--num-processes`
STALE = 60.0  # seconds; an older file is from an earlier job
_STARTED = time.time()


def rank() -> int:
    """This process's rank among those that train together, from 0."""
    return int(os.environ.get("RANK") or 0)


def world_size(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes train together, from the launcher's environment variables."""
    return int(environment.get("WORLD_SIZE") or 1)


def own_gpu(gpus: int, environment: Mapping[str, str] = os.environ) -> int:
    """The index of this process's GPU: a launcher's processes share the GPUs as in accelerate."""
    return int(environment.get("LOCAL_RANK") or 0) % max(1, gpus)


def require_all_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Fail if a launcher silently started fewer processes than requested.

    `accelerate launch --cpu --num_processes 2` starts one, without a WORLD_SIZE but with a MASTER_ADDR
    (accelerate/utils/launch.py, `prepare_simple_launcher_cmd_env`).

    Raises:
        UsageError: There are fewer.
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
    """How many processes were requested with `--num-processes`, accelerate's launcher or torchrun."""
    return int(environment.get("SLDS_PROCESSES") or world_size(environment))


def orphaned() -> bool:
    """Whether the process that started this one for `--num-processes` is gone."""
    return PARENT in os.environ and os.getppid() != int(os.environ[PARENT])


def is_to_show(error: SldsError) -> bool:
    """Whether this process shows an error. Of several, only the first to fail does, or their parent."""
    if world_size() == 1:
        return True
    if PARENT in os.environ:
        record = error.to_json() | {"exit_code": int(error.exit_code), "timestamp": time.time()}
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(record), encoding="utf-8")
        return False
    return _is_first(Path(tempfile.gettempdir()) / f"slds-{os.getppid()}-failed.json")


def _is_first(file: Path) -> bool:
    with suppress(FileNotFoundError):
        if file.stat().st_mtime < _STARTED - STALE:
            file.unlink()
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def error_from(record: Mapping[str, Any]) -> SldsError | None:
    """The error that a process recorded, or None."""
    if "type" not in record:
        return None
    error: SldsError = getattr(errors, record["type"], SldsError)(record["message"], record["where"], record["hint"])
    error.exit_code = ExitCode(record["exit_code"])
    return error
