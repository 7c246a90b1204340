"""`slds merge`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from headnote_cli.cli.completion import checkpoints
from headnote_cli.cli.session import ConfigOption, PushOption, SetOption, with_screen
from headnote_cli.errors import ExitCode
from headnote_cli.screen.console import Screen


@with_screen(What_to_merge="checkpoint onto dtype", Output="output max_shard_size force push", Checks="verify check")
def merge(
    screen: Screen,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            autocompletion=checkpoints,
            help="A path, a name such as checkpoint-1364, latest or best; several are merged in turn.",
        ),
    ] = None,
    config: ConfigOption = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to write. Default: the checkpoint's name with -merged."),
    ] = None,
    onto: Annotated[
        Literal["base", "nf4"], typer.Option(help="The original weights, or the 4-bit ones that training saw.")
    ] = "base",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="Default: the base's own.")
    ] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Such as 5GB. Default: files as in the base.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Compare the merged model with base + adapter.")] = True,
    check: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Look at a merged folder again; merge nothing.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing output, once the new one is whole.")
    ] = False,
    push: PushOption = None,
    set_: SetOption = None,
) -> None:
    """Merge an adapter into its base: one model folder, loaded without PEFT."""
    from headnote_cli.config.layers import load_config
    from headnote_cli.merging.check import check_merged
    from headnote_cli.merging.command import MergeOptions, read_size
    from headnote_cli.merging.command import merge as run
    from headnote_cli.screen.merging import check_view, merge_view

    if check is not None:
        checked = check_merged(check)
        screen.show(check_view(checked))
        screen.data(checked.to_json())
        raise typer.Exit(ExitCode.BAD_DATA if checked.faults else ExitCode.DONE)
    shard_bytes = read_size(max_shard_size) if max_shard_size else None
    loaded = load_config(config, set_ or [])
    options = MergeOptions(output, dtype, onto, shard_bytes, verify, force, push)
    report = run(loaded, screen.listen, checkpoint or [], options)
    model = shlex.quote(str(report.output))
    screen.show(
        merge_view(report),
        f"slds generate --decision FILE.txt --lang de --model {model} {loaded.options}",
        f"vllm serve {model}",
    )
    screen.data(report.to_json())
