"""How many processes a launcher was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from headnote_cli.errors import UsageError
from headnote_cli.machine.processes import asked_of_accelerate, require_all_processes

TRAIN = ["-m", "headnote_cli", "train", "--config", "x.yaml"]


@pytest.fixture(autouse=True)
def no_default_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (["/bin/accelerate", "launch", "--cpu", "--num_processes", "2"], 2),
        (["python", "/bin/accelerate", "launch", "--num-processes=3"], 3),
        (["python", "-m", "accelerate.commands.launch", "--num_processes", "4"], 4),
        (["/bin/accelerate-launch", "--num_processes", "4"], 4),
        (["/bin/accelerate", "launch", "--cpu"], None),
        (["bash", "-c", "launch"], None),
        ([], None),
    ],
)
def test_the_number_stands_in_accelerates_own_options(command: list[str], asked: int | None) -> None:
    assert asked_of_accelerate([*command, *TRAIN, "--num_processes", "9"]) == asked


def test_the_number_stands_in_the_config_file(tmp_path: Path) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text("distributed_type: MULTI_CPU\nnum_processes: 5\n", encoding="utf-8")
    command = ["accelerate", "launch", "--config_file", str(file)]
    assert asked_of_accelerate([*command, *TRAIN]) == 5
    assert asked_of_accelerate([*command, "--num_processes", "2", *TRAIN]) == 2
    assert asked_of_accelerate(["accelerate", "launch", "--config_file", "nowhere.yaml", *TRAIN]) is None


def test_the_file_of_accelerate_config_counts_unless_the_cpu_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "home" / "accelerate" / "default_config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("num_processes: 3\n", encoding="utf-8")
    assert asked_of_accelerate(["accelerate", "launch", *TRAIN]) == 3
    assert asked_of_accelerate(["accelerate", "launch", "--cpu", *TRAIN]) is None


def test_fewer_than_asked_for_are_refused_and_as_many_are_not() -> None:
    require_all_processes({})
    require_all_processes({"SLDS_PROCESSES": "2", "WORLD_SIZE": "2"})
    require_all_processes({"ACCELERATE_MIXED_PRECISION": "no", "WORLD_SIZE": "4"})
    require_all_processes({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "10.0.0.1"})  # as Slurm scripts set it
    with pytest.raises(UsageError, match="1 of 2 processes"):
        require_all_processes({"SLDS_PROCESSES": "2"})
