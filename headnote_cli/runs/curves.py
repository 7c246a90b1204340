"""The plot of a run: losses and learning rate by step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headnote_cli.runs.files import write_bytes

CURVES = "curves.png"


def draw_curves(metrics: Sequence[dict[str, Any]], file: Path) -> None:
    """Plot training and evaluation loss by step, and the learning rate below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=[3, 1])
    curves = ((upper, "loss", "training", "-"), (upper, "eval_loss", "evaluation", "o-"),
              (lower, "learning_rate", "learning rate", "-"))  # fmt: skip
    for panel, key, label, style in curves:
        points = [(line["step"], line[key]) for line in metrics if key in line]
        if points:
            panel.plot(*zip(*points, strict=True), style, label=label, markersize=3)
            panel.legend(fontsize=8)
    upper.set_ylabel("loss")
    lower.set_xlabel("step")
    figure.tight_layout()
    save_figure(figure, file, dpi=120)


def save_figure(figure: Any, file: Path, **options: Any) -> None:
    """Write a matplotlib figure atomically, in the format of the file's suffix, and close it."""
    from matplotlib import pyplot

    picture = io.BytesIO()
    figure.savefig(picture, format=file.suffix[1:].lower(), **options)
    pyplot.close(figure)
    write_bytes(file, picture.getvalue())
