"""kill -9, a full disk, a second run, a step that diverges: nothing whole is lost, and the run is the same run."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headnote_cli.cli import app
from headnote_cli.runs import MANIFEST, checkpoints, locked, seal, tampered


def slds(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(config: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "headnote_cli", "train", "--config", str(config)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=os.environ.copy(), **pipes | options)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.slow
def test_five_random_kills_and_the_adapter_is_the_same_bit_for_bit(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    """Forty steps with dropout, a checkpoint every three, killed five times at random moments."""
    keys = {"max_steps": 40, "save_steps": 3, "lora_dropout": 0.1, "load_in_4bit": False, "save_total_limit": 2}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    whole = start(tiny_training(name="whole.yaml", output_dir=str(tmp_path / "whole"), **keys), **silent)
    assert whole.wait(timeout=300) == 0
    config = tiny_training(name="killed.yaml", output_dir=str(tmp_path / "killed"), **keys)
    dice, kills = random.Random(), 0
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while kills < 5:
        process = start(config, **silent)
        lines = len(metrics.read_text().splitlines()) if metrics.is_file() else 0
        while process.poll() is None and (
            not metrics.is_file() or len(metrics.read_text().splitlines()) < lines + dice.randint(1, 5)
        ):
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.3))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    last = start(config)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    assert kills >= 3, "the run ended before it could be killed often enough"
    name = "checkpoint-40/adapter_model.safetensors"
    assert digest(tmp_path / "killed" / name) == digest(tmp_path / "whole" / name)


def test_altered_and_half_written_checkpoints_are_set_aside_and_named(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert slds("train", "--config", tiny_training(max_steps=4, save_steps=1, load_in_4bit=False)).exit_code == 0
    adapter = run / "checkpoint-4" / "adapter_model.safetensors"
    content = bytearray(adapter.read_bytes())
    content[-1] ^= 1  # one bit: sizes are right, the hash is not
    adapter.write_bytes(bytes(content))
    assert checkpoints(run)[-1].fault is None
    assert "SHA-256 differs" in str(tampered(run / "checkpoint-4"))
    (run / "checkpoint-3" / "optimizer.pt").unlink()  # the libraries would go on silently without it
    (run / ".saving" / "checkpoint-9").mkdir(parents=True)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"state": "interrupted"}))
    again = slds("train", "--config", tiny_training(max_steps=4, save_steps=1, load_in_4bit=False))
    assert again.exit_code == 0, again.stderr
    assert "checkpoint-4 is not whole" in again.stderr
    assert "checkpoint-3 is not whole (optimizer.pt is missing)" in again.stderr
    assert "checkpoint-9 was being written" in again.stderr
    assert "resuming from" in again.stderr
    assert "checkpoint-2" in again.stderr


def test_a_second_run_on_the_folder_is_refused_and_the_first_is_named(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(load_in_4bit=False)
    with locked(tmp_path / "run"):
        refused = slds("train", "--config", config)
    assert refused.exit_code == 2
    assert f"process {os.getpid()}" in refused.stderr


def test_a_full_disk_is_told_and_the_state_is_kept(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    config = tiny_training(max_steps=6, save_steps=2, load_in_4bit=False)
    assert slds("train", "--config", config, "--set", "max_steps=2").exit_code == 0
    size = (tmp_path / "run" / "checkpoint-2" / "optimizer.pt").stat().st_size
    (tmp_path / "run" / "run.json").unlink()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 100, size - 100))

    process = start(config, preexec_fn=limit)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1, errors
    assert "nothing more can be written" in errors
    assert "checkpoint-2 is whole" in errors
    assert "Traceback" not in errors
    again = start(config)
    _, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    assert "resuming from" in errors


def test_a_diverging_run_stops_with_step_rows_and_last_healthy_checkpoint(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(
        max_steps=30, save_steps=1, load_in_4bit=False, use_peft=False, learning_rate=90.0,
        lr_scheduler_type="constant", max_grad_norm=0.0, warmup_steps=0,
    )  # fmt: skip
    stopped = slds("train", "--config", config)
    assert stopped.exit_code == 1
    assert "rows of this step: " in stopped.stderr
    assert "unknown" not in stopped.stderr.split("rows of this step")[1].split("→")[0]
    assert "last healthy checkpoint" in stopped.stderr
    assert "learning_rate" in stopped.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


def test_the_best_and_the_last_checkpoint_are_kept(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    config = tiny_training(
        max_steps=6, save_steps=1, load_in_4bit=False, save_total_limit=1, eval_strategy="steps", eval_steps=1,
        learning_rate=0.5, lr_scheduler_type="constant",
    )  # fmt: skip
    shown = slds("train", "--config", config)
    run = tmp_path / "run"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    assert shown.exit_code == 0, shown.stderr
    best = min(losses, key=losses.__getitem__)
    assert [one.step for one in checkpoints(run)] == sorted({best, 6})
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_sealed_folder_knows_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"abc")
    seal(folder)
    noted = json.loads((folder / MANIFEST).read_text())["files"]["a.bin"]
    assert noted == {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert tampered(folder) is None
