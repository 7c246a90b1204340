"""`slds check-memory`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headnote_cli.cli.completion import cards
from headnote_cli.cli.session import SetOption, with_screen
from headnote_cli.errors import DoesNotFitError, ExitCode
from headnote_cli.memory import Purpose, Stack
from headnote_cli.screen.console import Screen


@with_screen(What_for="gpu purpose stack devices batch", What_to_show="grid data plot")
def check_memory(
    screen: Screen,
    config: Annotated[
        list[Path] | None, typer.Option("--config", "-c", help="YAML file; repeatable, side by side.")
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(metavar="CARD", autocompletion=cards, help="A card by name, or a size such as 24GiB; repeatable."),
    ] = None,
    purpose: Annotated[Purpose, typer.Option("--for", help="What takes the memory.")] = "train",
    stack: Annotated[
        Stack, typer.Option(help="Whose code trains: slds, plain TRL 1.16, or the workshop's recipe with TRL 0.24.")
    ] = "slds",
    devices: Annotated[int, typer.Option(min=1, help="GPUs that train together.")] = 1,
    grid: Annotated[bool, typer.Option("--grid", help="The peak for many batches and lengths.")] = False,
    data: Annotated[bool, typer.Option("--data", help="Take the lengths of the config's own training rows.")] = False,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Rows at a time, instead of the config's; of --for generate, instead of one."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw components by batch into this .svg or .png.")] = None,
    set_: SetOption = None,
) -> None:
    """Estimate the peak memory of a training step and say on which cards it fits."""
    from headnote_cli.config.layers import load_config
    from headnote_cli.memory.command import MemoryOptions
    from headnote_cli.memory.command import check_memory as check_one
    from headnote_cli.screen.memory import memory_view
    from headnote_cli.screen.training import plan_view

    configs = [load_config(path, set_ or []) for path in config or ()] or [load_config(None, set_ or [])]
    options = MemoryOptions(
        gpus=tuple(gpu or ()), stack=stack, purpose=purpose, devices=devices,
        with_grid=grid, with_data=data, batch=batch,
    )  # fmt: skip
    checks = [check_one(loaded, options) for loaded in configs]
    for loaded, check in zip(configs, checks, strict=True):
        screen.note(*loaded.notes, *(check.data.lines if check.data else ()))
        screen.note(*check.warnings, warning=True)
    screen.show(memory_view(checks, screen.out.width))
    if len(checks) == 1 and purpose == "train" and stack == "slds":
        screen.table(plan_view(checks[0].plan.rows))
    if plot is not None:
        from headnote_cli.screen.plots import draw_memory

        draw_memory(checks, plot)
        screen.note(f"drawn: {plot}")
    screen.data({"runs": [check.to_json() for check in checks]})
    if not all(check.fits_any for check in checks):
        if screen.json_mode:
            raise typer.Exit(ExitCode.DOES_NOT_FIT)
        here = any(fit.card.here for fit in checks[0].cards)
        which = "this machine" if here else "any card named above"
        raise DoesNotFitError(f"does not fit on {which}", hint="see what would help, above")
