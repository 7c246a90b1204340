"""`make gpu-smoke` where there is no GPU: the CPU's paths run, and their losses agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.engine.smoke import COMMON, paths, report


def test_a_path_that_a_gpu_cannot_take_is_no_failure() -> None:
    results: list[dict[str, Any]] = [
        {"path": "cpu, float32", "losses": [1.0], "measured": None, "estimated": None, "seconds": 1.0},
        {"path": "gpu, SDPA, bf16", "impossible": ": bf16: true → false (needs capability 8.0)"},
    ]
    assert "| not possible here: bf16: true → false" in report(results)


def test_two_gpus_see_the_cpus_rows_of_a_step() -> None:
    two = paths(2)["2 gpus, DDP, bf16"]
    assert two["processes"] * two["per_device_train_batch_size"] == COMMON["per_device_train_batch_size"]


@pytest.mark.slow
def test_the_report_tells_of_every_path(tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    command = [sys.executable, "-m", "headnote_cli.engine.smoke", "--report", str(file), "--small"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ.copy(), timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("| cpu")]
    assert len(rows) == 3
    assert all(row.endswith("good |") for row in rows), rows
