"""Ctrl-C and SIGTERM save the current step; the same command goes on, and the run is the same run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def start(config: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "headnote_cli", "train", "--config", str(config), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )


def wait_for_step(run: Path, step: int) -> None:
    """Until the run has logged a step."""
    for _ in range(1200):
        metrics = run / "metrics.jsonl"
        if metrics.is_file() and len(metrics.read_text().splitlines()) >= step:
            return
        time.sleep(0.1)
    raise AssertionError("training did not start")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_goes_on(
    number: int, code: int, tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(max_steps=60, save_steps=1000)
    run = tmp_path / "run"
    process = start(config)
    wait_for_step(run, 5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "saved" in errors
    assert json.loads((run / "run.json").read_text())["state"] == "interrupted"
    (checkpoint,) = run.glob("checkpoint-*")
    again = start(config, "--json")
    output, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert f"resuming from {checkpoint}" in errors
    assert json.loads(output)["steps"] == 60
    interrupted = (run / "checkpoint-60" / "adapter_model.safetensors").read_bytes()
    run.rename(tmp_path / "interrupted")
    undisturbed = start(config)
    undisturbed.communicate(timeout=240)
    assert undisturbed.returncode == 0
    assert (run / "checkpoint-60" / "adapter_model.safetensors").read_bytes() == interrupted, "bit for bit the same run"
