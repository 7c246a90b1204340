"""`slds evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headnote_cli.cli.completion import presets
from headnote_cli.cli.session import ConfigOption, SetOption, with_screen
from headnote_cli.screen.console import Screen


@with_screen(
    Headnotes="predictions split references baseline", Scores="by preset bertscore judge seed", Output="output"
)
def evaluate(
    screen: Screen,
    predictions: Annotated[
        list[Path], typer.Option(help="A file that generate --output wrote; repeatable: others are compared with it.")
    ],
    config: ConfigOption = None,
    split: Annotated[
        str, typer.Option(metavar="SPLIT", help="The split of the config's data with the official headnotes.")
    ] = "test",
    references: Annotated[
        Path | None, typer.Option(help="A file of rows with the official headnotes, instead of a split.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="year, law_area, decision_language or headnote_language; repeatable."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="lead: the decision's first sentences; zero-shot: zero-shot.jsonl beside the predictions; or a file.",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", autocompletion=presets, help="slds-paper: set the published results beside yours."
        ),
    ] = None,
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
) -> None:
    """Score headnotes against the official ones, with 95 % intervals."""
    from headnote_cli.config.layers import load_config
    from headnote_cli.evaluation.command import EvaluateOptions
    from headnote_cli.evaluation.command import evaluate as run
    from headnote_cli.screen.evaluation import evaluation_view

    options = EvaluateOptions(
        references, split, tuple(by or ()), tuple(baseline or ()), preset, bertscore, judge, output, seed=seed
    )
    report = run(load_config(config, set_ or []), predictions, screen.listen, options)
    screen.show(evaluation_view(report))
    screen.data(report.to_json())
