"""`make gpu-smoke` where there is no GPU: all of its parts run on the CPU, with small models."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.gpu_smoke.__main__ import Smoke, run_parts
from scripts.gpu_smoke.paths import COMMON, compare_paths, paths
from scripts.gpu_smoke.processes import Done, Work
from tests.conftest import ROOT


class WithoutGpu(Work):
    """Commands that end as they do for whoever asks for what this machine lacks."""

    def run(self, command: list[str], watched: Path | None = None, online: bool = False) -> Done:
        impossible = "--strict: this machine cannot do what the config asks: bf16: true → false"
        return Done(impossible, "", 1.0, 0)

    def model(self, name: str, device: str) -> Path:
        return self.folder / name


def test_a_path_that_a_gpu_cannot_take_is_no_failure(tmp_path: Path) -> None:
    lines, is_fine, flash = compare_paths(WithoutGpu(tmp_path, 60), gpus=1)
    assert is_fine
    assert not flash
    assert sum("not possible here: --strict: this machine" in line for line in lines) == len(paths(1))


def test_two_gpus_see_the_cpus_rows_of_a_step() -> None:
    two = paths(2)["2 GPUs, DDP, bf16"]
    assert two.processes * two.keys["per_device_train_batch_size"] == COMMON["per_device_train_batch_size"]


def test_a_part_without_time_says_so_and_a_failed_one_costs_no_other(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    assert run_parts(Smoke(Work(tmp_path, 0), gpus=0), report)
    assert report.read_text(encoding="utf-8").count("not run: out of time") == 7
    assert not run_parts(Smoke(WithoutGpu(tmp_path, 60), gpus=0), report)
    written = report.read_text(encoding="utf-8")
    assert written.count("\n## ") == 7
    assert "failed: --strict" in written


def test_a_command_is_ended_when_the_time_is_up(tmp_path: Path) -> None:
    began = time.monotonic()
    done = Work(tmp_path, 0.2).run([sys.executable, "-c", "import time; time.sleep(60)"])
    assert done.error == "out of time"
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_every_part_runs_and_the_cpus_paths_agree(tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    command = [sys.executable, "-m", "scripts.gpu_smoke", "--report", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ.copy(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = file.read_text(encoding="utf-8")
    assert report.count("| good |") == len(paths(0))
    assert "| train, resumed | the same losses bit for bit |" in report
    assert "| merge --verify | verified |" in report
    ours, theirs = (
        [line.rpartition("| ")[0].rpartition("|")[2] for line in report.splitlines() if f"| {side} |" in line]
        for side in ("slds", "plain TRL")
    )
    assert ours[:2], "tokens a second of both batches"
    assert len(theirs) == 2
    assert report.count("| 4 of 4 |") == 3, "three ways to write begin alike"
    assert "failed" not in report
