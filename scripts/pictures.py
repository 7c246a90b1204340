"""The README's example and pictures.

- docs/run.svg: what `slds train` shows, replayed from the record of the demo's run by Rich's SVG export.
- docs/review.png and docs/reviewers/: the page of `slds review` in a browser (needs a chromium).
- The two marked blocks of README.md: a decision's beginning, a headnote, and its citations looked up; and the headnotes
  that the demo's last screen shows.

The headnotes of the first block and of the page are the samples' own, one citation of them changed, so that the check
has something to show.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from rich.console import Console

from headnote_cli.events import Evaluated, Saved, StepDone, TrainingStarted
from headnote_cli.law.citations import check
from headnote_cli.machine.plan import PlanRow
from headnote_cli.screen.console import SMOOTHING, Screen, duration, step_facts
from headnote_cli.screen.demo import headnote_view
from headnote_cli.screen.training import plan_view, training_view
from headnote_cli.training.record import report_of

RUN = Path("demo_output/run")
SAMPLES = Path("samples/slds/test.jsonl")
RIGHT, WRONG = "Art. 337c Abs. 1 und 3 OR", "Art. 336a Abs. 2 OR"
README = Path("README.md")
WIDTH, HEIGHT = 1400, 900  # of the browser's window, in pixels


def main() -> None:
    if not (RUN / "run.json").is_file():
        sys.exit("run `make demo` first: docs/run.svg shows its run")
    draw_run(Path("docs/run.svg"))
    draw_page(Path("docs/review.png"))
    for name, block in (("example", example()), ("the demo's end", end_of_demo())):
        begin, end = f"<!-- {name}: written by scripts/pictures.py -->\n", f"<!-- end of {name} -->\n"
        before, _, rest = README.read_text(encoding="utf-8").partition(begin)
        README.write_text(f"{before}{begin}{block}{end}{rest.partition(end)[2]}", encoding="utf-8")


def rows() -> list[dict[str, Any]]:
    """The samples with a German headnote, one citation changed."""
    read = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
    german = [
        row | {"headnote": row["headnote"].replace(RIGHT, WRONG)} for row in read if row["headnote_language"] == "de"
    ]
    assert any(WRONG in row["headnote"] for row in german)
    return german


def example() -> str:
    """A decision's beginning, and a headnote with what the decision says of its citations."""
    row = rows()[0]
    decision = " ".join(row["decision"].split())[:430].rsplit(" ", 1)[0]
    cited: dict[str, list[str]] = {"found": [], "partly": [], "missing": []}
    for looked_up in check(row["headnote"], row["decision"], "de", row["decision_language"]):
        cited[looked_up.status].append(looked_up.citation.text)
    lines = [
        *textwrap.wrap(f"{decision} …", 100),
        "",
        *textwrap.wrap(row["headnote"], 96, initial_indent="  → ", subsequent_indent="    "),
        "",
        *textwrap.wrap(f"in the decision      {', '.join(cited['found'])}", 100, subsequent_indent=" " * 21),
        f"not in the decision  {', '.join(cited['missing'])}",
    ]
    return "\n".join(["```text", *lines, "```", ""])


def end_of_demo() -> str:
    """The headnotes that the demo's last screen shows, with what their checks found."""
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    for name, title in (("before", "before training"), ("after", "after: the best of four, grounded")):
        lines = map(json.loads, (RUN.parent / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
        line = next(line for line in lines if line.get("chosen", True))
        console.print(f"{title}:", *headnote_view(line | {"headnote": " ".join(line["headnote"].split())}), sep="\n")
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue().splitlines()
    return "\n".join(["```text", *(line.rstrip() for line in written), "```", ""]).replace("\n\n```", "\n```")


def draw_page(target: Path) -> None:
    """The page of `slds review`."""
    from playwright.sync_api import sync_playwright

    from headnote_cli.config.layers import load_config
    from headnote_cli.review.command import ReviewOptions, review

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("docs/review.png takes a chromium")
    with tempfile.TemporaryDirectory() as folder:
        predictions, page_file = Path(folder) / "headnotes.jsonl", Path(folder) / "review.html"
        written = [
            {"sample_id": row["sample_id"], "lang": "de", "headnote": row["headnote"], "finish_reason": "stop"}
            for row in rows()
        ]
        predictions.write_text("\n".join(map(json.dumps, written)), encoding="utf-8")
        review(load_config(Path("configs/demo.yaml"), []), [predictions], page_file, ReviewOptions())
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.goto(page_file.resolve().as_uri())
            page.wait_for_timeout(500)
            page.screenshot(path=target)
            draw_parts(page, target.with_name("reviewers"))
            browser.close()


def draw_parts(page: Any, folder: Path) -> None:
    """What docs/reviewers.md shows of the page."""
    folder.mkdir(exist_ok=True)
    page.screenshot(path=folder / "page.png")
    page.locator("#evidence").scroll_into_view_if_needed()
    page.locator("#evidence a.cite").first.click()
    page.wait_for_timeout(200)
    page.locator("#evidence").screenshot(path=folder / "evidence.png")
    page.keyboard.press("2")
    page.fill("#comment", "Art. 336a Abs. 2 OR kommt im Entscheid nicht vor.")
    page.locator("#marks").screenshot(path=folder / "marks.png")


def draw_run(target: Path) -> None:
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
    recorder.print(training_view(report_of(RUN, record, plan)))
    target.write_text(recorder.export_svg(title="slds train"), encoding="utf-8")


if __name__ == "__main__":
    main()
