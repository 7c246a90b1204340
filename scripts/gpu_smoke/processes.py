"""Commands that are timed and measured from outside, each in a process of its own: Liger patches classes for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headnote_cli.config.assets import assets_root

# How an error of --strict begins: no fault of the path.
IMPOSSIBLE = "--strict: this machine cannot do what the config asks"
WITHOUT_KERNEL = "the FlashAttention-2 kernel cannot be fetched"


class Failed(Exception):
    """A command ended with an error."""


@dataclass(frozen=True)
class Done:
    """A command that has ended.

    Attributes:
        error: Its last error in one line, empty if it succeeded.
        peak_rss: Bytes of main memory at most.
        steps: Seconds since its start at which each training step was logged.
    """

    error: str
    output: str
    seconds: float
    peak_rss: int
    steps: tuple[float, ...] = ()

    @property
    def is_impossible(self) -> bool:
        return self.error.startswith((IMPOSSIBLE, WITHOUT_KERNEL))

    def require(self) -> Done:
        """
        Raises:
            Failed: It ended with an error.
        """
        if self.error:
            raise Failed(self.error)
        return self


class Work:
    """The folder of all parts, and the time that is left for them."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self._ends = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._ends - time.monotonic()

    def slds(self, *arguments: object, watched: Path | None = None) -> Done:
        """`slds` with these arguments.

        Args:
            watched: A run folder whose steps are to be timed.
        """
        return self.run([sys.executable, "-m", "headnote_cli", *map(str, arguments)], watched)

    def module(self, name: str, *arguments: object) -> Done:
        """One of this package's modules."""
        return self.run([sys.executable, "-m", f"scripts.gpu_smoke.{name}", *map(str, arguments)])

    def model(self, name: str, device: str) -> Path:
        """One of the random models, built if it is not there yet.

        Raises:
            Failed: It cannot be built.
        """
        folder = self.folder / name
        if not folder.is_dir():
            self.module("build", folder, name, device).require()
        return folder

    def run(self, command: list[str], watched: Path | None = None, online: bool = False) -> Done:
        environment = os.environ | {"HF_HUB_OFFLINE": "0" if online else "1", "SLDS_CACHE": str(self.folder / "cache")}
        out = self.folder / f"output-{time.monotonic_ns()}"
        began, steps = time.monotonic(), list[float]()
        with out.with_suffix(".out").open("w") as stdout, out.with_suffix(".err").open("w") as stderr:
            process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment)
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if self.left <= 0:
                    process.kill()
                if watched is not None and _lines(watched) > len(steps):
                    steps.append(time.monotonic() - began)
                time.sleep(0.01)
        process.returncode = os.waitstatus_to_exitcode(status)
        shown = out.with_suffix(".err").read_text(encoding="utf-8", errors="replace")
        error = "" if process.returncode == 0 else _error_in(shown) if self.left > 0 else "out of time"
        text = out.with_suffix(".out").read_text(encoding="utf-8", errors="replace")
        return Done(error, text, time.monotonic() - began, usage.ru_maxrss * 1024, tuple(steps))

    def config(self, name: str, model: Path, data: Path, **keys: Any) -> Path:
        """A config file; its run folder has the same name."""
        values = {
            "model_name_or_path": str(model), "dataset_name": str(data), "report_to": "none",
            "prompts_path": str(assets_root() / "prompts/ipst/slds"), "output_dir": str(self.folder / name),
        }  # fmt: skip
        file = self.folder / f"{name}.yaml"
        lines = (f"{key}: {json.dumps(value)}\n" for key, value in (values | keys).items())
        file.write_text("".join(lines), encoding="utf-8")
        return file


def _lines(run: Path) -> int:
    """Steps that a run has logged."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b'"loss"')
    except OSError:
        return 0


def _error_in(shown: str) -> str:
    """The last error that a command printed, in one line."""
    own = shown.rpartition("error: ")
    told = own[2] if own[1] else "".join(shown.splitlines()[-1:])
    return " ".join(told.split())[:400] or "no message"


def losses_of(run: Path) -> list[float]:
    """A run's losses, step by step."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def record_of(run: Path) -> dict[str, Any]:
    """`run.json` of a run."""
    record: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return record


def gib(size: float | None) -> str:
    return f"{size / 2**30:.2f} GiB" if size else "–"
