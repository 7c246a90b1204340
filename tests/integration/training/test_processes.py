"""Several processes: one speaks and writes, all train as one, and what happens to any of them is told once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from headnote_cli.cli.app import app
from tests.commands import losses
from tests.conftest import ROOT
from tests.integration.training.test_signals import wait_for_step

SLDS = (sys.executable, "-m", "headnote_cli")
TORCHRUN = (
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc_per_node",
    "2",
    "-m",
    "headnote_cli",
)
ACCELERATE = (sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch")
TWO = ("--num-processes", "2")


def evaluations(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["eval_loss"] for entry in map(json.loads, lines) if "eval_loss" in entry]


def start(config: Path, *options: str, launcher: tuple[str, ...] = SLDS, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*launcher, "train", "--config", str(config), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | more,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the processes that another one started, rank 0 first."""
    listing = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8")
    return [int(number) for number in listing.split()]


def is_alive(number: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    """Rows of unequal length: a mean of the processes' means would differ."""
    keys: dict[str, Any] = {
        "max_steps": 4, "load_in_4bit": False, "train_sampling_strategy": "sequential", "learning_rate": 1e-3,
        "overflow": "middle", "eval_strategy": "steps", "eval_steps": 4, "eval_on_start": True,
        "per_device_eval_batch_size": 4,
    }  # fmt: skip
    two = start(
        tiny_training(name="two.yaml", output_dir=str(tmp_path / "two"), per_device_train_batch_size=2, **keys),
        "--json", *TWO,
    )  # fmt: skip
    code, output, errors = finish(two)
    assert code == 0, errors
    assert json.loads(output)["steps"] == 4, "one object on stdout: only the first process writes"
    assert "checkpoint-4" in json.loads(output)["checkpoint"]
    assert errors.count("saved ") == 2, "one of them speaks"
    assert "find_unused_parameters" not in errors
    code, _, errors = finish(
        start(tiny_training(name="one.yaml", output_dir=str(tmp_path / "one"), per_device_train_batch_size=4, **keys))
    )
    assert code == 0, errors
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    before = [evaluations(tmp_path / name)[0] for name in ("two", "one")]
    assert abs(before[0] - before[1]) < 1e-5, "six rows in batches of 2 × 4: the two that fill up score nothing"


@pytest.mark.parametrize(
    ("number", "code", "loaders"),
    [
        pytest.param(signal.SIGINT, 130, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, 2, marks=pytest.mark.slow),  # data loaders are processes, too
        (signal.SIGTERM, 143, 0),
    ],
)
def test_a_signal_to_the_parent_saves_once_and_every_process_stops(
    number: int, code: int, loaders: int, tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(max_steps=1000, save_steps=1000, load_in_4bit=False, dataloader_num_workers=loaders)
    run = tmp_path / "run"
    process = start(config, *TWO)
    wait_for_step(run, 3)
    workers = workers_of(process)
    assert len(workers) == 2
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    got, _, errors = finish(process)
    assert got == code, errors
    assert "Traceback" not in errors
    (checkpoint,) = run.glob("checkpoint-*")
    assert f"stopped; saved {checkpoint}" in errors
    assert errors.count("stopped: ") == 1
    assert not any(map(is_alive, workers))
    assert json.loads((run / "run.json").read_text())["state"] == "interrupted"
    assert (run / "curves.png").is_file()


def test_a_killed_process_ends_the_run_with_one_message(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    config = tiny_training(max_steps=1000, save_steps=1000, load_in_4bit=False)
    process = start(config, "--json", *TWO)
    wait_for_step(tmp_path / "run", 3)
    workers = workers_of(process)
    os.kill(workers[1], signal.SIGKILL)
    code, output, errors = finish(process)
    assert code == 1, errors
    assert "process 1 was killed by SIGKILL" in json.loads(output)["error"]["message"]
    assert "Traceback" not in errors
    assert not any(map(is_alive, workers))


@pytest.mark.slow
def test_processes_whose_parent_was_killed_save_and_stop(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    process = start(tiny_training(max_steps=1000, save_steps=1000, load_in_4bit=False), *TWO)
    wait_for_step(tmp_path / "run", 3)
    workers = workers_of(process)
    process.kill()
    for _ in range(600):
        if not any(map(is_alive, workers)):
            break
        time.sleep(0.1)
    assert not any(map(is_alive, workers))
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1
    process.communicate(timeout=10)


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [pytest.param(SLDS, 5, id="slds"), pytest.param(TORCHRUN, 1, id="torchrun", marks=pytest.mark.slow)],
)
def test_a_failure_of_the_second_process_alone_is_one_object(
    launcher: tuple[str, ...], expected: int, tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    spoilt = "import os\nif os.environ.get('RANK') == '1':\n    os.environ['SLDS_CACHE'] = '/dev/null/nowhere'\n"
    (tmp_path / "sitecustomize.py").write_text(spoilt, encoding="utf-8")
    options = TWO if launcher == SLDS else ()
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = start(tiny_training(load_in_4bit=False), "--json", *options, launcher=launcher, PYTHONPATH=path)
    code, output, errors = finish(process)
    assert code == expected, errors
    assert "/dev/null/nowhere" in json.loads(output)["error"]["message"]
    if launcher == SLDS:
        assert "Traceback" not in errors


@pytest.mark.slow
def test_exit_codes_come_through(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    for code, keys in (
        (2, {"fsdp": "full_shard"}),
        (4, {"model_name_or_path": str(tmp_path / "nowhere")}),
    ):
        process = start(tiny_training(load_in_4bit=False, **keys), "--json", *TWO)
        got, output, errors = finish(process)
        assert got == code, errors
        assert json.loads(output)["error"]["message"]
        assert "Traceback" not in errors
        if code == 2:
            assert "`fsdp` is asked for, and the weights are not sharded" in json.loads(output)["error"]["message"]


@pytest.mark.slow
def test_fewer_processes_than_asked_are_refused(tiny_training: Callable[..., Path]) -> None:
    """`accelerate launch --cpu` starts one process, whatever it is told."""
    config = tiny_training(load_in_4bit=False)
    launcher = (*ACCELERATE, "--cpu", "--num_processes", "2", "-m", "headnote_cli")
    code, output, errors = finish(start(config, "--json", launcher=launcher))
    assert code != 0, errors
    assert "1 of several processes train together" in json.loads(output)["error"]["message"]


@pytest.mark.parametrize("name", ["accelerate_single", "accelerate_multi", "accelerate_fsdp", "accelerate_zero3"])
def test_accelerate_reads_the_shipped_files(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    file = ROOT / "configs" / f"{name}.yaml"
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    read = load_config_from_file(str(file)).to_dict()
    assert read["num_processes"] == written["num_processes"]
    assert read["distributed_type"] == written["distributed_type"]


@pytest.mark.slow
def test_accelerate_launch_with_the_shipped_file_trains_in_as_many_processes(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    shipped = (ROOT / "configs" / "accelerate_multi.yaml").read_text(encoding="utf-8")
    file = tmp_path / "accelerate.yaml"
    file.write_text(shipped.replace("num_processes: 4", "num_processes: 2"), encoding="utf-8")
    launcher = (*ACCELERATE, "--config_file", str(file), "-m", "headnote_cli")
    code, output, errors = finish(start(tiny_training(load_in_4bit=False), "--json", launcher=launcher))
    assert code == 0, errors
    assert json.loads(output)["steps"] == 4


def test_samples_are_refused_where_no_process_holds_the_whole_model(
    tiny_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_training(load_in_4bit=False, eval_strategy="steps", eval_steps=2)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    refused = CliRunner().invoke(app, ["train", "--config", str(config), "--sample", "1"])
    assert refused.exit_code == 2
    assert "--sample does not go with sharded weights" in refused.stderr
