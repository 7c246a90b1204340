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

from tests.conftest import SAMPLES


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


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_the_same_command_goes_on(
    number: int, code: int, tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(max_steps=24, save_steps=1000)
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
    assert json.loads(output)["steps"] == 24
    interrupted = (run / "checkpoint-24" / "adapter_model.safetensors").read_bytes()
    run.rename(tmp_path / "interrupted")
    undisturbed = start(config)
    undisturbed.communicate(timeout=240)
    assert undisturbed.returncode == 0
    assert (run / "checkpoint-24" / "adapter_model.safetensors").read_bytes() == interrupted, "bit for bit the same run"


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    """Until a line of stderr holds a text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the run ended without saying {text!r}")


@pytest.mark.slow
def test_a_signal_in_an_evaluation_leaves_the_rest_of_it_and_the_run_is_the_same_run(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    """200 rows to evaluate on one by one take many times as long as the steps."""
    data = tmp_path / "data"
    data.mkdir()
    rows = (SAMPLES / "validation.jsonl").read_text(encoding="utf-8")
    (data / "train.jsonl").write_text((SAMPLES / "train.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    (data / "validation.jsonl").write_text(rows * 100, encoding="utf-8")
    keys = {
        "dataset_name": str(data), "max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 100,
        "load_in_4bit": False, "lora_dropout": 0.2, "per_device_eval_batch_size": 1,
    }  # fmt: skip
    config = tiny_training(**keys)
    run = tmp_path / "run"
    process = start(config)
    wait_for_step(run, 2)
    time.sleep(0.7)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "evaluation loss" not in errors, "it was cut"
    assert [folder.name for folder in run.glob("checkpoint-*")] == ["checkpoint-2"], "no further step"
    assert errors.count("checkpoint-2") == 2, "reported as saved once, and once at the end"
    keys["dataset_name"] = str(SAMPLES)
    (run / "run.json").unlink()  # fewer rows to evaluate on: the test has seen enough of the many
    again = start(tiny_training(**keys))
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "step 2: evaluation loss" in errors, "the evaluation that was left is made up for"
    interrupted = (run / "checkpoint-4" / "adapter_model.safetensors").read_bytes()
    undisturbed = start(tiny_training(output_dir=str(tmp_path / "undisturbed"), **keys))
    undisturbed.communicate(timeout=120)
    other = tmp_path / "undisturbed" / "checkpoint-4" / "adapter_model.safetensors"
    assert other.read_bytes() == interrupted, "bit for bit the same run"


@pytest.mark.slow
def test_a_second_sigterm_waits_for_the_save_and_a_second_ctrl_c_does_not(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(max_steps=60, save_steps=1000)
    process = start(config)
    wait_for_step(tmp_path / "run", 3)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert errors.count("stopping:") == 1
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1
    process = start(config)
    wait_for_line(process, "resuming from")
    lines = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    wait_for_step(tmp_path / "run", lines + 2)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped at once" in errors


@pytest.mark.slow
def test_ctrl_c_in_the_first_evaluation_promises_no_step_and_says_that_nothing_was_trained(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text((SAMPLES / "train.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    rows = (SAMPLES / "validation.jsonl").read_text(encoding="utf-8")
    (data / "validation.jsonl").write_text(rows * 300, encoding="utf-8")
    config = tiny_training(
        dataset_name=str(data), eval_strategy="steps", eval_on_start=True, per_device_eval_batch_size=1
    )
    process = start(config)
    wait_for_line(process, "trainable:")
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the rest of the evaluation is left out, nothing was trained yet" in errors
    assert "this step is finished" not in errors
    assert "stopped before the first step: nothing to save" in errors
    assert "the same command starts again" in errors
    assert not list((tmp_path / "run").glob("checkpoint-*"))
