"""`slds demo`: the headnote before and after training, and where the files are."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from headnote_cli.errors import counted
from headnote_cli.law.citations import spans
from headnote_cli.screen.console import duration, facts_table

if TYPE_CHECKING:
    from headnote_cli.demo.command import DemoReport

CITED = {"found": "green", "partly": "yellow", "unsupported": "bold red"}
CONFIG = ("--config", "configs/demo.yaml")


def demo_view(report: DemoReport) -> RenderableType:
    facts = {
        "decision": f"{report.decision} (fictional)",
        "base model": str(report.base),
        "4-bit layers": str(report.quantized_layers),
        "training loss": f"{report.losses[0]:.2f} → {report.losses[-1]:.2f} in {len(report.losses)} steps",
        "checkpoint": str(report.checkpoint),
        "merged model": str(report.merged),
        "page": str(report.page),
        "time": duration(report.seconds),
    }
    return Group(
        Text("\nGerman headnote before training:", "bold"),
        *headnote_view(report.before),
        Text("After training, the best of four that may cite only what the decision has:", "bold"),
        *headnote_view(report.after),
        Text("Ten rows teach a model of 135 million parameters the form of a headnote, not the law.\n"),
        facts_table(facts),
    )


def headnote_view(line: dict[str, Any]) -> list[RenderableType]:
    """A headnote, its citations in colour, and what its checks found."""
    text = Text(line["headnote"] + ("" if line["finish_reason"] == "stop" else " […]"))
    statuses = {name: status for status, names in line["citations"].items() for name in names}
    for span in spans(line["headnote"], line["lang"]):
        found = {statuses.get(citation.text) for citation in span.citations}
        worst = "unsupported" if "unsupported" in found else "partly" if "partly" in found else "found"
        text.stylize(CITED[worst], span.start, span.end)
    detected = line["language"]["detected"]
    checks = [f"{counted(len(line['citations']['unsupported']), 'citation')} not in the decision"]
    checks += [f"in {detected} instead of de"] if detected not in (None, "de") else []
    checks += ["repeats itself"] if line["finish_reason"] == "loop" else []
    return [text, Text("; ".join(checks) + "\n", "dim")]


def after_demo(report: DemoReport) -> list[str]:
    """The commands to type next."""
    folder = report.decision.parent
    output = folder / "headnotes.jsonl"
    following = (
        ("runs", str(folder)),
        ("generate", "--split", "test", "--limit", "2", "--lang", "de", *CONFIG, "--output", str(output)),
    )
    return [f"open {shlex.quote(str(report.page))}", *(f"slds {shlex.join(words)}" for words in following)]
