"""The whole road on a CPU: every command as a user would type it, and a summary of what was made where.

Steps whose result is there already are not done again.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from headnote_cli.runs.folders import Run

CONFIG = "configs/demo.yaml"
MODEL = Path(".cache/demo/SmolLM2-135M-Instruct")
OUTPUT = Path("demo_output")
RUN = OUTPUT / "run"
DECISION = OUTPUT / "decision.txt"
BEFORE, AFTER = OUTPUT / "before.json", OUTPUT / "after.json"
WORDS = ["--lang", "de", "--max-new-tokens", "112"]


def slds(*arguments: str) -> str:
    """Show a command, run it, and return its stdout."""
    print(f"\n$ slds {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "headnote_cli", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def headnote(file: Path, model: Path) -> str:
    """The headnote that a model writes for the test decision, kept in a file."""
    if not file.is_file():
        command = ["generate", "--decision", str(DECISION), *WORDS, "--model", str(model), "--config", CONFIG, "--json"]
        output = slds(*command)
        file.write_text(output, encoding="utf-8")
    return str(json.loads(file.read_text(encoding="utf-8"))["headnote"])


def write_decision() -> None:
    """The first French decision of the test split, as a text file."""
    rows = Path("samples/slds/test.jsonl").read_text(encoding="utf-8").splitlines()
    row = next(row for row in map(json.loads, rows) if row["decision_language"] == "fr")
    OUTPUT.mkdir(exist_ok=True)
    DECISION.write_text(row["decision"], encoding="utf-8")


def main() -> None:
    started = time.monotonic()
    write_decision()
    print(slds("preview-prompts", "--config", CONFIG, "-n", "1"))
    print(slds("check-memory", "--config", CONFIG))
    before = headnote(BEFORE, MODEL)
    print(slds("train", "--config", CONFIG))
    newest = Run(RUN).checkpoints()[-1].path
    merged = newest.with_name(f"{newest.name}-merged")
    if not merged.is_dir():
        print(slds("merge", "--checkpoint", newest.name, "--config", CONFIG, "--verify"))
    after = headnote(AFTER, merged)
    record = json.loads((RUN / "run.json").read_text(encoding="utf-8"))
    lines = (RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
    print(f"\nGerman headnote before training:\n{before}\n\nGerman headnote after training:\n{after}\n")
    print("A model of 135 million parameters and ten rows: the form of a headnote, not its law.\n")
    print(f"decision       {DECISION}")
    print(f"base model     {MODEL}")
    print(f"4-bit layers   {record['model']['quantized_layers']}")
    print(f"training loss  {losses[0]:.2f} → {losses[-1]:.2f} in {len(losses)} steps ({RUN / 'metrics.jsonl'})")
    print(f"adapter        {newest}")
    print(f"merged model   {merged}")
    print(f"time           {time.monotonic() - started:.0f} s")
    if before == after:
        sys.exit("the headnote did not change")


if __name__ == "__main__":
    main()
