"""Training asks the estimate first, and writes beside it what it measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner, Result

from headnote_cli.cli import app


def slds(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_step_that_cannot_fit_is_refused_before_loading(tiny_training: Callable[..., Path]) -> None:
    config = tiny_training(per_device_train_batch_size=1_000_000, load_in_4bit=False)
    refused = slds("train", "--config", config)
    assert refused.exit_code == 3
    assert "a step needs" in refused.stderr
    assert "--ignore-memory" in refused.stderr
    assert slds("train", "--config", config, "--ignore-memory", "--dry-run").exit_code == 0


def test_the_record_has_the_estimate_and_what_was_measured(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    config = tiny_training(max_steps=1, save_steps=1, load_in_4bit=False, output_dir=str(tmp_path / "run"))
    shown = slds("train", "--config", config)
    assert shown.exit_code == 0, shown.stderr
    assert "memory: " in shown.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["estimated_memory"]["bytes"] == sum(record["estimated_memory"]["components"].values())
    assert record["measured_memory"]["peak_rss"] > record["estimated_memory"]["bytes"], "libraries are in it too"


def test_a_model_of_unknown_sizes_trains_without_an_estimate(
    tiny_training: Callable[..., Path], tmp_path: Path, monkeypatch: object
) -> None:
    config = tiny_training(load_in_4bit=False)
    folder = Path(json.loads(slds("train", "--config", config, "--print-config", "--json").stdout)["config"]
                  ["model_name_or_path"])  # fmt: skip
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    strange = tmp_path / "strange"
    strange.mkdir()
    for file in folder.iterdir():
        (strange / file.name).write_bytes(file.read_bytes())
    sizes.pop("intermediate_size")  # transformers falls back to its default, the estimate does not guess
    (strange / "config.json").write_text(json.dumps(sizes), encoding="utf-8")
    shown = slds("train", "--config", config, "--dry-run", "--set", f"model_name_or_path={strange}")
    assert "memory not estimated" in shown.stderr
