"""Which of several processes this is, and which of them failed first."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from headnote_cli import errors
from headnote_cli.errors import ExitCode, SldsError, UsageError

FAILURE = "SLDS_FAILURE"  # where the processes of `--num-processes` note what went wrong; their parent shows it
PARENT = "SLDS_PARENT"  # the process that started them
STALE = 60.0  # seconds after which a note is an earlier job's
_STARTED = time.time()
_OPTION = re.compile(r"--(num[_-]processes|config[_-]file)(?:=(.*))?")


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

    Raises:
        UsageError: Fewer; the message says how many of how many.
    """
    started = world_size(environment)
    asked = asked_processes(environment)
    if asked > started:
        raise UsageError(
            f"{started} of {asked} processes train together: the launcher started no more",
            hint=f"`slds train --num-processes {asked}` or `torchrun --nproc_per_node {asked} -m headnote_cli train` "
            "starts them all",
        )


def asked_processes(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes are to train together: as `--num-processes`, `accelerate launch` or torchrun says.

    `accelerate launch --cpu --num_processes 2` starts one and says nothing, and so does its config file on a CPU. It
    gives its child no number either, so its own command line is read.
    """
    if "SLDS_PROCESSES" in environment:  # of our own launcher
        return int(environment["SLDS_PROCESSES"])
    # Only accelerate's launcher for one process needs a look: the others set WORLD_SIZE.
    if "WORLD_SIZE" in environment:
        return world_size(environment)
    if "ACCELERATE_MIXED_PRECISION" not in environment:
        return 1
    asked = asked_of_accelerate(_command_of(os.getppid()))
    if asked is not None:
        return asked
    # No command line to read, as on macOS: it names a meeting point for several processes only.
    return 2 if "MASTER_ADDR" in environment and not Path("/proc/self/cmdline").exists() else 1


def asked_of_accelerate(command: Sequence[str]) -> int | None:
    """The number of processes in an `accelerate launch` command line, or in the config file that it takes.

    Returns:
        None where there is none, or the command is another one.
    """
    own = _own_options(command)
    if own is None:
        return None
    given: dict[str, str] = {}
    for word, following in zip(own, [*own[1:], ""], strict=True):
        if match := _OPTION.fullmatch(word):
            given[match[1].replace("-", "_")] = match[2] if match[2] is not None else following
    if given.get("num_processes", "").isdigit():
        return int(given["num_processes"])
    if "config_file" in given:
        return _in_config_file(Path(given["config_file"]))
    return None if "--cpu" in own else _in_config_file(_default_config_file())


def _own_options(command: Sequence[str]) -> list[str] | None:
    """What stands between `launch` and the program that it starts."""
    launchers = ("launch", "accelerate-launch", "launch.py", "accelerate.commands.launch")
    start = next((i for i, word in enumerate(command) if Path(word).name in launchers), None)
    if start is None or not any("accelerate" in word for word in command[: start + 1]):
        return None
    after = list(command[start + 1 :])
    program = next((i for i, word in enumerate(after) if Path(word).name in ("headnote_cli", "slds")), len(after))
    return after[:program]


def _in_config_file(file: Path) -> int | None:
    try:
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
        return int(written["num_processes"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return None


def _default_config_file() -> Path:
    """Where `accelerate config` writes."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home) / "accelerate" / "default_config.yaml"


def _command_of(process: int) -> list[str]:
    """A process's command line, empty where the system does not say."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return [word.decode(errors="replace") for word in words if word]


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
