"""Draw docs/run.svg: what `slds train` shows, replayed from the record of the demo's run by Rich's SVG export."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from headnote_cli.events import Evaluated, Saved, StepDone, TrainingStarted
from headnote_cli.machine.plan import PlanRow
from headnote_cli.screen.console import SMOOTHING, Screen, duration, step_facts
from headnote_cli.screen.training import plan_view, training_view
from headnote_cli.training.record import report_of

RUN = Path("demo_output/run")
TARGET = Path("docs/run.svg")


def main() -> None:
    if not (RUN / "run.json").is_file():
        sys.exit("run `make demo` first: the picture shows its run")
    record = json.loads((RUN / "run.json").read_text(encoding="utf-8"))
    entries = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [entry for entry in entries if "loss" in entry]
    metrics = record["metrics"]
    plan = tuple(PlanRow(**row) for row in record["plan"])

    screen = Screen()
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    recorder: Any = Console(file=io.StringIO(), record=True, width=96, force_terminal=False, **plain)
    screen.err = recorder
    recorder.print("$ slds train --config configs/demo.yaml", style="bold")
    recorder.print(plan_view(plan))
    screen.listen(TrainingStarted(steps[-1]["step"], 0))
    smoothed = steps[0]["loss"]
    for before, entry in zip([{"num_tokens": 0}, *steps], steps, strict=False):
        smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * entry["loss"]
        share = metrics["seconds"] / len(steps)
        rate = (entry["num_tokens"] - before["num_tokens"]) / share
        left = share * (len(steps) - entry["step"])
        if entry["step"] % 5 == 0:
            event = StepDone(
                entry["step"], len(steps), entry["loss"], entry["learning_rate"], entry["grad_norm"], rate, left
            )
            screen.note(
                f"step {event.step}/{event.total_steps} · {step_facts(event, smoothed)} · {duration(left)} left"
            )
        if entry["step"] % 10 == 0:
            screen.listen(Saved(entry["step"], RUN / f"checkpoint-{entry['step']}"))
    for entry in entries:
        if "eval_loss" in entry:
            screen.listen(Evaluated(entry["step"], entry["eval_loss"], math.exp(entry["eval_loss"])))
    recorder.print(training_view(report_of(RUN, record, plan), "configs/demo.yaml"))
    TARGET.write_text(recorder.export_svg(title="slds train"), encoding="utf-8")


if __name__ == "__main__":
    main()
