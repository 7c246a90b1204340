"""`slds generate`."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from headnote_cli.cli.completion import presets
from headnote_cli.cli.session import ConfigOption, SetOption, with_screen
from headnote_cli.errors import DataError, ExitCode, UsageError
from headnote_cli.law import Language
from headnote_cli.screen.console import Screen

if TYPE_CHECKING:
    from headnote_cli.data.documents import Decision
    from headnote_cli.generation.headnotes import GeneratedHeadnote
    from headnote_cli.generation.sampling import Sampling


@with_screen(
    What_to_write="decision split lang from_ limit shard",
    Output="output evidence force",
    Which_model="model endpoint served_model concurrency",
    Sampling="grounded preset max_new_tokens temperature top_p top_k repetition_penalty seed num_candidates choose",
)
def generate(
    screen: Screen,
    decision: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A text, HTML or PDF file, a folder of them, a file of rows (JSONL, parquet …), or - for stdin.",
        ),
    ] = None,
    lang: Annotated[
        list[Language] | None,
        typer.Option(help="Language of the headnote; repeatable. Rows may name their own."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="SPLIT", help="Write for a whole split of the config's data instead: train, eval, test …"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="A merged folder, a checkpoint or a hub id. Default: the newest merged one."
        ),
    ] = None,
    config: ConfigOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Write JSON lines to this file instead of text to stdout.")
    ] = None,
    from_: Annotated[
        Language | None, typer.Option("--from", help="Language of the decision. Default: as detected.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest headnote, in tokens.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Draw among the likeliest with this share.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw among the N likeliest tokens; 0 takes all.")] = 0,
    repetition_penalty: Annotated[
        float, typer.Option(min=0.1, help="Above 1, what was written becomes less likely.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="For temperatures above 0.")] = 42,
    num_candidates: Annotated[int, typer.Option(min=1, help="Headnotes for each decision and language.")] = 1,
    grounded: Annotated[
        bool, typer.Option("--grounded", help="Cite only what the decision has, in the language of the headnote.")
    ] = False,
    evidence: Annotated[
        Literal["words", "model"],
        typer.Option(help="Look each sentence up in the decision by its words, or also by the model's likelihood."),
    ] = "words",
    choose: Annotated[
        bool,
        typer.Option("--choose", help="Keep the best candidate: well cited, right language, nearest to the others."),
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", autocompletion=presets, help="slds-paper: prompts and sampling of the published benchmark."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.")] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Every N-th row from the I-th, for N machines.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Begin an output anew; the old one is set aside.")] = False,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Generate with an OpenAI-compatible server, such as vLLM's.")
    ] = None,
    served_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The server's name of the model. Default: --model.")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Headnotes at a time, if memory allows. Default: 16, on a GPU 64, of a server 8."),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Write the headnote of a decision, and look its citations up in the decision."""
    from headnote_cli.config.layers import load_config
    from headnote_cli.generation.command import generate as generate_here
    from headnote_cli.generation.endpoint import Server
    from headnote_cli.generation.request import GenerateOptions
    from headnote_cli.generation.sampling import Sampling

    languages = tuple(dict.fromkeys(language.value for language in lang or ()))
    if (decision is None) == (split is None):
        raise UsageError("name a --decision, or a --split of the config's data")
    loaded = load_config(config, set_ or [])
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed)
    prompts = None
    if preset is not None:
        sampling, prompts = _preset(preset, sampling)
    if num_candidates > 1 and sampling.temperature == 0:
        raise UsageError("--num-candidates would write the same headnote again", hint="set --temperature above 0")
    if evidence == "model" and endpoint:
        raise UsageError("--evidence model needs the model here, not a server", hint="leave --evidence out")
    if choose and num_candidates == 1:
        raise UsageError("--choose needs several headnotes", hint="set --num-candidates, and --temperature above 0")
    asked: dict[str, Any] = {
        "languages": languages,
        "model": model,
        "sampling": sampling,
        "candidates": num_candidates,
        "choose": choose,
        "server": Server(endpoint, served_model) if endpoint else None,
        "prompts": prompts,
        "grounded": grounded,
        "evidence": evidence,
    }
    if output is None:
        if split is not None or _is_rows(decision):
            raise UsageError("name a file for the headnotes with --output")
        if not languages:
            raise UsageError("name the language of the headnote with --lang", hint="de, fr or it; repeatable")
        decisions = _decisions(screen, str(decision), from_ and from_.value)
        for headnote in generate_here(loaded, decisions, screen.listen, GenerateOptions(**asked)):
            _show_headnote(screen, headnote)
        return

    from headnote_cli.data.sources import located_rows
    from headnote_cli.generation.many import ManyOptions, generate_many, read_shard
    from headnote_cli.generation.request import rows_of
    from headnote_cli.screen.generation import many_view

    part, output = read_shard(shard, output)
    options = ManyOptions(output=output, limit=limit, shard=part, force=force, concurrency=concurrency, **asked)
    if split is not None or _is_rows(decision):
        file = Path(decision) if decision is not None else None
        rows = list(located_rows(loaded, str(split), file))
    else:
        decisions = _decisions(screen, str(decision), from_ and from_.value)
        rows = rows_of(decisions, loaded.settings.overflow_field)
    report = generate_many(loaded, rows, screen.listen, options)
    screen.show(many_view(report))
    screen.data(report.to_json())
    if report.failed:
        raise typer.Exit(ExitCode.BAD_DATA)


def _preset(name: str, sampling: Sampling) -> tuple[Sampling, Path]:
    """The sampling settings and prompts of a published protocol."""
    from headnote_cli.config.assets import assets_root
    from headnote_cli.generation.sampling import PRESETS, Sampling, require_preset

    require_preset(name)
    if sampling != Sampling():
        raise UsageError(f"--preset {name} says how to draw: leave the other options of sampling out")
    fixed, prompts = PRESETS[name]
    return fixed, assets_root() / prompts


def _is_rows(decision: str | None) -> bool:
    """Whether a --decision is a file of rows: JSONL, parquet …"""
    from headnote_cli.data.row_files import is_row_file

    return decision is not None and is_row_file(Path(decision))


def _decisions(screen: Screen, name: str, language: str | None) -> list[Decision]:
    """The decision in a file or on stdin, or all decisions in a folder."""
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
    stems = Counter(file.stem for file in read)
    decisions = [read_decision(file, language=language) for file in read]
    return [  # `urteil.txt` and `urteil.pdf` are told apart by their full names
        decision if stems[file.stem] == 1 else replace(decision, name=file.name)
        for file, decision in zip(read, decisions, strict=True)
    ]


def _show_headnote(screen: Screen, headnote: GeneratedHeadnote) -> None:
    from headnote_cli.screen.generation import headnote_view

    if screen.json_mode:
        screen.line(headnote.to_json())
        return
    unfinished = "" if headnote.finish_reason == "stop" else " […]"
    if screen.streams:
        screen.text(unfinished)
    else:
        screen.text(headnote.headnote + unfinished)
    if headnote.finish_reason == "length":
        screen.note("the headnote is unfinished: the token limit cut it off; raise --max-new-tokens", warning=True)
    if headnote.finish_reason == "loop":
        screen.note("the headnote repeats itself, and was stopped: try --repetition-penalty 1.1", warning=True)
    screen.table(headnote_view(headnote))
