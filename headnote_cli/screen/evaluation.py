"""`slds evaluate`: scores with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headnote_cli.errors import counted
from headnote_cli.evaluation.published import SOURCE
from headnote_cli.screen.console import printable

if TYPE_CHECKING:
    from headnote_cli.evaluation.bootstrap import Interval
    from headnote_cli.evaluation.command import Comparison, Report

SCORES = {
    "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L",
    "rouge1_words": "ROUGE-1, words", "rouge2_words": "ROUGE-2, words", "rougeL_words": "ROUGE-L, words",
    "bleu": "BLEU", "chrf": "chrF",
    "bertscore_precision": "BERTScore precision", "bertscore_recall": "BERTScore recall", "bertscore": "BERTScore",
    "judge": "judge", "judge_accuracy": "  accuracy", "judge_completeness": "  completeness",
    "judge_clarity": "  clarity", "judge_legal_citations": "  citations", "judge_considerations": "  considerations",
    "citations_precision": "cited: precision", "citations_recall": "cited: recall",
    "citations_f1": "cited: F1", "citations_precision_in_decision": "cited in decision",
    "sentences_with_evidence": "with evidence", "pointers_right": "pointers right",
    "right_language": "right language", "unfinished": "unfinished", "length_ratio": "length ratio",
}  # fmt: skip
IN_GROUPS = ("rougeL", "chrf", "bertscore", "judge", "citations_f1")


def evaluation_view(report: Report) -> RenderableType:
    """Each score with its interval; scores by language pair; significant differences; the published results."""
    title = f"{counted(report.rows, 'headnote')} of {counted(report.decisions, 'decision')}"
    columns = [
        (scored.name, {name: table.macro for name, table in scored.tables.items()}) for scored in report.evaluations
    ]
    if len(columns) == 1:
        weighted = {name: table.weighted for name, table in report.evaluations[0].tables.items()}
        columns = [("mean of pairs", columns[0][1]), ("all rows", weighted)]
    views: list[RenderableType] = [_score_table(title, columns)]
    for scored in report.evaluations[: report.files]:
        groups = {"pair": {name: table.groups for name, table in scored.tables.items()}} | scored.by
        views += [_group_table(f"{scored.name}, by {key.replace('_', ' ')}", part) for key, part in groups.items()]
    views += [_difference(compared) for compared in report.comparisons if compared.metric in IN_GROUPS]
    if report.published:
        views.append(_published_table(report))
    views += [Text(f"! {note}", "yellow") for note in report.notes]
    signatures = dict.fromkeys(report.signatures.values())
    views += [Text(f"{_scores_with(report, signature)}: {signature}", "dim") for signature in signatures]
    views.append(Text("in brackets: 95 % bootstrap intervals, by decision", "dim"))
    return Group(*views)


def _difference(compared: Comparison) -> Text:
    """One sentence: which is better, by how much, and whether chance explains it."""
    first, second, apart = compared.first, compared.second, compared.difference
    bounds = f"95 %: {apart.low:+.1f} to {apart.high:+.1f}"
    if compared.more_than_chance:
        than = f"{abs(apart.value):.1f} {'higher' if apart.value > 0 else 'lower'} than {first}"
        verdict = f"{second} scores {than}, more than chance ({bounds})"
        return Text(printable(f"{SCORES[compared.metric]}: {verdict}"), "bold")
    if compared.more_than_chance is None:
        verdict = f"{second} minus {first} {apart.value:+.1f} ({bounds}); too few decisions for a verdict"
    else:
        verdict = f"{second} and {first} differ by no more than chance may give ({apart.value:+.1f}; {bounds})"
    return Text(printable(f"{SCORES[compared.metric]}: {verdict}"), "dim")


def _scores_with(report: Report, signature: str) -> str:
    named = [SCORES[name].strip() for name, own in report.signatures.items() if own == signature]
    return named[0] if len(named) == 1 else f"{named[0]} to {named[-1]}"


def _score_table(title: str, columns: list[tuple[str, dict[str, Interval]]]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("score", no_wrap=True)
    for name, _ in columns:
        table.add_column(printable(name), justify="right", overflow="fold")
    for score, label in SCORES.items():
        if score in columns[0][1]:
            table.add_row(label, *(_interval(scores[score]) for _, scores in columns))
    return table


def _group_table(title: str, scores: Mapping[str, Mapping[str, Interval]]) -> Table:
    """The main scores of each group; `--json` has all."""
    table = Table(title=printable(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    shown = [score for score in IN_GROUPS if score in scores]
    table.add_column("", no_wrap=True)
    for score in shown:
        table.add_column(SCORES[score], justify="right")
    for group in sorted(next(iter(scores.values()))):
        table.add_row(printable(group.replace("_", " → ")), *(_interval(scores[score][group]) for score in shown))
    return table


def _published_table(report: Report) -> Table:
    table = Table(title=f"Published ({SOURCE})", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("BERTScore", justify="right")
    table.add_column("ROUGE-L", justify="right")
    for published in report.published:
        table.add_row(published.model, f"{published.bertscore:.1f}", f"{published.rouge_l:.1f}")
    for evaluated in report.evaluations:
        own = (evaluated.tables.get("bertscore"), evaluated.tables["rougeL"])
        table.add_row(printable(evaluated.name), *("–" if score is None else _interval(score.macro) for score in own))
    return table


def _interval(interval: Interval) -> str:
    if interval.value is None:
        return "–"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.1f}"
    return f"{interval.value:.1f} ({interval.low:.1f}–{interval.high:.1f})"
