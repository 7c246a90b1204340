"""The Typer app: options and help. The work is in `commands/`, the drawing in `views.py`."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headnote_cli import __version__
from headnote_cli.console import Screen, screen_for
from headnote_cli.errors import DataError, DoesNotFitError, ExitCode, UsageError

if TYPE_CHECKING:
    from headnote_cli.commands.generate import Decision, GeneratedHeadnote

app = typer.Typer(
    name="slds",
    help="Turn a chat model into a writer of headnotes for Swiss leading decisions, on one GPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="YAML file. Default: $SLDS_CONFIG, else configs/ipst/slds/sft_liger_peft.yaml."
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one config key; repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout and nothing else there.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Results and warnings only.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Tracebacks, and what the libraries say.")]
RemoteCodeOption = Annotated[bool, typer.Option("--allow-remote-code", help="Honour `trust_remote_code: true`.")]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out rows with faults, and count them.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"slds {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Turn a chat model into a writer of headnotes for Swiss leading decisions, on one GPU."""


@app.command("preview-prompts")
def preview_prompts(
    config: ConfigOption = None,
    count: Annotated[int, typer.Option("-n", min=0, help="How many rows.")] = 3,
    row: Annotated[int | None, typer.Option(min=1, help="This row alone, counted from 1.")] = None,
    sample_id: Annotated[str | None, typer.Option(help="The row with this `sample_id` alone.")] = None,
    split: Annotated[str, typer.Option(help="train, eval, test, or a split's own name.")] = "train",
    longest: Annotated[bool, typer.Option("--longest", help="The longest rows first.")] = False,
    only_cut: Annotated[bool, typer.Option("--only-cut", help="Only rows that do not fit `max_length`.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Count tokens and cuts over the whole split.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The exact text and nothing else, for piping.")] = False,
    tokenizer: Annotated[bool, typer.Option(help="Encode as training will; without, show the messages only.")] = True,
    skip_bad_rows: SkipBadOption = False,
    set_: SetOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Show rows exactly as the model will see them.

    Example: slds preview-prompts --config configs/demo.yaml -n 1
    """
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.commands.preview import Selection, preview
        from headnote_cli.config import load_config
        from headnote_cli.views import preview_raw, preview_view

        loaded = load_config(config, set_ or [])
        by_default = config is None and "SLDS_CONFIG" not in os.environ and not set_
        selection = Selection(count, row, sample_id, longest, only_cut)
        value = preview(loaded, selection, split, stats, tokenizer, by_default, skip_bad_rows)
        for note in (*loaded.notes, *value.notes):
            screen.note(note)
        for warning in value.warnings:
            screen.note(warning, warning=True)
        if value.tokenizer_missing and tokenizer:
            screen.note(f"messages only, no token counts: {value.tokenizer_missing}", warning=True)
        if raw:
            screen.text(preview_raw(value))
        else:
            screen.show(preview_view(value))
        screen.data(value.to_json())


@app.command("check-memory")
def check_memory_command(
    config: Annotated[
        list[Path] | None, typer.Option("--config", "-c", help="YAML file; repeatable, side by side.")
    ] = None,
    gpu: Annotated[list[str] | None, typer.Option(help="A card by name, or a size such as 24GiB; repeatable.")] = None,
    purpose: Annotated[str, typer.Option("--for", help="train, generate or merge.")] = "train",
    stack: Annotated[
        str, typer.Option(help="Whose code trains: slds, trl (plain TRL 1.16) or workshop (the recipe's TRL 0.24).")
    ] = "slds",
    devices: Annotated[int, typer.Option(min=1, help="GPUs that train together.")] = 1,
    grid: Annotated[bool, typer.Option("--grid", help="The peak for many batches and lengths.")] = False,
    data: Annotated[bool, typer.Option("--data", help="Take the lengths of the config's own training rows.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw components by batch into this .svg or .png.")] = None,
    set_: SetOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Estimate the peak memory of a training step and say on which cards it fits.

    Example: slds check-memory --config configs/ipst/slds/sft_liger_peft.yaml --gpu "RTX 4090"
    """
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.commands.check_memory import PURPOSES, check_memory
        from headnote_cli.config import load_config
        from headnote_cli.memory.setup import STACKS
        from headnote_cli.views import memory_view, plan_view

        if purpose not in PURPOSES:
            raise UsageError(f"--for {purpose}: write {', '.join(PURPOSES)}")
        if stack not in STACKS:
            raise UsageError(f"--stack {stack}: write {', '.join(STACKS)}")
        configs = [load_config(path, set_ or []) for path in config or ()] or [load_config(None, set_ or [])]
        checks = [check_memory(loaded, gpu or [], stack, purpose, devices, grid, data) for loaded in configs]
        for loaded in configs:
            for note in loaded.notes:
                screen.note(note)
        screen.show(memory_view(checks))
        if len(checks) == 1 and purpose == "train" and stack == "slds":
            screen.table(plan_view(checks[0].plan))
        if plot is not None:
            from headnote_cli.plots import draw_memory

            draw_memory(checks, plot)
            screen.note(f"drawn: {plot}")
        screen.data({"runs": [check.to_json() for check in checks]})
        if not all(check.fits_any for check in checks):
            if json_mode:
                raise typer.Exit(ExitCode.DOES_NOT_FIT)
            raise DoesNotFitError("does not fit on any card named above", hint="see what would help, above")


@app.command()
def train(
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
    sample: Annotated[int, typer.Option(min=0, help="Write so many headnotes of the eval split each time.")] = 0,
    num_processes: Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes) that train together.")] = 1,
    allow_remote_code: RemoteCodeOption = False,
    skip_bad_rows: SkipBadOption = False,
    set_: SetOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Train with LoRA on a 4-bit base, or whatever the config says.

    Example: slds train --config configs/ipst/slds/sft_liger_peft.yaml
    """
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.commands.launch import launch
        from headnote_cli.commands.train import train as run
        from headnote_cli.config import load_config
        from headnote_cli.events import Event, PlanResolved
        from headnote_cli.views import plan_view, training_view

        def listen(event: Event) -> None:
            if isinstance(event, PlanResolved):
                screen.table(plan_view(event.plan))
            else:
                screen.listen(event)

        if num_processes > 1 and "SLDS_PROCESSES" not in os.environ:
            raise typer.Exit(launch(num_processes, sys.argv[1:]))
        loaded = load_config(config, set_ or [])
        for note in loaded.notes:
            screen.note(note)
        if print_config:
            screen.text(loaded.to_yaml().rstrip())
            screen.data({"config": loaded.written(), "origins": {k: str(o) for k, o in loaded.origins.items()}})
            return
        report = run(
            loaded, listen, resume, strict, dry_run, allow_remote_code, skip_bad_rows, ignore_memory, sample, force
        )
        screen.close()
        screen.show(training_view(report, str(loaded.path)))
        screen.data(report.to_json())


@app.command()
def merge(
    checkpoint: Annotated[str | None, typer.Option(help="A path, a name such as checkpoint-1364, or latest.")] = None,
    config: ConfigOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write. Default: the checkpoint's name with -merged.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. Default: the base's own.")] = None,
    verify: Annotated[bool, typer.Option(help="Compare the logits of base + adapter with the merged model.")] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing output; the old one is set aside.")
    ] = False,
    set_: SetOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Merge a checkpoint's adapter into its base: one model folder that transformers alone loads.

    Example: slds merge --checkpoint checkpoint-1364
    """
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.commands.merge import merge as run
        from headnote_cli.config import load_config
        from headnote_cli.views import merge_view

        if dtype not in (None, "float32", "bfloat16", "float16"):
            raise UsageError(f"--dtype {dtype}: write float32, bfloat16 or float16")
        loaded = load_config(config, set_ or [])
        report = run(loaded, screen.listen, checkpoint, output, dtype, verify, force)
        screen.show(merge_view(report, str(loaded.path)))
        screen.data(report.to_json())


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Where to look for runs.")] = Path("trainer_output"),
    diff: Annotated[
        tuple[Path, Path] | None, typer.Option("--diff", metavar="A B", help="What differs between two runs' configs.")
    ] = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """List the runs under a folder, or compare the configs of two.

    Example: slds runs trainer_output
    """
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.commands.list_runs import difference, list_runs
        from headnote_cli.views import difference_view, runs_view

        if diff is not None:
            changed = difference(*diff)
            screen.show(difference_view(changed))
            screen.data({"differences": changed})
            return
        found = list_runs(folder)
        screen.show(runs_view(found))
        screen.data({"runs": found})


@app.command()
def generate(
    decision: Annotated[str, typer.Option(help="A text file, a folder of .txt files, or - for standard input.")],
    lang: Annotated[list[str], typer.Option(help="Language of the headnote: de, fr or it; repeatable.")],
    model: Annotated[
        str | None, typer.Option(help="A merged folder, a checkpoint or a hub id. Default: the newest merged one.")
    ] = None,
    config: ConfigOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Write JSON lines to this file instead of text to stdout.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest headnote, in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option(min=0.1, help="Above 1, what was written becomes less likely.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="For temperatures above 0.")] = 42,
    set_: SetOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the headnote of a decision, and look its citations up in the decision.

    Example: slds generate --decision decision.txt --lang de
    """
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.commands.generate import generate as run
        from headnote_cli.config import load_config
        from headnote_cli.runs import write_lines

        _check_languages(lang)
        decisions = _decisions(decision)
        if output is not None and output.exists():
            raise UsageError("the output exists already", str(output), "choose another --output, or remove it")
        loaded = load_config(config, set_ or [])
        listen = screen.listen if output is None else screen.listen_quietly
        headnotes = run(loaded, decisions, lang, listen, model, max_new_tokens, temperature, repetition_penalty, seed)
        if output is None:
            for headnote in headnotes:
                _show_headnote(screen, headnote)
        else:
            count = write_lines(output, (headnote.to_json() for headnote in headnotes))
            screen.note(f"{count} headnotes in {output}")
            screen.data({"output": str(output), "headnotes": count})


def _check_languages(languages: list[str]) -> None:
    from headnote_cli.language import LANGUAGES

    for language in languages:
        if language not in LANGUAGES:
            raise UsageError(f"--lang {language}: the court writes headnotes in {', '.join(LANGUAGES)}")


def _decisions(name: str) -> list[Decision]:
    from headnote_cli.commands.generate import read_decision

    path = Path(name).expanduser()
    if name == "-":
        return [read_decision(Path("-"), sys.stdin.buffer.read())]
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise DataError("the folder holds no .txt files", name)
        return [read_decision(file) for file in files]
    return [read_decision(path)]


def _show_headnote(screen: Screen, headnote: GeneratedHeadnote) -> None:
    from headnote_cli.views import headnote_view

    if screen.json_mode:
        screen.line(headnote.to_json())
        return
    if screen.streams:
        screen.out.print()
    else:
        screen.text(headnote.headnote)
    screen.table(headnote_view(headnote))


def main() -> None:
    """The console entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows ? instead of a traceback
    app()
