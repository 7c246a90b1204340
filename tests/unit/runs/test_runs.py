"""Run folders: whole and broken checkpoints, and finding the one that is meant."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from headnote_cli.config.layers import load_config
from headnote_cli.errors import DataError, UnreachableError
from headnote_cli.runs.files import Journal, read_json, write_json
from headnote_cli.runs.folders import (
    LOCK,
    METRICS,
    RECORD,
    Run,
    find_checkpoint,
    locked,
    seal,
    set_aside,
)
from headnote_cli.runs.listing import list_runs
from headnote_cli.runs.timings import Laps


def make_checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"x" * step)
    seal(folder)
    return folder


def test_a_sealed_checkpoint_is_whole(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 10)
    make_checkpoint(tmp_path, 9)
    assert [(c.step, c.fault) for c in Run(tmp_path).checkpoints()] == [(9, None), (10, None)]


def test_a_missing_file_a_short_file_and_a_missing_manifest_are_faults(tmp_path: Path) -> None:
    (make_checkpoint(tmp_path, 1) / "optimizer.pt").unlink()
    (make_checkpoint(tmp_path, 2) / "optimizer.pt").write_bytes(b"")
    (make_checkpoint(tmp_path, 3) / "slds.json").unlink()
    (make_checkpoint(tmp_path, 4) / "slds.json").write_text("{")
    faults = [checkpoint.fault for checkpoint in Run(tmp_path).checkpoints()]
    assert faults[0] == "optimizer.pt is missing"
    assert faults[1] == "optimizer.pt has 0 bytes instead of 2"
    assert "saving was cut short" in str(faults[2])
    assert "cannot be read" in str(faults[3])


def test_a_checkpoint_is_found_by_path_by_name_by_latest_and_in_another_run(
    tmp_path: Path, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(write_config(output_dir="trainer_output/a/b"))
    mine = make_checkpoint(Path("trainer_output/a/b"), 5)
    other = make_checkpoint(Path("trainer_output/c"), 7)
    write_json(other.parent / RECORD, {})
    assert find_checkpoint(str(mine), config) == mine
    assert find_checkpoint("checkpoint-5", config) == mine
    assert find_checkpoint("latest", config) == mine
    assert find_checkpoint("checkpoint-7", config) == other


def test_a_checkpoint_that_is_not_there_lists_those_that_are(tmp_path: Path, write_config: Callable[..., Path]) -> None:
    config = load_config(write_config())
    with pytest.raises(UnreachableError) as caught:
        find_checkpoint("checkpoint-1364", config)
    assert "slds train" in str(caught.value.hint)
    present = make_checkpoint(tmp_path / "run", 3)
    with pytest.raises(UnreachableError) as caught:
        find_checkpoint("checkpoint-1364", config)
    assert str(present) in str(caught.value.hint)


def test_a_run_that_says_it_runs_and_holds_no_lock_was_killed(tmp_path: Path) -> None:
    write_json(tmp_path / "run" / RECORD, {"state": "running"})
    with locked(tmp_path / "run"):
        assert Run(tmp_path / "run").is_locked()
        assert [run["state"] for run in list_runs(tmp_path)] == ["running"]
    assert not Run(tmp_path / "run").is_locked()
    assert [run["state"] for run in list_runs(tmp_path)] == ["killed"]


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": 1})
    assert read_json(tmp_path / "a.json") == {"ä": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "none.json") is None
    (tmp_path / "list.json").write_text(json.dumps([1]))
    with pytest.raises(DataError):
        read_json(tmp_path / "list.json")


def test_setting_aside_never_overwrites(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        (tmp_path / "run").mkdir()
        names.add(set_aside(tmp_path / "run"))
    assert len(names) == 3


def test_a_lock_can_be_seen_without_touching_it(tmp_path: Path) -> None:
    assert not Run(tmp_path).is_locked()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        assert Run(tmp_path).is_locked()
    assert (tmp_path / LOCK).exists()
    assert not Run(tmp_path).is_locked(), "the file stays, nobody holds it"


def test_a_failed_write_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_json(tmp_path / "a.json", {"a": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "a.json", {"a": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_metrics_after_a_line_that_was_cut_short_are_read(tmp_path: Path) -> None:
    from headnote_cli.training.callbacks import Reporter

    metrics = Journal(tmp_path / METRICS)
    metrics.append({"step": 1, "loss": 2.0})
    metrics.path.write_bytes(metrics.path.read_bytes() + b'{"step": 2, "lo')
    reporter = Reporter(tmp_path, lambda _: None, 0, Laps(), on_gpu=False)
    reporter.on_log(MagicMock(), MagicMock(is_world_process_zero=True, global_step=3), MagicMock(), {"eval_loss": 1.0})
    assert Run(tmp_path).metrics() == [{"step": 1, "loss": 2.0}, {"step": 3, "eval_loss": 1.0}]
