"""`make gpu-smoke` where there is no GPU: the CPU's paths run, and their losses agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_report_tells_of_every_path(tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    command = [sys.executable, "-m", "headnote_cli.engine.smoke", "--report", str(file), "--small"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ.copy(), timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("| cpu")]
    assert len(rows) == 3
    assert all(row.endswith("good |") for row in rows), rows
