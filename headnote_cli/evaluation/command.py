"""`slds evaluate`: scores of headnote files with their intervals, and significant differences between files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headnote_cli.config.layers import Config
from headnote_cli.data.fields import decision_id, year_of_row
from headnote_cli.data.row_files import Row
from headnote_cli.data.sources import located_rows
from headnote_cli.errors import DataError, UsageError, counted
from headnote_cli.evaluation.bootstrap import (
    REPLICATES,
    SEED,
    Difference,
    Draws,
    Interval,
    Table,
    difference,
    interval,
    samples,
)
from headnote_cli.evaluation.metrics import Metric, Scored, Sums, lead, metrics
from headnote_cli.evaluation.published import PUBLISHED, Published, protocol_notes
from headnote_cli.events import Listener, Note
from headnote_cli.generation.loops import ends_in_a_loop
from headnote_cli.generation.predictions import (
    Joined,
    Pair,
    Prediction,
    is_begun,
    join,
    key_of,
    read_predictions,
    written_with,
)
from headnote_cli.generation.sampling import require_preset
from headnote_cli.runs.files import write_lines

BY = ("year", "law_area", "decision_language", "headnote_language")
ZERO_SHOT = "zero-shot.jsonl"
# With 5 to 30 clusters, tests reject too often: Cameron, Gelbach & Miller 2008, "Bootstrap-Based Improvements for
# Inference with Clustered Errors".
FEW_DECISIONS = 30
PAIR = "pair"  # rows are always grouped by this


@dataclass(frozen=True)
class EvaluateOptions:
    """The command-line options; `bertscore` is a model."""

    references: Path | None = None
    split: str = "test"
    by: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    preset: str | None = None
    bertscore: str | None = None
    judge: tuple[str, str] | None = None  # endpoint, model
    output: Path | None = None  # the first file's lines, each with its scores
    seed: int = SEED


@dataclass(frozen=True)
class Evaluation:
    """The scores of one file. `faults` counts missing, extra, duplicate and failed rows."""

    name: str
    tables: dict[str, Table]
    by: dict[str, dict[str, dict[str, Interval]]]  # field → score → the field's value
    faults: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        tables = plain["tables"]
        pairs: dict[str, dict[str, Any]] = {}
        for metric, table in tables.items():
            for pair, value in table["groups"].items():
                pairs.setdefault(pair, {})[metric] = value
        return {
            "predictions": self.name,
            "metrics": {metric: table["macro"] for metric, table in tables.items()},
            "weighted": {metric: table["weighted"] for metric, table in tables.items()},
            "pairs": pairs,
            "by": plain["by"],
            **self.faults,
        }


@dataclass(frozen=True)
class Comparison:
    """The difference between another file and the first one, in the mean over language pairs."""

    first: str
    second: str
    metric: str
    difference: Difference
    more_than_chance: bool | None  # None: too few decisions for a verdict

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        difference: dict[str, Any] = plain.pop("difference")
        return difference | plain


@dataclass(frozen=True)
class Report:
    """All files, scored on the rows that they share."""

    rows: int
    decisions: int
    evaluations: list[Evaluation]  # the named files, then the baselines
    files: int
    comparisons: list[Comparison]
    signatures: dict[str, str]
    settings: dict[str, Any]
    differing: dict[str, dict[str, tuple[Any, Any]]]  # by file: settings that differ from the first file's
    published: Sequence[Published]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        first, *others = (evaluation.to_json() for evaluation in self.evaluations)
        return first | {
            "rows": self.rows,
            "decisions": self.decisions,
            "others": others,
            "differences": [comparison.to_json() for comparison in self.comparisons],
            "signatures": self.signatures,
            "settings": self.settings,
            "differing_settings": self.differing,
            "published": [asdict(result) for result in self.published],
        }


def evaluate(config: Config, predictions: Sequence[Path], emit: Listener, options: EvaluateOptions) -> Report:
    """Score files of headnotes against the official ones, on the rows that all files share.

    Raises:
        UsageError: An unknown field, preset or baseline, a missing package, or an output that must not be overwritten.
        DataError: A file cannot be read, or nothing is left to score.
        UnreachableError: The references, a model or a judge is unavailable.
    """
    paths = _paths(predictions, options.baselines)
    _check(options, paths)
    decision_field = config.settings.overflow_field
    references = [row for _, row in located_rows(config, options.split, options.references)]
    files = _joined(paths, references, decision_field)
    shared = _shared(files)
    _report_left_out(files, shared, emit)
    differing = _differing({name: path for name, path in paths.items() if path is not None}, emit)
    first = next(iter(shared.values()))
    decisions = [decision_id(pair.row) or pair.row.get(decision_field) for pair in first]
    draws = Draws(decisions, seed=options.seed)
    if draws.count < FEW_DECISIONS:
        warning = f"{draws.count} decisions are few: intervals drawn from them are too narrow"
        emit(Note(f"{warning}, and differences get no verdict" if len(files) > 1 else warning, warning=True))
    groups = {PAIR: [_pair(pair) for pair in first]}
    groups |= {key: [str(pair.row.get(key, "?")) for pair in first] for key in options.by}
    chosen = [*metrics(), *_asked_for(config, options, predictions[0], emit)]
    parts = {name: _parts([_scored(pair, decision_field) for pair in pairs], chosen) for name, pairs in shared.items()}
    sampled = {
        name: {
            key: {metric.name: samples(draws, own[metric.name], labels, metric.score_of) for metric in chosen}
            for key, labels in groups.items()
        }
        for name, own in parts.items()
    }
    if options.output:
        write_lines(options.output, _scored_lines(first, next(iter(parts.values())), chosen))
    dataset = None if options.references else config.settings.dataset_name
    return Report(
        rows=len(first),
        decisions=draws.count,
        evaluations=[_evaluation(name, joined, sampled[name]) for name, joined in files.items()],
        files=len(predictions),
        comparisons=_comparisons({name: drawn[PAIR] for name, drawn in sampled.items()}, draws.count >= FEW_DECISIONS),
        signatures={metric.name: metric.signature for metric in chosen if metric.signature},
        settings={"replicates": REPLICATES, "seed": options.seed, "split": options.split, "preset": options.preset},
        differing=differing,
        published=PUBLISHED if options.preset else (),
        notes=protocol_notes(dataset, options.split, groups[PAIR]) if options.preset else [],
    )


def _evaluation(name: str, joined: Joined, sampled: Mapping[str, Mapping[str, Mapping[str, Sums]]]) -> Evaluation:
    tables = {key: {metric: _table(drawn) for metric, drawn in own.items()} for key, own in sampled.items()}
    of_pairs = tables.pop(PAIR)
    by = {key: {metric: table.groups for metric, table in own.items()} for key, own in tables.items()}
    # In the report a row without a prediction is missing, and a prediction without a row is extra.
    faults = {
        "missing": joined.extra,
        "extra": joined.missing,
        "duplicates": joined.duplicates,
        "failed": joined.failed,
    }
    return Evaluation(name, of_pairs, by, {fault: len(rows) for fault, rows in faults.items()})


def _table(sampled: Mapping[str, Sums]) -> Table:
    intervals = {name: interval(values) for name, values in sorted(sampled.items())}
    macro, weighted = intervals.pop("macro"), intervals.pop("weighted")
    return Table(intervals, macro, weighted)


def _scored_lines(pairs: Sequence[Pair], parts: Mapping[str, Sums], chosen: Sequence[Metric]) -> Iterator[Prediction]:
    """Each prediction with its own scores, 0 to 100; None where there is no score."""
    columns = {metric.name: metric.score_of(parts[metric.name]).tolist() for metric in chosen}
    for place, pair in enumerate(pairs):
        scores = {name: None if math.isnan(values[place]) else values[place] for name, values in columns.items()}
        yield pair.prediction | {"scores": scores}


def _paths(predictions: Sequence[Path], baselines: Sequence[str]) -> dict[str, Path | None]:
    """The files by their names in the report: the file name, or the path if two are the same; then the baselines.

    `zero-shot` is a file beside the first one. `lead`, the decision's first sentences, has no file.

    Raises:
        UsageError: A baseline's file does not exist.
    """
    names = [path.name for path in predictions]
    paths: dict[str, Path | None] = {
        path.name if names.count(path.name) == 1 else str(path): path for path in predictions
    }
    for name in baselines:
        if name == "lead":
            paths["baseline: lead"] = None
            continue
        path = predictions[0].with_name(ZERO_SHOT) if name == "zero-shot" else Path(name)
        if not path.is_file():
            hint = f"`slds generate --split test --model BASE --output {path}` writes it with the untrained model"
            raise UsageError(f"--baseline {name}: there is no such file", str(path), hint)
        paths[f"baseline: {path.name}"] = path
    return paths


def _check(options: EvaluateOptions, paths: Mapping[str, Path | None]) -> None:
    """
    Raises:
        UsageError: An unknown field or preset, or an output that would overwrite headnotes or references.
    """
    for key in options.by:
        if key not in BY:
            raise UsageError(f"--by {key}: write one of {', '.join(BY)}")
    if options.preset is not None:
        require_preset(options.preset)
    output = options.output
    if output is not None:
        read = [path.resolve() for path in (*paths.values(), options.references) if path is not None]
        if output.resolve() in read or is_begun(output):
            raise UsageError("holds headnotes or references", str(output), "name a file of its own with --output")


def _joined(paths: Mapping[str, Path | None], references: Sequence[Row], decision_field: str) -> dict[str, Joined]:
    """Each file and baseline, joined with the official headnotes."""
    files: dict[str, Joined] = {}
    for name, path in paths.items():
        if path is not None:
            files[name] = join(read_predictions(path), references)
        else:
            pairs = next(iter(files.values())).pairs
            leads = [
                {**pair.prediction, "headnote": lead(str(pair.row[decision_field])), "finish_reason": "stop"}
                for pair in pairs
            ]
            files[name] = join(leads, references)
    return files


def _differing(files: Mapping[str, Path], emit: Listener) -> dict[str, dict[str, tuple[Any, Any]]]:
    """By file, the settings (except the model) that differ from the first file's."""
    first, *others = files
    own = written_with(files[first])
    differing = {}
    for other in others:
        theirs = written_with(files[other])
        settings = {key: (own[key], theirs[key]) for key in own if key in theirs and own[key] != theirs[key]}
        if settings:
            differing[other] = settings
            listed = ", ".join(f"{key} ({a} in the first file, here {b})" for key, (a, b) in settings.items())
            emit(Note(f"{other} was written with other settings: {listed}", warning=True))
    return differing


def _shared(files: Mapping[str, Joined]) -> dict[str, list[Pair]]:
    """Each file's pairs for the samples that all files have, in the same order.

    Raises:
        DataError: There are none.
    """
    keyed = {name: {key_of(pair.prediction): pair for pair in joined.pairs} for name, joined in files.items()}
    first, *others = keyed.values()
    keys = [key for key in first if all(key in other for other in others)]
    if not keys:
        raise DataError(
            "no row has both a headnote and an official one",
            ", ".join(files),
            "predictions and references are joined by `sample_id` and language: name the split or --references",
        )
    return {name: [own[key] for key in keys] for name, own in keyed.items()}


def _scored(pair: Pair, decision_field: str) -> Scored:
    written, row = pair.prediction, pair.row
    return Scored(
        written["headnote"],
        str(row["headnote"]),
        str(row.get(decision_field, "")),
        written["lang"],
        row.get("decision_language"),
        "loop" if ends_in_a_loop(written["headnote"]) else str(written.get("finish_reason", "stop")),
        year_of_row(row),
    )


def _pair(pair: Pair) -> str:
    """`fr_de`: the language of the decision, then of the headnote."""
    return f"{pair.row.get('decision_language') or '?'}_{pair.prediction['lang']}"


def _report_left_out(files: Mapping[str, Joined], shared: Mapping[str, list[Pair]], emit: Listener) -> None:
    for name, joined in files.items():
        for note in joined.notes():
            emit(Note(f"{name}: {note}", warning=True))
        lacking = len(joined.pairs) - len(shared[name])
        if lacking:
            emit(Note(f"{name}: {counted(lacking, 'headnote')} left out, which another file lacks"))


def _asked_for(config: Config, options: EvaluateOptions, first: Path, emit: Listener) -> list[Metric]:
    """The optional scores that need a model."""
    chosen: list[Metric] = []
    if options.bertscore:
        from headnote_cli.evaluation.bertscore import bertscore

        chosen += bertscore(str(config.locate(options.bertscore) or options.bertscore), emit)
    if options.judge:
        from headnote_cli.evaluation.judge import Judge

        address, model = options.judge
        chosen += Judge(address, model, first.with_name(f"{first.name}.judge.jsonl"), emit).metrics()
    return chosen


def _parts(rows: Sequence[Scored], chosen: Sequence[Metric]) -> dict[str, Sums]:
    """What each row adds to each score; counts that scores share are computed once."""
    known: dict[Any, Sums] = {}
    for metric in chosen:
        if metric.parts_of not in known:
            known[metric.parts_of] = metric.parts_of(rows)
    return {metric.name: known[metric.parts_of] for metric in chosen}


def _comparisons(sampled: Mapping[str, Mapping[str, Mapping[str, Sums]]], are_enough: bool) -> list[Comparison]:
    """Each other file compared with the first, per score; without enough decisions there is no verdict."""
    first, *others = sampled
    comparisons = []
    for other in others:
        for metric in sampled[first]:
            apart = difference(sampled[first][metric]["macro"], sampled[other][metric]["macro"])
            if apart is not None:
                comparisons.append(Comparison(first, other, metric, apart, apart.real if are_enough else None))
    return comparisons
