"""Which of several processes this is, and which of them failed first."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path

from headnote_cli import errors
from headnote_cli.errors import ExitCode, SldsError

FAILURE = "SLDS_FAILURE"  # where the processes of `--num-processes` note what went wrong; their parent shows it
PARENT = "SLDS_PARENT"  # the process that started them
STALE = 60.0  # seconds after which a note is an earlier job's
_STARTED = time.time()


def rank() -> int:
    """This process among those that train together, from 0."""
    return int(os.environ.get("RANK") or 0)


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def asked_processes() -> int:
    """How many processes are to train together: as `--num-processes`, `accelerate launch` or torchrun was told."""
    return int(os.environ.get("SLDS_PROCESSES") or 0) or max(world_size(), _asked_of_accelerate())


def _asked_of_accelerate() -> int:
    """`num_processes` on the command line of a parent `accelerate launch`, or in its file, 1 where there is none.

    On a machine without GPUs it starts one process, whatever it was told, and tells it nothing.
    """
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text(encoding="utf-8").split("\0")
    except (OSError, UnicodeDecodeError):
        return 1
    if "launch" not in words or not any(Path(word).name.startswith("accelerate") for word in words):
        return 1
    told = {name.lstrip("-").replace("-", "_"): value for name, value in itertools.pairwise(words)}
    if "num_processes" in told:
        return int(told["num_processes"])
    import yaml

    try:
        file = yaml.safe_load(Path(told["config_file"]).read_text(encoding="utf-8"))
        return int(file["num_processes"])
    except (KeyError, OSError, TypeError, ValueError, yaml.YAMLError):
        return 1


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
