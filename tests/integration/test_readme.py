"""The README's commands, as they stand."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from headnote_cli.cli.app import app
from tests.conftest import ROOT, sample_rows

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- run -->\n)?```bash\n(.*?)```", README, re.DOTALL)
LINES = [line.strip() for _, block in BLOCKS for line in block.splitlines()]
MODEL = ".cache/demo/SmolLM2-135M-Instruct"


def run(line: str) -> str:
    """Run a line that starts with slds and must succeed."""
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0, f"{line}\n{result.stdout}{result.stderr}"
    return str(result.stdout)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_knows_the_targets(line: str) -> None:
    subprocess.run(["make", "--dry-run", *shlex.split(line)[1:]], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("line", [line for line in LINES if "slds " in line or "headnote_cli" in line])
def test_every_line_parses(line: str) -> None:
    words = shlex.split(line)
    arguments = words[words.index("headnote_cli") + 1 :] if "headnote_cli" in words else words[1:]
    group = get_command(app)
    command = group.commands[arguments[0]]  # type: ignore[attr-defined]
    command.make_context(arguments[0], list(arguments[1:]))


@pytest.mark.parametrize(
    "line", [line for line in LINES if line.startswith(("pip install", "python3 -m venv", "source", "hf "))]
)
def test_extras_and_files_that_the_installation_names_exist(line: str) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in re.findall(r"\.\[([a-z-]+)\]", line):
        assert extra in project["optional-dependencies"]
    for file in re.findall(r"-c (\S+)", line):
        assert (ROOT / file).is_file()


def test_the_commands_after_the_demo_run(
    tmp_path: Path, tiny_models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_models("AutoModelForCausalLM"), MODEL)
    run("slds train --config configs/demo.yaml --set max_steps=2 --set save_steps=2 --set max_length=900")
    run("slds merge --checkpoint latest --config configs/demo.yaml")
    (block,) = [block for marked, block in BLOCKS if marked]
    for line in block.splitlines():
        run(f"{line} --max-new-tokens 8" if "generate" in line else line)
    assert len(Path("demo_output/headnotes.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    assert Path("demo_output/headnotes.html").is_file()


def test_the_five_commands_work_as_they_stand(
    tmp_path: Path, tiny_models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the shipped config but for model, data and length; two steps whose checkpoint takes the README's name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    model = tiny_models("AutoModelForImageTextToText")
    name = "configs/ipst/slds/sft_liger_peft.yaml"
    own = {
        "extends": str(ROOT / name),
        "model_name_or_path": str(model),
        "dataset_name": str(ROOT / "samples/slds"),
        "max_length": 900,
        "max_steps": 2,
        "optim": "adamw_torch",
    }
    Path(name).parent.mkdir(parents=True)
    Path(name).write_text(yaml.safe_dump(own), encoding="utf-8")
    Path("file.txt").write_text(sample_rows("test")[0]["decision"], encoding="utf-8")
    section = README.partition("## Train on your GPU")[2].partition("\n## ")[0]
    first, memory, train, merge, generate = re.findall(r"^ *(slds .*)$", section, re.M)
    run(first)
    run(memory)
    run(train)
    output = Path("trainer_output/google/gemma-3-4b-it-ipst/slds")
    assert json.loads((output / "run.json").read_text(encoding="utf-8"))["state"] == "finished"
    (output / "checkpoint-2").rename(output / "checkpoint-1364")
    run(merge)
    assert (output / "checkpoint-1364-merged" / "config.json").is_file()
    run(f"{generate} --max-new-tokens 4")
    reading = README.partition("## Read and score")[2].partition("\n## ")[0]
    whole_split, page, scores = re.findall(r"^(slds .*)$", reading, re.M)
    run(f"{whole_split} --max-new-tokens 4")
    run(page)
    run(scores)
    assert Path("review.html").is_file()
