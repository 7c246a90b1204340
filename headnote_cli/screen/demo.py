"""`slds demo`: the headnote before and after training, and where the files are."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from headnote_cli.screen.console import duration, facts_table

if TYPE_CHECKING:
    from headnote_cli.demo.command import DemoReport

CONFIG = ("--config", "configs/demo.yaml")


def demo_view(report: DemoReport) -> RenderableType:
    facts = {
        "decision": str(report.decision),
        "base model": str(report.base),
        "4-bit layers": str(report.quantized_layers),
        "training loss": f"{report.losses[0]:.2f} → {report.losses[-1]:.2f} in {len(report.losses)} steps",
        "checkpoint": str(report.checkpoint),
        "merged model": str(report.merged),
        "time": duration(report.seconds),
    }
    return Group(
        Text(f"\nGerman headnote before training:\n{report.before}\n\nGerman headnote after:\n{report.after}\n"),
        Text("Ten rows teach a model of 135 million parameters the form of a headnote, not the law.\n"),
        facts_table(facts),
    )


def after_demo(report: DemoReport) -> list[str]:
    """The commands to type next."""
    folder = report.decision.parent
    headnotes, page = folder / "headnotes.jsonl", folder / "review.html"
    following = (
        ("runs", str(folder)),
        ("generate", "--split", "test", "--limit", "2", "--lang", "de", *CONFIG, "--output", str(headnotes)),
        ("review", "--predictions", str(headnotes), *CONFIG, "--output", str(page)),
    )
    return [f"slds {shlex.join(words)}" for words in following]
