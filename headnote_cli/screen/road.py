"""`slds` alone: the commands in the usual order."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

ROAD = (
    ("slds preview-prompts", "see rows exactly as the model will"),
    ("slds check-memory", "see the peak memory of a step, and the cards it fits"),
    ("slds train", "train LoRA adapters on a 4-bit base; Ctrl-C saves, the same command resumes"),
    ("slds merge --checkpoint latest", "put adapter and base into one model folder"),
    ("slds generate --decision FILE --lang de", "write a headnote, and check its citations"),
    ("slds evaluate --predictions FILE", "score headnotes against the official ones"),
    ("slds review --predictions FILE --output PAGE", "read and mark them in a browser"),
)


def road_view() -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for place, (command, what) in enumerate(ROAD, 1):
        table.add_row(f"{place}. {command}", what)
    return Group(
        Text("From decisions to headnotes:\n"),
        table,
        Text("\nNo GPU? `slds demo` runs the whole pipeline with a small model in a few minutes."),
        Text("`slds COMMAND -h` shows a command's options; `slds runs` lists what was trained."),
    )
