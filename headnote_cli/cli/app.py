"""The Typer app: options and help. The work is in `commands/`, the drawing in `views.py`."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from headnote_cli import __version__
from headnote_cli.errors import DataError, DoesNotFitError, ExitCode, UsageError
from headnote_cli.screen.console import Screen, screen_for

if TYPE_CHECKING:
    from headnote_cli.config.settings import Config
    from headnote_cli.data.documents import Decision
    from headnote_cli.generation.command import GeneratedHeadnote
    from headnote_cli.generation.endpoint import Server
    from headnote_cli.generation.sampling import Sampling

app = typer.Typer(
    name="slds",
    help="Turn a chat model into a writer of headnotes for Swiss leading decisions, on one GPU.",
    epilog="Example: slds preview-prompts -n 1",
    context_settings={"max_content_width": 100},
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
PushOption = Annotated[
    str | None, typer.Option(metavar="ID", help="Upload the result to the hub afterwards, as a private model.")
]
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


@app.command("preview-prompts", epilog="Example: slds preview-prompts --config configs/demo.yaml -n 1")
def preview_prompts(
    config: ConfigOption = None,
    count: Annotated[int, typer.Option("-n", min=0, help="How many rows.")] = 3,
    row: Annotated[int | None, typer.Option(min=1, help="This row alone, counted from 1.")] = None,
    sample_id: Annotated[str | None, typer.Option(help="The row with this `sample_id` alone.")] = None,
    split: Annotated[str, typer.Option(help="train, eval, test, or a split's own name.")] = "train",
    longest: Annotated[bool, typer.Option("--longest", help="The longest rows first.")] = False,
    only_cut: Annotated[bool, typer.Option("--only-cut", help="Only rows that do not fit `max_length`.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Count tokens and cuts over the whole split.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="The exact text and nothing else, for piping; a NUL between rows.")
    ] = False,
    tokenizer: Annotated[bool, typer.Option(help="Encode as training will; without, show the messages only.")] = True,
    skip_bad_rows: SkipBadOption = False,
    set_: SetOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Show rows exactly as the model will see them."""
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.config.settings import load_config
        from headnote_cli.screen.views import preview_raw, preview_view
        from headnote_cli.training.preview import Selection, preview

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
            screen.exact(preview_raw(value))
        else:
            screen.show(preview_view(value))
        screen.data(value.to_json())


@app.command(
    "check-memory", epilog='Example: slds check-memory --config configs/ipst/slds/sft_liger_peft.yaml --gpu "RTX 4090"'
)
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
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Rows at a time, instead of the config's; of --for generate, instead of one."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw components by batch into this .svg or .png.")] = None,
    set_: SetOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Estimate the peak memory of a training step and say on which cards it fits."""
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.config.settings import load_config
        from headnote_cli.memory.command import PURPOSES, check_memory
        from headnote_cli.memory.setup import STACKS
        from headnote_cli.screen.views import memory_view, plan_view

        if purpose not in PURPOSES:
            raise UsageError(f"--for {purpose}: write {', '.join(PURPOSES)}")
        if stack not in STACKS:
            raise UsageError(f"--stack {stack}: write {', '.join(STACKS)}")
        configs = [load_config(path, set_ or []) for path in config or ()] or [load_config(None, set_ or [])]
        checks = [check_memory(loaded, gpu or [], stack, purpose, devices, grid, data, batch) for loaded in configs]
        for loaded, check in zip(configs, checks, strict=True):
            for note in (*loaded.notes, *(check.data.lines if check.data else ())):
                screen.note(note)
            for warning in check.warnings:
                screen.note(warning, warning=True)
        screen.show(memory_view(checks))
        if len(checks) == 1 and purpose == "train" and stack == "slds":
            screen.table(plan_view(checks[0].plan.rows))
        if plot is not None:
            from headnote_cli.screen.plots import draw_memory

            draw_memory(checks, plot)
            screen.note(f"drawn: {plot}")
        screen.data({"runs": [check.to_json() for check in checks]})
        if not all(check.fits_any for check in checks):
            if json_mode:
                raise typer.Exit(ExitCode.DOES_NOT_FIT)
            here = any(fit.card.here for fit in checks[0].cards)
            which = "this machine" if here else "any card named above"
            raise DoesNotFitError(f"does not fit on {which}", hint="see what would help, above")


@app.command(epilog="Example: slds train --config configs/ipst/slds/sft_liger_peft.yaml")
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
    push: PushOption = None,
    allow_remote_code: RemoteCodeOption = False,
    skip_bad_rows: SkipBadOption = False,
    set_: SetOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Train with LoRA on a 4-bit base, or whatever the config says."""
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.config.settings import load_config
        from headnote_cli.events import Event, PlanResolved
        from headnote_cli.screen.views import plan_view, training_view
        from headnote_cli.training.command import push_checkpoint
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
        if push and not dry_run and not screen.muted:
            push_checkpoint(report, push, listen)
        screen.data(report.to_json())


@app.command(epilog="Example: slds merge --checkpoint checkpoint-1364")
def merge(
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(help="A path, a name such as checkpoint-1364, latest or best; several are merged in turn."),
    ] = None,
    config: ConfigOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write. Default: the checkpoint's name with -merged.")
    ] = None,
    onto: Annotated[
        str, typer.Option(help="base: the original weights; nf4: the 4-bit weights that training saw.")
    ] = "base",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. Default: the base's own.")] = None,
    max_shard_size: Annotated[str | None, typer.Option(help="Such as 5GB. Default: files as in the base.")] = None,
    verify: Annotated[bool, typer.Option(help="Compare the merged model with base + adapter.")] = True,
    check: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Look at a merged folder again; merge nothing.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing output, once the new one is whole.")
    ] = False,
    push: PushOption = None,
    set_: SetOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Merge an adapter into its base: one model folder, loaded without PEFT."""
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.config.settings import load_config
        from headnote_cli.merging.command import MergeOptions, check_merged, read_size
        from headnote_cli.merging.command import merge as run
        from headnote_cli.screen.views import check_view, merge_view

        if check is not None:
            found = check_merged(check)
            screen.show(check_view(found))
            screen.data(found.to_json())
            raise typer.Exit(ExitCode.BAD_DATA if found.faults else ExitCode.DONE)
        if dtype not in (None, "float32", "bfloat16", "float16"):
            raise UsageError(f"--dtype {dtype}: write float32, bfloat16 or float16")
        if onto not in ("base", "nf4"):
            raise UsageError(f"--onto {onto}: write base or nf4")
        shard_bytes = read_size(max_shard_size) if max_shard_size else None
        loaded = load_config(config, set_ or [])
        options = MergeOptions(output, dtype, onto, shard_bytes, verify, force, push)
        report = run(loaded, screen.listen, checkpoint or [], options)
        screen.close()
        screen.show(merge_view(report, str(loaded.path)))
        screen.data(report.to_json())


class _ListByDefault(TyperGroup):
    """`slds runs FOLDER` is `slds runs list FOLDER`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["list", *args])


runs_app = typer.Typer(cls=_ListByDefault, epilog="Example: slds runs trainer_output", rich_markup_mode=None)
app.add_typer(runs_app, name="runs")


@runs_app.callback()
def runs() -> None:
    """List the runs under a folder, or compare the configs of two."""


@runs_app.command("diff", epilog="Example: slds runs diff trainer_output/a trainer_output/b")
def runs_diff(
    first: Annotated[Path, typer.Argument(help="A run folder.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the config keys in which two runs differ."""
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.runs.listing import difference
        from headnote_cli.screen.views import difference_view

        changed = difference(first, second)
        screen.show(difference_view(changed))
        screen.data({"differences": changed})


@runs_app.command("list", epilog="Example: slds runs trainer_output")
def runs_list(
    folder: Annotated[Path, typer.Argument(help="Where to look for runs.")] = Path("trainer_output"),
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """List the runs under a folder, newest first: `slds runs FOLDER`."""
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.runs.listing import list_runs
        from headnote_cli.screen.views import runs_view

        found = list_runs(folder)
        screen.show(runs_view(found))
        screen.data({"runs": found})


@app.command(epilog="Example: slds generate --decision decision.txt --lang de")
def generate(
    decision: Annotated[
        str | None,
        typer.Option(
            help="A text, HTML or PDF file, a folder of them, a file of rows (JSONL, parquet …), or - for stdin."
        ),
    ] = None,
    lang: Annotated[
        list[str] | None,
        typer.Option(help="Language of the headnote: de, fr or it; repeatable. Rows may name their own."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Write for a whole split of the config's data instead: train, eval, test …")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A merged folder, a checkpoint or a hub id. Default: the newest merged one.")
    ] = None,
    config: ConfigOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Write JSON lines to this file instead of text to stdout.")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Language of the decision: de, fr or it. Default: as detected.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest headnote, in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Draw among the likeliest with this share.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw among so many likeliest; 0 takes all.")] = 0,
    repetition_penalty: Annotated[
        float, typer.Option(min=0.1, help="Above 1, what was written becomes less likely.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="For temperatures above 0.")] = 42,
    num_candidates: Annotated[int, typer.Option(min=1, help="Headnotes for each decision and language.")] = 1,
    preset: Annotated[
        str | None, typer.Option(help="slds-paper: prompts and sampling of the published benchmark.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many rows only.")] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Every N-th row from the I-th, for N machines.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Begin an output anew; the old one is set aside.")] = False,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server writes, such as vLLM's.")
    ] = None,
    served_model: Annotated[str | None, typer.Option(help="The server's name of the model. Default: --model.")] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Headnotes at a time, if memory allows. Default: 16, on a GPU 64, of a server 8."),
    ] = None,
    set_: SetOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the headnote of a decision, and look its citations up in the decision."""
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.config.settings import load_config
        from headnote_cli.generation.endpoint import Server
        from headnote_cli.generation.sampling import Sampling

        languages = tuple(lang or ())
        _check_languages("--lang", languages)
        _check_languages("--from", (from_,) if from_ else ())
        if (decision is None) == (split is None):
            raise UsageError("name a --decision, or a --split of the config's data")
        loaded = load_config(config, set_ or [])
        sampling = Sampling(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed)
        prompts = None
        if preset is not None:
            sampling, prompts = _preset(preset, sampling)
        if num_candidates > 1 and sampling.temperature == 0:
            raise UsageError("--num-candidates would write the same headnote again", hint="set --temperature above 0")
        server = Server(endpoint, served_model) if endpoint else None
        if output is None:
            if split is not None or _is_rows(decision):
                raise UsageError("name a file for the headnotes with --output")
            _generate_here(
                screen, loaded, str(decision), languages, from_, model, sampling, num_candidates, server, prompts
            )
            return

        from headnote_cli.generation.many import ManyOptions, generate_many, read_shard, rows_of
        from headnote_cli.screen.views import many_view

        part, output = read_shard(shard, output)
        options = ManyOptions(
            output, sampling, languages, num_candidates, limit, part, force, server, concurrency, prompts
        )
        file = Path(decision) if decision is not None and _is_rows(decision) else None
        decisions = _decisions(screen, decision, from_) if decision is not None and file is None else []
        rows = rows_of(loaded, split, file, decisions)
        report = generate_many(loaded, rows, screen.listen, model, options)
        screen.close()
        screen.show(many_view(report))
        screen.data(report.to_json())
        if report.failed:
            raise typer.Exit(ExitCode.BAD_DATA)


def _generate_here(
    screen: Screen,
    config: Config,
    decision: str,
    languages: tuple[str, ...],
    from_: str | None,
    model: str | None,
    sampling: Sampling,
    candidates: int,
    server: Server | None,
    prompts: Path | None,
) -> None:
    """Headnotes of a few decisions, onto the screen as they are written."""
    from headnote_cli.generation.command import generate

    if not languages:
        raise UsageError("name the language of the headnote with --lang", hint="de, fr or it; repeatable")
    decisions = _decisions(screen, decision, from_)
    for headnote in generate(config, decisions, languages, screen.listen, model, sampling, candidates, server, prompts):
        _show_headnote(screen, headnote)


def _preset(name: str, sampling: Sampling) -> tuple[Sampling, Path]:
    """How a published protocol draws, and its prompts."""
    from headnote_cli.config.assets import assets_root
    from headnote_cli.generation.sampling import PRESETS, Sampling, require_preset

    require_preset(name)
    if sampling != Sampling():
        raise UsageError(f"--preset {name} says how to draw: leave the other options of sampling out")
    fixed, prompts = PRESETS[name]
    return fixed, assets_root() / prompts


def _check_languages(option: str, languages: tuple[str, ...]) -> None:
    from headnote_cli.law.language import LANGUAGES

    for language in languages:
        if language not in LANGUAGES:
            raise UsageError(f"{option} {language}: the court writes headnotes in {', '.join(LANGUAGES)}")


def _is_rows(decision: str | None) -> bool:
    """Whether a --decision is a file of rows: JSONL, parquet …"""
    from headnote_cli.data.row_files import is_row_file

    return decision is not None and is_row_file(Path(decision))


def _decisions(screen: Screen, name: str, language: str | None) -> list[Decision]:
    """The decision of a file or of stdin, or all of a folder."""
    from headnote_cli.data.documents import SUFFIXES, read_decision

    path = Path(name).expanduser()
    if name == "-":
        return [read_decision(Path("-"), sys.stdin.buffer.read(), language)]
    if not path.is_dir():
        return [read_decision(path, language=language)]
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    read = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not read:
        raise DataError("the folder holds no decision", name, f"kinds of files that are read: {' '.join(SUFFIXES)}")
    if left_out := [file.name for file in files if file not in read]:
        screen.note(f"left out of {name}: {', '.join(left_out)}; read are {' '.join(SUFFIXES)}", warning=True)
    return [read_decision(file, language=language) for file in read]


def _show_headnote(screen: Screen, headnote: GeneratedHeadnote) -> None:
    from headnote_cli.screen.views import headnote_view

    if screen.json_mode:
        screen.line(headnote.to_json())
        return
    unfinished = " […]" if headnote.finish_reason == "length" else ""
    if screen.streams:
        screen.text(unfinished)
    else:
        screen.text(headnote.headnote + unfinished)
    if unfinished:
        screen.note("the headnote is unfinished: the token limit cut it off; raise --max-new-tokens", warning=True)
    screen.table(headnote_view(headnote))


@app.command(epilog="Example: slds evaluate --predictions headnotes.jsonl --baseline lead")
def evaluate(
    predictions: Annotated[
        list[Path], typer.Option(help="A file that generate --output wrote; repeatable: others are compared with it.")
    ],
    config: ConfigOption = None,
    split: Annotated[str, typer.Option(help="The split of the config's data with the official headnotes.")] = "test",
    references: Annotated[
        Path | None, typer.Option(help="A file of rows with the official headnotes, instead of a split.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="year, law_area, decision_language or headnote_language; repeatable.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="lead: the decision's first sentences; zero-shot: zero-shot.jsonl beside the predictions; or a file."
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="slds-paper: set the published results beside yours.")] = None,
    bertscore: Annotated[
        str | None, typer.Option(metavar="MODEL", help="BERTScore with this model: xlm-roberta-large, or a folder.")
    ] = None,
    judge: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="URL MODEL", help="A model on an OpenAI-compatible server judges by five rubrics."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the first file's lines with the scores of each, for slds review.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 2025,
    set_: SetOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Score headnotes against the official ones, with 95 % intervals."""
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.config.settings import load_config
        from headnote_cli.evaluation.command import EvaluateOptions
        from headnote_cli.evaluation.command import evaluate as run
        from headnote_cli.screen.views import evaluation_view

        options = EvaluateOptions(
            references, split, tuple(by or ()), tuple(baseline or ()), preset, bertscore, judge, output, seed=seed
        )
        report = run(load_config(config, set_ or []), predictions, screen.listen, options)
        screen.close()
        screen.show(evaluation_view(report))
        screen.data(report.to_json())


@app.command(epilog="Example: slds review --predictions headnotes.jsonl --output review.html")
def review(
    predictions: Annotated[list[Path], typer.Option(metavar="FILE", help="What `slds generate --output` wrote.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page to write, such as review.html.")],
    config: ConfigOption = None,
    split: Annotated[str, typer.Option(help="Where decisions and references are: train, eval, test …")] = "test",
    references: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file of rows that has them instead (JSONL, parquet …).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing page.")] = False,
    set_: SetOption = None,
    json_mode: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a page to read and mark headnotes beside their decisions, offline."""
    with screen_for(json_mode, quiet, debug) as screen:
        from headnote_cli.config.settings import load_config
        from headnote_cli.review.command import review as run
        from headnote_cli.screen.views import review_view

        if len(predictions) > 1:
            raise UsageError("--predictions takes one file: a page shows one", hint="write a page for each")
        report = run(load_config(config, set_ or []), predictions[0], output, split, references, force)
        for note in report.notes:
            screen.note(note)
        screen.show(review_view(report))
        screen.data(report.to_json())


def main() -> None:
    """The console entry point."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows ? instead of a traceback
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # a file or a program gets every character
    app()
