"""Shell completion: keys, cards, presets, checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import typer

from headnote_cli.errors import SldsError


def config_keys(incomplete: str) -> list[str]:
    from headnote_cli.config.keys import Settings

    return _beginning(incomplete, (f"{key}=" for key in Settings.model_fields))


def cards(incomplete: str) -> list[str]:
    from headnote_cli.memory.cards import KNOWN

    return _beginning(incomplete, KNOWN)


def presets(incomplete: str) -> list[str]:
    from headnote_cli.generation.sampling import PRESETS

    return _beginning(incomplete, PRESETS)


def checkpoints(ctx: typer.Context, incomplete: str) -> list[str]:
    """The checkpoints of the config's run, and the words that select one."""
    from headnote_cli.config.layers import load_config
    from headnote_cli.runs.folders import Run, output_dir

    names = ["latest", "best"]
    with suppress(SldsError, OSError):  # without a run, there is nothing to offer
        config = ctx.params.get("config")
        run = output_dir(load_config(Path(config) if config else None, list(ctx.params.get("set_") or [])))
        names += [checkpoint.path.name for checkpoint in Run(run).checkpoints()]
    return _beginning(incomplete, names)


def _beginning(incomplete: str, values: Iterable[str]) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]
