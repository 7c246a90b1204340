"""`slds demo`: runs the commands as a user would type them. Completed steps are not repeated."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headnote_cli.config.assets import assets_root
from headnote_cli.config.layers import load_config
from headnote_cli.demo.model import PACKAGE, make_model
from headnote_cli.errors import SldsError
from headnote_cli.events import Listener, Note
from headnote_cli.runs.folders import Run, output_dir

CONFIG = "configs/demo.yaml"
WORDS = ("--lang", "de", "--max-new-tokens", "112", "--config", CONFIG)
# Without the penalty, a model this small repeats itself.
BEST = ("--grounded", "--num-candidates", "4", "--choose", "--temperature", "0.5", "--repetition-penalty", "1.1")


@dataclass(frozen=True)
class DemoReport:
    """What the demo wrote, and where."""

    decision: Path
    before: dict[str, Any]  # the headnote before training, with its checks
    after: dict[str, Any]
    page: Path
    base: Path
    quantized_layers: int
    losses: list[float]  # by step
    checkpoint: Path
    merged: Path
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def demo(emit: Listener, shows_output: bool = True) -> DemoReport:
    """Run the pipeline from a decision to a headnote in the working directory.

    Args:
        shows_output: Whether the commands print to stdout.

    Raises:
        UsageError: The `gguf` package is not installed.
        UnreachableError: The model cannot be downloaded.
        SldsError: A command failed; it has reported why.
    """
    started = time.monotonic()
    config = load_config(Path(CONFIG), [])
    run, base = Run(output_dir(config)), Path(str(config.settings.model_name_or_path))
    folder = run.folder.parent
    if not (base / "config.json").is_file():
        emit(Note(f"making {base} out of {PACKAGE}"))
        make_model(base)
    slds = _runner(emit, shows_output)
    decision = _decision(folder, "decision.jsonl")
    slds("preview-prompts", "--config", CONFIG, "-n", "1")
    slds("check-memory", "--config", CONFIG)
    before = _headnote(slds, decision, base, folder / "before.jsonl")
    slds("train", "--config", CONFIG)
    checkpoint = run.checkpoints()[-1].path
    merged = checkpoint.with_name(f"{checkpoint.name}-merged")
    if not merged.is_dir():
        slds("merge", "--checkpoint", checkpoint.name, "--config", CONFIG, "--verify")
    after = _headnote(slds, decision, merged, folder / "after.jsonl", *BEST)
    page = folder / "review.html"
    if not page.is_file():
        written = ("--predictions", str(folder / "after.jsonl"), "--references", str(decision), "--output", str(page))
        slds("review", *written, "--config", CONFIG)
    return DemoReport(
        decision=decision,
        before=before,
        after=after,
        page=page,
        base=base,
        quantized_layers=int(run.record()["model"]["quantized_layers"]),
        losses=[float(line["loss"]) for line in run.metrics() if "loss" in line],
        checkpoint=checkpoint,
        merged=merged,
        seconds=round(time.monotonic() - started, 3),
    )


def _runner(emit: Listener, shows_output: bool) -> Callable[..., str]:
    """A function that shows a command, runs it, and returns its JSON output if any."""

    def slds(*arguments: str) -> str:
        emit(Note(f"\n$ slds {shlex.join(arguments)}"))
        captured = "--json" in arguments or not shows_output
        command = [sys.executable, "-m", "headnote_cli", *arguments]
        result = subprocess.run(command, stdout=subprocess.PIPE if captured else None, text=True, check=False)
        if result.returncode:
            raise SldsError(f"slds {arguments[0]} ended with exit code {result.returncode}")
        return result.stdout or ""

    return slds


def _decision(folder: Path, name: str) -> Path:
    """The first French decision of the fictional test rows, with its German headnote, written to a file of rows."""
    lines = (assets_root() / "samples/slds/test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    row = next(row for row in rows if (row["decision_language"], row["headnote_language"]) == ("fr", "de"))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def _headnote(slds: Callable[..., str], decision: Path, model: Path, kept: Path, *how: str) -> dict[str, Any]:
    """The headnote that a model writes for the decision, of several the chosen one; written once."""
    if not kept.is_file():
        slds("generate", "--decision", str(decision), *WORDS, *how, "--model", str(model), "--output", str(kept))
    lines = map(json.loads, kept.read_text(encoding="utf-8").splitlines())
    return next(line for line in lines if line.get("chosen", True))
