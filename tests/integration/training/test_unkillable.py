"""kill -9, a full disk, a second run, a step that diverges: nothing whole is lost, and the run is the same run."""

from __future__ import annotations

import errno
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
from types import SimpleNamespace
from typing import Any

import pytest

from headnote_cli.errors import is_out_of_memory
from headnote_cli.runs.files import write_json
from headnote_cli.runs.folders import MANIFEST, Run, locked, seal, tampered
from tests.commands import slds


def start(config: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "headnote_cli", "train", "--config", str(config)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=os.environ.copy(), **pipes | options)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def killed_and_whole(
    tiny_training: Callable[..., Path], folder: Path, kills: int, **keys: Any
) -> tuple[int, Path, Path]:
    """The same config trained undisturbed and killed at random steps; how often, and the two run folders.

    The steps are drawn from a fixed seed, the moment within a step is not: that is what a kill is.
    """
    keys = {"save_steps": 3, "lora_dropout": 0.1, "load_in_4bit": False, "save_total_limit": 2} | keys
    whole, killed = folder / "whole", folder / "killed"
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    undisturbed = start(tiny_training(name="whole.yaml", output_dir=str(whole), **keys), **silent)
    assert undisturbed.wait(timeout=300) == 0
    config = tiny_training(name="killed.yaml", output_dir=str(killed), **keys)
    dice, done = random.Random(7), 0
    for step in sorted(dice.sample(range(1, keys["max_steps"] - 3), kills)):
        process = start(config, **silent)
        while process.poll() is None and logged(killed) < step:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.05))
        done += process.poll() is None
        process.kill()
        process.wait()
    last = start(config)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors
    return done, whole, killed


def logged(run: Path) -> int:
    """The last step in the metrics of a run that is being written."""
    return max((line["step"] for line in Run(run).metrics()), default=0)


@pytest.mark.slow
def test_six_random_kills_and_the_adapter_is_the_same_bit_for_bit(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    """Forty steps with dropout, a checkpoint every three."""
    kills, whole, killed = killed_and_whole(tiny_training, tmp_path, kills=6, max_steps=40)
    assert kills >= 5, "the run ended before it could be killed often enough"
    name = "checkpoint-40/adapter_model.safetensors"
    assert digest(killed / name) == digest(whole / name)


@pytest.mark.slow
def test_a_random_kill_and_the_adapter_is_the_same_bit_for_bit(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    """The image-text class, a few steps."""
    keys: dict[str, Any] = {"model_class": "AutoModelForImageTextToText", "save_steps": 2}
    kills, whole, killed = killed_and_whole(tiny_training, tmp_path, kills=1, max_steps=10, **keys)
    assert kills == 1
    name = "checkpoint-10/adapter_model.safetensors"
    assert digest(killed / name) == digest(whole / name)


def test_altered_and_half_written_checkpoints_are_set_aside_and_named(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert slds("train", "--config", tiny_training(max_steps=4, save_steps=1, load_in_4bit=False)).exit_code == 0
    adapter = run / "checkpoint-4" / "adapter_model.safetensors"
    content = bytearray(adapter.read_bytes())
    content[-1] ^= 1  # one bit: sizes are right, the hash is not
    adapter.write_bytes(bytes(content))
    assert Run(run).checkpoints()[-1].fault is None
    assert "SHA-256 differs" in str(tampered(run / "checkpoint-4"))
    (run / "checkpoint-3" / "optimizer.pt").unlink()  # the libraries would go on silently without it
    (run / "checkpoint-9").mkdir()
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"state": "interrupted"}))
    again = slds("train", "--config", tiny_training(max_steps=4, save_steps=1, load_in_4bit=False))
    assert again.exit_code == 0, again.stderr
    assert "checkpoint-4 is not whole" in again.stderr
    assert "checkpoint-3 is not whole (optimizer.pt is missing)" in again.stderr
    assert "checkpoint-9 is not whole" in again.stderr
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


@pytest.mark.slow
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
    assert "writing failed" in errors
    assert "checkpoint-2 is whole" in errors
    assert "Traceback" not in errors
    again = start(config)
    _, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    assert "resuming from" in errors


def test_a_disk_too_full_for_the_record_does_not_hide_what_happened(
    tiny_training: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(path: Path, value: Any) -> None:
        if value.get("state") == "failed":
            assert not (tmp_path / "run" / "checkpoint-1").exists(), "half a checkpoint would take the record's room"
            full()
        write_json(path, value)

    monkeypatch.setattr("torch.save", full)
    monkeypatch.setattr("headnote_cli.training.command.write_json", write)
    stopped = slds("train", "--config", tiny_training(max_steps=2, save_steps=1, load_in_4bit=False))
    assert stopped.exit_code == 1
    assert "writing failed" in stopped.stderr
    assert "no checkpoint was saved yet" in stopped.stderr


def test_out_of_memory_is_told_with_step_rows_and_what_would_help(
    tiny_training: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU's allocator raises a plain RuntimeError."""
    import torch

    from headnote_cli.training.trainer import CompletionTrainer

    inner = CompletionTrainer.compute_loss

    def greedy(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == 2:
            torch.empty(10**15)
        return inner(self, *arguments, **options)

    monkeypatch.setattr(CompletionTrainer, "compute_loss", greedy)
    stopped = slds("train", "--config", tiny_training(max_steps=4, save_steps=1, load_in_4bit=False, logging_steps=4))
    assert stopped.exit_code == 3, stopped.stderr
    told = " ".join(stopped.stderr.split())
    assert "out of memory at step 3; rows of this step: " in told
    assert "unknown" not in told.split("rows of this step")[1].split("→")[0]
    assert "can't allocate memory" in told
    assert "checkpoint-2" in told
    assert "saves" in told
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: 1 bytes"),
            True,
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_a_failure_of_memory_is_known_by_its_words(error: Exception, memory: bool) -> None:
    assert is_out_of_memory(error) is memory


def test_a_gradient_scaler_is_left_to_skip_the_step_itself() -> None:
    import torch

    from headnote_cli.training.movement import SoundGradients

    weight = torch.nn.Linear(1, 1)
    weight.weight.grad = torch.tensor([[float("inf")]])
    scaled = SimpleNamespace(
        model=weight, is_fsdp_enabled=False, is_deepspeed_enabled=False, accelerator=SimpleNamespace(scaler=object())
    )
    plain = SimpleNamespace(**vars(scaled) | {"accelerator": SimpleNamespace(scaler=None), "diverged": ValueError})
    SoundGradients(scaled).on_pre_optimizer_step(None, None, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not finite"):
        SoundGradients(plain).on_pre_optimizer_step(None, None, None)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("seed", [42, 43])
def test_the_best_and_the_last_checkpoint_are_kept(
    seed: int, tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(
        max_steps=6, save_steps=1, load_in_4bit=False, save_total_limit=1, eval_strategy="steps", eval_steps=1,
        learning_rate=0.5, lr_scheduler_type="constant", seed=seed,
    )  # fmt: skip
    shown = slds("train", "--config", config)
    run = tmp_path / "run"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    assert shown.exit_code == 0, shown.stderr
    best = min(losses, key=losses.__getitem__)
    assert [one.step for one in Run(run).checkpoints()] == sorted({best, 6})
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_sealed_folder_knows_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    (folder / "a.bin").write_bytes(b"abc")
    seal(folder)
    noted = json.loads((folder / MANIFEST).read_text())["files"]["a.bin"]
    assert noted == {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert tampered(folder) is None
