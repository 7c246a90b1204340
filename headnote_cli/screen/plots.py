"""Plots, drawn by matplotlib without a display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from headnote_cli.errors import UsageError
from headnote_cli.runs.curves import save_figure

if TYPE_CHECKING:
    from headnote_cli.memory.command import MemoryCheck

FORMATS = (".svg", ".png")
GIB = 2**30


def draw_memory(checks: list[MemoryCheck], file: Path) -> None:
    """Stacked components by batch, one panel per config, with lines at the cards' memory.

    Raises:
        UsageError: The file's suffix is not supported, or there is nothing to draw by batch.
    """
    if file.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {file}: the name ends in {' or '.join(FORMATS)}")
    by_batch = [check.batches() for check in checks]
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(checks), figsize=(5.5 * len(checks), 4.5), squeeze=False, sharey=True)
    names = list(dict.fromkeys(name for check in checks for name in check.estimate.components))
    colours = dict(zip(names, pyplot.get_cmap("tab20").colors, strict=False))  # type: ignore[attr-defined]
    for panel, check, batches in zip(panels[0], checks, by_batch, strict=True):
        places = [str(batch) for batch in batches]
        floor = [0.0] * len(batches)
        for name in dict.fromkeys(name for estimate in batches.values() for name in estimate.components):
            heights = [estimate.components.get(name, 0) / GIB for estimate in batches.values()]
            panel.bar(places, heights, bottom=floor, label=name, color=colours.setdefault(name, "grey"))
            floor = [low + height for low, height in zip(floor, heights, strict=True)]
        for fit in check.cards:
            if fit.card.memory / GIB < 1.1 * max(floor):
                panel.axhline(fit.card.memory / GIB, color="grey", linewidth=0.8, linestyle="--")
                panel.annotate(fit.card.name, (0, fit.card.memory / GIB), fontsize=7, va="bottom")
        what = check.method if check.purpose == "train" else "generation"
        panel.set_title(f"{Path(check.config).stem}: {what}, {check.setup.length:,} tokens", fontsize=9)
        panel.set_xlabel("rows a step" if check.purpose == "train" else "rows together")
        panel.legend(fontsize=7)
    panels[0][0].set_ylabel("GiB at the peak")
    figure.tight_layout()
    save_figure(figure, file)
