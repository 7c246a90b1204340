"""`slds evaluate`: scores of files of headnotes, each with its interval, and what differs by more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headnote_cli.config.layers import Config
from headnote_cli.data.fields import decision_id
from headnote_cli.data.row_files import Row
from headnote_cli.data.sources import located_rows
from headnote_cli.errors import DataError, UsageError
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
from headnote_cli.evaluation.published import Published, published_results
from headnote_cli.events import Listener, Note
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
# Tests over groups reject too often with 5 to 30 of them: Cameron, Gelbach & Miller 2008, "Bootstrap-Based Improvements
# for Inference with Clustered Errors".
FEW_DECISIONS = 30
PAIR = "pair"  # what rows are grouped by in any case


@dataclass(frozen=True)
class EvaluateOptions:
    """What the command line says. `bertscore` and `judge` name a model and what asks it."""

    references: Path | None = None
    split: str = "test"
    by: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    preset: str | None = None
    bertscore: str | None = None
    judge: tuple[str, str] | None = None  # endpoint, model
    output: Path | None = None  # the first file's lines with the scores of each
    replicates: int = REPLICATES
    seed: int = SEED


@dataclass(frozen=True)
class Evaluation:
    """The scores of one file. `faults` counts rows of it, or of the references, that found no partner."""

    name: str
    tables: dict[str, Table]
    by: dict[str, dict[str, dict[str, Interval]]]  # field → score → value of the field
    faults: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        pairs: dict[str, dict[str, Any]] = {}
        for metric, table in self.tables.items():
            for pair, value in table.groups.items():
                pairs.setdefault(pair, {})[metric] = value.to_json()
        by = {
            key: {metric: {group: one.to_json() for group, one in groups.items()} for metric, groups in found.items()}
            for key, found in self.by.items()
        }
        return {
            "predictions": self.name,
            "metrics": {name: table.macro.to_json() for name, table in self.tables.items()},
            "weighted": {name: table.weighted.to_json() for name, table in self.tables.items()},
            "pairs": pairs,
            "by": by,
            **self.faults,
        }


@dataclass(frozen=True)
class Comparison:
    """How another file differs from the first one in the mean over pairs."""

    first: str
    second: str
    metric: str
    difference: Difference
    more_than_chance: bool | None  # None: too few decisions for a verdict


@dataclass(frozen=True)
class Report:
    """All files on the rows that they share."""

    rows: int
    decisions: int
    evaluations: list[Evaluation]  # of the files that were named, then of the baselines
    files: int
    comparisons: list[Comparison]
    signatures: dict[str, str]
    settings: dict[str, Any]
    differing: dict[str, dict[str, tuple[Any, Any]]]  # by file, the settings that the first one was not written with
    published: list[Published] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        first, *others = (one.to_json() for one in self.evaluations)
        return first | {
            "rows": self.rows,
            "decisions": self.decisions,
            "others": others,
            "differences": [
                asdict(one.difference) | {"first": one.first, "second": one.second, "metric": one.metric,
                                          "more_than_chance": one.more_than_chance}
                for one in self.comparisons
            ],
            "signatures": self.signatures,
            "settings": self.settings,
            "differing_settings": self.differing,
            "published": [asdict(one) for one in self.published],
        }  # fmt: skip


def evaluate(config: Config, predictions: Sequence[Path], emit: Listener, options: EvaluateOptions) -> Report:
    """Score files of headnotes against the official ones, on the rows that all files share.

    Raises:
        UsageError: An unknown field, preset or baseline, a package that is missing, or an output that must stay.
        DataError: A file cannot be read, or nothing is left to score.
        UnreachableError: The references, a model or a judge is unavailable.
    """
    _check(options)
    _require_free(predictions, options)
    field_name = config.settings.overflow_field
    files = _files(config, predictions, options, field_name)
    shared = _shared(files)
    _tell_left_out(files, shared, emit)
    differing = _differing(_written_files(predictions, options))
    _tell_differing(differing, emit)
    first = next(iter(shared.values()))
    draws = Draws([_decision(pair.row, field_name) for pair in first], options.replicates, options.seed)
    if draws.count < FEW_DECISIONS:
        told = f"{draws.count} decisions are few: intervals drawn from them are too narrow"
        emit(Note(f"{told}, and differences get no verdict" if len(files) > 1 else told, warning=True))
    groups = {PAIR: [_pair(pair) for pair in first]}
    groups |= {key: [str(pair.row.get(key, "?")) for pair in first] for key in options.by}
    chosen = [*metrics(), *_asked_for(config, options, predictions[0], emit)]
    parts = {name: _parts([_scored(pair, field_name) for pair in pairs], chosen) for name, pairs in shared.items()}
    sampled = {
        name: {key: _sampled(own, chosen, draws, labels) for key, labels in groups.items()}
        for name, own in parts.items()
    }
    if options.output:
        write_lines(options.output, _scored_lines(first, next(iter(parts.values())), chosen))
    return Report(
        len(first),
        draws.count,
        [_evaluation(name, joined, sampled[name]) for name, joined in files.items()],
        len(predictions),
        _comparisons({name: found[PAIR] for name, found in sampled.items()}, chosen, draws.count >= FEW_DECISIONS),
        {metric.name: metric.signature for metric in chosen if metric.signature},
        {"replicates": options.replicates, "seed": options.seed, "split": options.split, "preset": options.preset},
        differing,
        published_results() if options.preset else [],
        _preset_notes(config, options, groups[PAIR]) if options.preset else [],
    )


def _evaluation(name: str, joined: Joined, sampled: Mapping[str, Mapping[str, Mapping[str, Sums]]]) -> Evaluation:
    faults = {"missing": joined.extra, "extra": joined.missing, "duplicates": joined.duplicates}
    return Evaluation(
        name,
        {metric: _table(found) for metric, found in sampled[PAIR].items()},
        {key: _by(found) for key, found in sampled.items() if key != PAIR},
        {fault: len(rows) for fault, rows in (faults | {"failed": joined.failed}).items()},
    )


def _scored_lines(pairs: Sequence[Pair], parts: Mapping[str, Sums], chosen: Sequence[Metric]) -> Iterator[Prediction]:
    """Each headnote's line with its own scores, from 0 to 100; None where there is none."""
    columns = {metric.name: metric.score_of(parts[metric.name]).tolist() for metric in chosen}
    for place, pair in enumerate(pairs):
        scores = {name: None if math.isnan(values[place]) else values[place] for name, values in columns.items()}
        yield pair.prediction | {"scores": scores}


def _check(options: EvaluateOptions) -> None:
    for key in options.by:
        if key not in BY:
            raise UsageError(f"--by {key}: write one of {', '.join(BY)}")
    if options.preset is not None:
        require_preset(options.preset)


def _require_free(predictions: Sequence[Path], options: EvaluateOptions) -> None:
    """
    Raises:
        UsageError: Writing the scores would replace headnotes or references.
    """
    output = options.output
    if output is None:
        return
    read = [*_written_files(predictions, options).values(), *([options.references] if options.references else [])]
    if output.resolve() in [file.resolve() for file in read] or is_begun(output):
        raise UsageError("holds headnotes or references", str(output), "name a file of its own with --output")


def _files(config: Config, predictions: Sequence[Path], options: EvaluateOptions, field_name: str) -> dict[str, Joined]:
    """The files of headnotes, then the baselines, each beside the official headnotes."""
    references = [row for _, row in located_rows(config, options.split, options.references)]
    files = {_name(path, predictions): join(read_predictions(path), references) for path in predictions}
    first = next(iter(files.values()))
    for name in options.baselines:
        files |= _baseline(name, predictions[0], references, first, field_name)
    return files


def _name(path: Path, all_paths: Sequence[Path]) -> str:
    """A file by its name, by its path where two have the same."""
    return path.name if [one.name for one in all_paths].count(path.name) == 1 else str(path)


def _baseline(
    name: str, predictions: Path, references: Sequence[Row], first: Joined, field_name: str
) -> dict[str, Joined]:
    """`lead`: the decision's first sentences for each row; `zero-shot` or a path: a file of headnotes.

    Raises:
        UsageError: There is no such file.
    """
    if name == "lead":
        written: list[Prediction] = [
            {**pair.prediction, "headnote": lead(str(pair.row[field_name])), "finish_reason": "stop"}
            for pair in first.pairs
        ]
        return {"baseline: lead": join(written, references)}
    path = _baseline_file(name, predictions)
    if not path.is_file():
        hint = f"`slds generate --split test --model BASE --output {path}` writes it with the untrained model"
        raise UsageError(f"--baseline {name}: there is no such file", str(path), hint)
    return {f"baseline: {path.name}": join(read_predictions(path), references)}


def _baseline_file(name: str, predictions: Path) -> Path:
    return predictions.with_name(ZERO_SHOT) if name == "zero-shot" else Path(name)


def _written_files(predictions: Sequence[Path], options: EvaluateOptions) -> dict[str, Path]:
    """The files of headnotes by their names in the report; `lead` is none."""
    named = {_name(path, predictions): path for path in predictions}
    others = (_baseline_file(name, predictions[0]) for name in options.baselines if name != "lead")
    return named | {f"baseline: {path.name}": path for path in others}


def _differing(files: Mapping[str, Path]) -> dict[str, dict[str, tuple[Any, Any]]]:
    """The settings, but for the model, in which another file was written otherwise than the first one."""
    first, *others = files
    own = written_with(files[first])
    found = {}
    for other in others:
        theirs = written_with(files[other])
        both = [key for key in own if key in theirs]
        found[other] = {key: (own[key], theirs[key]) for key in both if own[key] != theirs[key]}
    return {name: settings for name, settings in found.items() if settings}


def _tell_differing(differing: Mapping[str, Mapping[str, tuple[Any, Any]]], emit: Listener) -> None:
    for name, settings in differing.items():
        told = ", ".join(f"{key} ({own} in the first file, here {other})" for key, (own, other) in settings.items())
        emit(Note(f"{name} was written with other settings: {told}", warning=True))


def _shared(files: Mapping[str, Joined]) -> dict[str, list[Pair]]:
    """The pairs of each file whose samples all files have, in the same order.

    Raises:
        DataError: There is none.
    """
    keyed = {name: {key_of(pair.prediction): pair for pair in one.pairs} for name, one in files.items()}
    first, *others = keyed.values()
    keys = [key for key in first if all(key in other for other in others)]
    if not keys:
        raise DataError(
            "no row has both a headnote and an official one",
            ", ".join(files),
            "predictions and references are joined by `sample_id` and language: name the split or --references",
        )
    return {name: [own[key] for key in keys] for name, own in keyed.items()}


def _scored(pair: Pair, field_name: str) -> Scored:
    written, row = pair.prediction, pair.row
    return Scored(
        written["headnote"],
        str(row["headnote"]),
        str(row.get(field_name, "")),
        written["lang"],
        row.get("decision_language"),
        str(written.get("finish_reason", "stop")),
    )


def _pair(pair: Pair) -> str:
    """`fr_de`: the language of the decision and that of the headnote."""
    return f"{pair.row.get('decision_language') or '?'}_{pair.prediction['lang']}"


def _decision(row: Row, field_name: str) -> Any:
    """What is drawn as one: a decision by its id, else by its text."""
    return decision_id(row) or row.get(field_name)


def _tell_left_out(files: Mapping[str, Joined], shared: Mapping[str, list[Pair]], emit: Listener) -> None:
    for name, joined in files.items():
        for note in joined.notes():
            emit(Note(f"{name}: {note}", warning=True))
        lacking = len(joined.pairs) - len(shared[name])
        if lacking:
            emit(Note(f"{name}: {lacking} headnotes left out, which another file lacks"))


def _asked_for(config: Config, options: EvaluateOptions, first: Path, emit: Listener) -> list[Metric]:
    """The scores that take a model."""
    chosen: list[Metric] = []
    if options.bertscore:
        from headnote_cli.evaluation.bertscore import bertscore

        chosen += bertscore(str(config.locate(options.bertscore) or options.bertscore), emit)
    if options.judge:
        from headnote_cli.evaluation.judge import Judge, judged

        address, model = options.judge
        chosen += judged(Judge(address, model, first.with_name(f"{first.name}.judge.jsonl"), emit))
    return chosen


def _parts(rows: Sequence[Scored], chosen: Sequence[Metric]) -> dict[str, Sums]:
    """What each row adds to each score; scores that count the same things are counted once."""
    known: dict[Any, Sums] = {}
    for metric in chosen:
        if metric.parts_of not in known:
            known[metric.parts_of] = metric.parts_of(rows)
    return {metric.name: known[metric.parts_of] for metric in chosen}


def _sampled(
    parts: Mapping[str, Sums], chosen: Sequence[Metric], draws: Draws, groups: Sequence[str]
) -> dict[str, dict[str, Sums]]:
    """Each score as it is and in each replicate, by group."""
    return {one.name: samples(draws, parts[one.name], groups, one.score_of) for one in chosen}


def _table(sampled: Mapping[str, Sums]) -> Table:
    groups = {name: interval(values) for name, values in sampled.items() if name not in ("macro", "weighted")}
    return Table(dict(sorted(groups.items())), interval(sampled["macro"]), interval(sampled["weighted"]))


def _by(sampled: Mapping[str, Mapping[str, Sums]]) -> dict[str, dict[str, Interval]]:
    return {metric: _table(found).groups for metric, found in sampled.items()}


def _comparisons(
    sampled: Mapping[str, Mapping[str, Mapping[str, Sums]]], chosen: Sequence[Metric], are_enough: bool
) -> list[Comparison]:
    """Every other file against the first one, score by score; with a verdict if decisions are enough."""
    first, *others = sampled
    found = []
    for other in others:
        for metric in chosen:
            apart = difference(sampled[first][metric.name]["macro"], sampled[other][metric.name]["macro"])
            if apart is not None:
                found.append(Comparison(first, other, metric.name, apart, apart.real if are_enough else None))
    return found


def _preset_notes(config: Config, options: EvaluateOptions, pairs: Sequence[str]) -> list[str]:
    """Where these numbers are not those of the published protocol."""
    notes = []
    settings = config.settings
    if options.references or settings.dataset_name != "ipst/slds" or options.split != "test":
        notes.append("these rows are not the test split of ipst/slds: the published numbers are of other decisions")
    lacking = [f"{one}_{other}" for one in ("de", "fr", "it") for other in ("de", "fr", "it")]
    lacking = [pair for pair in lacking if pair not in pairs]
    if lacking:
        notes.append(f"the published mean is over nine language pairs; here {', '.join(lacking)} are missing")
    return notes
