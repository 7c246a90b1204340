"""Two processes: one speaks and writes, and the loss is that of one process with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def evaluations(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["eval_loss"] for entry in map(json.loads, lines) if "eval_loss" in entry]


def train(config: Path, processes: int) -> Any:
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launcher, "-m", "headnote_cli", "train", "--config", str(config), "--json"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400, check=False)


def test_two_processes_train_as_one_with_twice_the_batch(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    keys = {
        "max_steps": 4, "load_in_4bit": False, "train_sampling_strategy": "sequential", "eval_strategy": "steps",
        "eval_steps": 4, "eval_on_start": True, "per_device_eval_batch_size": 4,
    }  # fmt: skip
    two = train(
        tiny_training(name="two.yaml", output_dir=str(tmp_path / "two"), per_device_train_batch_size=2, **keys), 2
    )
    assert two.returncode == 0, two.stderr
    assert json.loads(two.stdout)["steps"] == 4, "one object on stdout: only the first process writes"
    assert "checkpoint-4" in json.loads(two.stdout)["checkpoint"]
    one = train(
        tiny_training(name="one.yaml", output_dir=str(tmp_path / "one"), per_device_train_batch_size=4, **keys), 1
    )
    assert one.returncode == 0, one.stderr
    for together, alone in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert abs(together - alone) < 2e-3
    before = [evaluations(tmp_path / name)[0] for name in ("two", "one")]
    assert abs(before[0] - before[1]) < 1e-5, "six rows in batches of 2 × 4: the two that fill up score nothing"


def test_num_processes_starts_that_many_and_fewer_are_refused(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    keys = {"max_steps": 2, "load_in_4bit": False, "output_dir": str(tmp_path / "run")}
    command = [sys.executable, "-m", "headnote_cli", "train", "--config", str(tiny_training(**keys)), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    two = subprocess.run(
        [*command, "--num-processes", "2"], capture_output=True, text=True, env=environment, timeout=400, check=False
    )
    assert two.returncode == 0, two.stderr
    assert json.loads(two.stdout)["steps"] == 2
    fewer = subprocess.run(
        [*command, "--no-resume"], capture_output=True, text=True, env=environment | {"SLDS_PROCESSES": "2"},
        timeout=400, check=False,
    )  # fmt: skip
    assert fewer.returncode == 2
    assert "1 of 2 processes train together" in json.loads(fewer.stdout)["error"]["message"]


def test_accelerate_that_starts_one_of_two_is_stopped(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    """With --cpu it starts one process whatever it is asked for, and says nothing."""
    accelerate = Path(sys.executable).with_name("accelerate")
    config = tiny_training(max_steps=2, load_in_4bit=False, output_dir=str(tmp_path / "run"))
    command = [str(accelerate), "launch", "--cpu", "--num_processes", "2", "-m", "headnote_cli", "train"]
    stopped = subprocess.run(
        [*command, "--config", str(config)], capture_output=True, text=True, timeout=400, check=False
    )
    assert stopped.returncode != 0
    assert "1 of 2 processes train together" in stopped.stderr
    assert not (tmp_path / "run").exists()
