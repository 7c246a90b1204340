"""`slds train`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from headnote_cli.cli.session import ConfigOption, PushOption, RemoteCodeOption, SetOption, SkipBadOption, with_screen
from headnote_cli.screen.console import Screen


@with_screen(
    What_to_do="dry_run print_config sample num_processes push",
    Resuming="resume force",
    What_to_accept="strict ignore_memory skip_bad_rows allow_remote_code",
)
def train(
    screen: Screen,
    config: ConfigOption = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the newest whole checkpoint; --no-resume sets the old run aside.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check config, plan, data and prompts; train nothing.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print each effective value and where it came from; train nothing.")
    ] = False,
    ignore_memory: Annotated[
        bool, typer.Option("--ignore-memory", help="Train although the estimate says that it does not fit.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Resume although a change makes the run a different one.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse whatever this machine cannot do as asked.")] = False,
    sample: Annotated[int, typer.Option(min=0, help="Generate N sample headnotes at each evaluation.")] = 0,
    num_processes: Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes) that train together.")] = 1,
    push: PushOption = None,
    allow_remote_code: RemoteCodeOption = False,
    skip_bad_rows: SkipBadOption = False,
    set_: SetOption = None,
) -> None:
    """Train with LoRA on a 4-bit base, or whatever the config says."""
    from headnote_cli.config.layers import load_config
    from headnote_cli.events import Event, PlanResolved
    from headnote_cli.screen.training import after_training, plan_view, training_view
    from headnote_cli.training.command import TrainOptions, push_checkpoint
    from headnote_cli.training.command import train as run
    from headnote_cli.training.launch import launch

    def listen(event: Event) -> None:
        if isinstance(event, PlanResolved):
            screen.table(plan_view(event.plan.rows))
        else:
            screen.listen(event)

    if num_processes > 1 and "SLDS_PROCESSES" not in os.environ:
        launch(num_processes, sys.argv[1:])
        return
    loaded = load_config(config, set_ or [])
    screen.note(*loaded.notes)
    if print_config:
        screen.text(loaded.to_yaml().rstrip())
        screen.data({"config": loaded.written(), "origins": {k: str(o) for k, o in loaded.origins.items()}})
        return
    options = TrainOptions(
        resume=resume, strict=strict, dry_run=dry_run, allow_remote_code=allow_remote_code,
        skip_bad_rows=skip_bad_rows, ignore_memory=ignore_memory, samples=sample, force=force,
    )  # fmt: skip
    report = run(loaded, listen, options)
    following = after_training(report, loaded.options)
    screen.show(training_view(report), *([following] if following else []))
    if push and not dry_run and not screen.muted:
        push_checkpoint(report, push, listen)
    screen.data(report.to_json())
