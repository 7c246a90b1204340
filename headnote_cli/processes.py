"""How many processes a launcher was asked for, and how many it started.

`accelerate launch --cpu --num_processes 2` starts one and says nothing, and so does its config file on a CPU. It tells
its child nothing of the number either, so its own command line is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from headnote_cli.errors import UsageError

_OPTION = re.compile(r"--(num[_-]processes|config[_-]file)(?:=(.*))?")


def started_processes(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes train together, by what the launcher told each of them."""
    return int(environment.get("WORLD_SIZE") or 1)


def require_all_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Stop where a launcher silently started fewer processes than it was asked for.

    Raises:
        UsageError: Fewer; the message says how many of how many.
    """
    started = started_processes(environment)
    asked = _asked_for(environment)
    if asked > started:
        raise UsageError(
            f"{started} of {asked} processes train together: the launcher started no more",
            hint=f"`slds train --num-processes {asked}` or `torchrun --nproc_per_node {asked} -m headnote_cli train` "
            "starts them all",
        )


def _asked_for(environment: Mapping[str, str]) -> int:
    if "SLDS_PROCESSES" in environment:  # of our own launcher
        return int(environment["SLDS_PROCESSES"])
    # Only accelerate's launcher for one process needs a look: the others tell WORLD_SIZE.
    if "WORLD_SIZE" in environment or "ACCELERATE_MIXED_PRECISION" not in environment:
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
    """A process's command line, empty where the system does not tell."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return [word.decode(errors="replace") for word in words if word]
