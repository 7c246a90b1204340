"""Folders that may not be written and disks that are full: one message, and nothing half-written under its own name."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import sample_rows, save_lines

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # of linux/prctl.h and linux/capability.h
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits and capabilities of Linux")
pytestmark = LINUX


def obeying_permissions() -> None:
    """Before the command starts: root, too, may then write only where the permissions say so."""
    if os.getuid() == 0:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def on_a_full_disk() -> None:
    """Before the command starts: no file can grow beyond a few hundred bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))


def slds(arguments: list[object], before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", "-m", "headnote_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, preexec_fn=before)


@pytest.fixture
def commands(
    tiny_models: Callable[[str], Path], tiny_training: Callable[..., Path], tmp_path: Path
) -> Callable[[str, Path], list[object]]:
    """A command that writes to a place, by its name; `tmp_path/kept` has what it reads."""
    rows = sample_rows("train")
    predictions = [
        {"sample_id": row["sample_id"], "lang": row["headnote_language"], "headnote": row["headnote"]} for row in rows
    ]
    scored = save_lines(tmp_path / "predictions.jsonl", predictions)  # type: ignore[arg-type]
    references = save_lines(tmp_path / "references.jsonl", rows)

    def command(name: str, place: Path) -> list[object]:
        config = tiny_training(output_dir=str(place / "run"), load_in_4bit=False, max_steps=1)
        model = tiny_models("AutoModelForCausalLM")
        joined = ["--predictions", scored, "--references", references, "--config", config]
        writing = ["generate", "--decision", references, "--model", model, "--config", config, "--max-new-tokens", 4]
        known: dict[str, list[object]] = {
            "train": ["train", "--config", config],
            "generate": [*writing, "--limit", 1, "--output", place / "new.jsonl"],
            "evaluate": ["evaluate", *joined, "--output", place / "new.jsonl"],
            "review": ["review", *joined, "--output", place / "new.html"],
            "check-memory": ["check-memory", "--config", config, "--plot", place / "new.svg"],
        }
        return known[name]

    return command


def finished(folder: Path) -> list[str]:
    """Files that bear their own names."""
    return [file.name for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("train", "generate")]
EACH = pytest.mark.parametrize("name", [*SLOW, "evaluate", "review", "check-memory"])


@EACH
def test_a_folder_that_may_not_be_written_is_named(
    name: str, commands: Callable[[str, Path], list[object]], tmp_path: Path
) -> None:
    place = tmp_path / "kept"
    place.mkdir(mode=0o555)
    refused = slds(commands(name, place), obeying_permissions)
    assert_told(refused, place)
    assert not list(place.iterdir())


@EACH
def test_a_full_disk_leaves_nothing_half_written_and_the_same_command_mends_it(
    name: str, commands: Callable[[str, Path], list[object]], tmp_path: Path
) -> None:
    place = tmp_path / "full"
    place.mkdir()
    stopped = slds(commands(name, place), on_a_full_disk)
    assert_told(
        stopped, "$TMPDIR" if name in ("evaluate", "review") else place
    )  # there the detector of languages is unpacked
    assert not [left for left in finished(place) if not left.endswith((".part", ".lock"))]
    again = slds(commands(name, place))
    assert again.returncode == 0, again.stderr
    assert finished(place)


def assert_told(done: subprocess.CompletedProcess[str], place: object) -> None:
    """One message that names the place."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    told = done.stderr[done.stderr.index("error: ") :].replace("\n", "")
    assert str(place) in told
    assert "Errno" not in told
