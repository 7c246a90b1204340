"""How each command's value is drawn for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from headnote_cli.data.shortening import CUT_MARK
from headnote_cli.evaluation.published import SOURCE
from headnote_cli.machine.hardware import shown
from headnote_cli.memory.estimate import BESIDE
from headnote_cli.screen.console import duration, facts_table, printable, size

if TYPE_CHECKING:
    from headnote_cli.evaluation.bootstrap import Interval
    from headnote_cli.evaluation.command import Comparison, Report
    from headnote_cli.events import Movement
    from headnote_cli.generation.command import GeneratedHeadnote
    from headnote_cli.generation.many import ManyReport
    from headnote_cli.machine.hardware import PlanRow
    from headnote_cli.memory.advice import Change
    from headnote_cli.memory.command import Fit, MemoryCheck
    from headnote_cli.memory.estimate import Estimate
    from headnote_cli.merging.command import CheckReport, MergeReport
    from headnote_cli.merging.verification import Distance, Verification
    from headnote_cli.review.command import ReviewReport
    from headnote_cli.training.command import TrainingReport
    from headnote_cli.training.preview import Preview, PreviewedRow

PROMPT, COMPLETION, CONTROL, CUT = "cyan", "bold green", "magenta", "bold red"
FOUND, PARTLY, MISSING = "green", "yellow", "bold red"
SCORES = {
    "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L",
    "rouge1_words": "ROUGE-1, words", "rouge2_words": "ROUGE-2, words", "rougeL_words": "ROUGE-L, words",
    "bleu": "BLEU", "chrf": "chrF",
    "bertscore_precision": "BERTScore precision", "bertscore_recall": "BERTScore recall", "bertscore": "BERTScore",
    "judge": "judge", "judge_accuracy": "  accuracy", "judge_completeness": "  completeness",
    "judge_clarity": "  clarity", "judge_legal_citations": "  citations", "judge_considerations": "  considerations",
    "citations_precision": "cited: precision", "citations_recall": "cited: recall",
    "citations_f1": "cited: F1", "citations_precision_in_decision": "cited in decision",
    "right_language": "right language", "unfinished": "unfinished", "length_ratio": "length ratio",
}  # fmt: skip
IN_GROUPS = ("rougeL", "chrf", "bertscore", "judge", "citations_f1")
BAR = 30  # widest bar of a histogram, in characters


def preview_view(preview: Preview) -> RenderableType:
    """Each row as the model sees it: prompt, completion in the loss, control tokens and cuts in their colours."""
    parts: list[RenderableType] = []
    if preview.rows:
        parts.append(_legend(preview))
    for row in preview.rows:
        parts += [Text.assemble(("── ", "dim"), (_row_title(row), "bold")), _row_text(row), Text()]
    return Group(*parts, *_stats_views(preview.stats))


def preview_raw(preview: Preview) -> list[str]:
    """The exact text of each row; without a tokenizer, of its messages."""
    return [row.encoded.text if row.encoded else _messages(row) for row in preview.rows]


def _messages(row: PreviewedRow) -> str:
    messages = [*row.conversation.prompt, *row.conversation.completion]
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def _legend(preview: Preview) -> Text:
    words = [("prompt", PROMPT), ("completion, in the loss", COMPLETION)]
    if preview.control_tokens:
        words += [("control token", CONTROL), (f"{CUT_MARK} what gave way", CUT)]
    separator = Text(" · ", "dim")
    return Text("").join(part for word in words for part in (separator, Text(*word)))[len(separator) :]


def _row_title(row: PreviewedRow) -> str:
    title = f"{row.split} row {row.row}"
    if row.sample_id is not None:
        title += f" · sample {row.sample_id}"
    if row.encoded is not None:
        title += f" · {len(row.encoded.prompt_ids):,} + {len(row.encoded.completion_ids):,} tokens"
        if row.encoded.cut:
            title += f" · {row.encoded.cut:,} cut ({row.overflow})"
    elif row.overflow:
        title += f" · too long ({row.overflow})"
    return title


def _row_text(row: PreviewedRow) -> Text:
    if row.encoded is None:
        return _messages_text(row)
    text = Text()
    text.append(printable(row.encoded.prompt_text), PROMPT)
    text.append(printable(row.encoded.completion_text), COMPLETION)
    for start, end in row.encoded.control_spans:
        text.stylize(CONTROL, *(len(printable(row.encoded.text[:position])) for position in (start, end)))
    for start, end in row.encoded.cut_spans:
        text.stylize(CUT, *(len(printable(row.encoded.text[:position])) for position in (start, end)))
    return text


def _messages_text(row: PreviewedRow) -> Text:
    text = Text()
    for messages, style in ((row.conversation.prompt, PROMPT), (row.conversation.completion, COMPLETION)):
        for message in messages:
            text.append(f"[{message['role']}]\n", "dim")
            text.append(f"{printable(message['content'])}\n\n", style)
    text.rstrip()
    return text


def _stats_views(stats: dict[str, Any]) -> list[RenderableType]:
    """Rows, lengths and cuts: the whole, by language pair, and a histogram; or what is known without a tokenizer."""
    if "pairs" not in stats:
        shown = {name.replace("_", " "): _quantiles(value) for name, value in stats.items()}
        return [facts_table(shown)]
    keys = ("rows", "rows_cut", "rows_dropped", "rows_bad", "tokens_cut", "tokens_dropped")
    counted = {key.removeprefix("rows_").replace("_", " "): key for key in keys if stats[key]}
    table = Table(title="Tokens (prompt and headnote: median / p90 / max)", title_justify="left")
    table.add_column("pair", no_wrap=True)
    for column in (*counted, "prompt", "headnote"):
        table.add_column(column, justify="right")
    for name, part in (*stats["pairs"].items(), ("all", stats)):
        lengths = (_quantiles(part["prompt_tokens"]), _quantiles(part["completion_tokens"]))
        table.add_row(name, *(f"{part[key]:,}" for key in counted.values()), *lengths)
    views: list[RenderableType] = [table]
    most = max((count for _, count in stats["histogram"]), default=0)
    bars = Table.grid(padding=(0, 1))
    for bound, count in stats["histogram"]:
        bar = Text("█" * -(-count * BAR // most), style=PROMPT)
        bars.add_row(Text(f"≤ {bound:,}", justify="right"), bar, f"{count:,}")
    return [*views, bars]


def _quantiles(value: Any) -> str:
    if isinstance(value, dict):
        return " / ".join(f"{count:,}" for count in value.values())
    return "–" if value is None else f"{value:,}"


PURPOSE = {
    "train": "Peak memory of one training step",
    "generate": "Peak memory of generation",
    "merge": "Main memory of a merge",
}
VERDICT = {"fits": "green", "tight": "yellow", "does not fit": "red"}
SHARES = " ▏▎▍▌▋▊▉█"  # eighths of a character


NARROW = 72  # columns below which bars are left out and advice is a list
WIDE_NAMES = 22  # columns of a config's cell


class _ByWidth:
    """A table that is built for the width at hand."""

    def __init__(self, build: Callable[[int], RenderableType]) -> None:
        self.build = build

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self.build(options.max_width)


def memory_view(checks: list[MemoryCheck]) -> RenderableType:
    """Components with bars, total and what is assumed; the cards; what would help; the grid."""
    parts: list[RenderableType] = [_ByWidth(lambda width: _components(checks, width)), *_caveats(checks)]
    parts.append(_ByWidth(lambda width: _cards(checks, width)))
    if len(checks) == 1 and checks[0].advice:
        parts.append(_ByWidth(lambda width: _advice(checks[0], width)))
    parts += [_grid(check) for check in checks if check.grid is not None]
    return Group(*parts)


def _total(estimate: Estimate) -> str:
    return f"{'at least ' if estimate.unknown else ''}{size(estimate.total)}"


def _memory_table(title: str, first: str, width: int) -> Table:
    padding = (0, 1) if width >= NARROW else 0
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=padding)
    table.add_column(first, no_wrap=True, min_width=16)
    return table


def _components(checks: list[MemoryCheck], width: int) -> RenderableType:
    table = _memory_table(f"{PURPOSE[checks[0].purpose]} (estimate)", "component", width)
    bars = width >= NARROW or len(checks) == 1
    for check in checks:
        table.add_column(_breakable(Path(check.config).stem, width), overflow="fold")
    most = max(check.estimate.total for check in checks)
    for name in _component_names(checks):
        counts = [check.estimate.components.get(name, 0) for check in checks]
        if max(counts):
            table.add_row(name, *(_counted(count, most, bars) for count in counts))
    table.add_section()
    for name, cells in _memoryfacts_table(checks).items():
        style = "bold" if name == "total" else ""
        table.add_row(name, *(Text(_breakable(cell, width), style=style) for cell in cells))
    return table


def _breakable(text: str, width: int) -> str:
    """On a narrow screen, a name that wraps between its words."""
    return text if width >= NARROW else text.replace("_", " ")


def _component_names(checks: list[MemoryCheck]) -> list[str]:
    """Of all configs, what no tensor takes last."""
    fullest = sorted(checks, key=lambda check: -len(check.estimate.components))
    names = dict.fromkeys(name for check in fullest for name in check.estimate.components)
    return sorted(names, key=lambda name: name in BESIDE)


def _counted(count: int, most: int, bars: bool) -> Text:
    told = "–" if not count else size(count) if count >= 2**20 else "< 1 MiB"
    text = Text(f"{told:>9}")
    return text.append(" ").append_text(_bar(count / most)) if bars else text


def _memoryfacts_table(checks: list[MemoryCheck]) -> dict[str, list[str]]:
    """The total and what it assumes, a value a config."""
    facts = {
        "total": [_total(check.estimate) for check in checks],
        "fullest in": [check.estimate.phase for check in checks],
    }
    if checks[0].purpose != "merge":
        facts |= {
            "weights in": [_weights_in(check) for check in checks],
            "attention": [check.setup.kind.attention.replace("_causal", "") for check in checks],
            "batch × length": [f"{check.batch} × {check.setup.length:,}" for check in checks],
        }
    if checks[0].purpose == "train":
        facts |= {
            "method": [check.method for check in checks],
            "loss": [_LOSSES[check.setup.loss] for check in checks],
        }
    if any(check.setup.devices > 1 for check in checks):
        facts["devices"] = [f"{check.setup.devices}, {_SHARDING[check.setup.sharding]}" for check in checks]
    if any(check.data is not None for check in checks):
        facts["mean over the rows"] = [size(c.data.mean_peak) if c.data else "–" for c in checks]
    return facts


_SHARDING = {
    "none": "alone",
    "ddp": "a copy each",
    "states": "states divided",
    "gradients": "states and gradients divided",
    "full": "all divided",
}


def _caveats(checks: list[MemoryCheck]) -> list[Text]:
    """What is not counted, and whose count stands in."""
    unknown = sorted({part for check in checks for part in check.estimate.unknown})
    nearest = sorted({check.estimate.nearest for check in checks if check.estimate.nearest})
    lines = [f"not counted: {', '.join(unknown)}"] if unknown else []
    lines += [f"layers are estimated as the nearest counted kind: {kind}" for kind in nearest]
    return [Text(line, style="yellow") for line in lines]


_LOSSES = {
    "fused": "fused, in tiles",
    "full": "all logits",
    "liger": "Liger, in chunks",
    "labelled": "labelled positions",
}


def _weights_in(check: MemoryCheck) -> str:
    if check.purpose == "generate":  # the merged model, which is not quantized
        return check.setup.kind.dtype
    names = {"nf4": "NF4", "nf4 double": "NF4, nested", "int8": "int8"}
    return names.get(check.setup.quantization, check.setup.kind.dtype)


def _bar(share: float, width: int = 8) -> Text:
    eighths = round(share * width * 8)
    return Text("█" * (eighths // 8) + (SHARES[eighths % 8] if eighths % 8 else ""), style=PROMPT)


def _cards(checks: list[MemoryCheck], width: int) -> RenderableType:
    """Each card: does it fit, and which batch and length would."""
    table = _memory_table("Fits on", "card", width)
    room = (width - WIDE_NAMES) // len(checks)
    for check in checks:
        table.add_column(_breakable(Path(check.config).stem, width) if len(checks) > 1 else "", overflow="fold")
    fits = [{fit.card.name: fit for fit in check.cards} for check in checks]
    for name in dict.fromkeys(name for one in fits for name in one):
        card = next(one[name].card for one in fits if name in one)
        used = f", {size(card.used)} in use" if card.used else ""
        cells = [_fit(one[name], room) if name in one else Text("–") for one in fits]
        table.add_row(f"{name}, {_whole(card.memory)}{used}", *cells)
    return Group(table, *_differences([fit for check in checks for fit in check.cards]))


def _differences(fits: list[Fit]) -> Iterator[Text]:
    """What a card does otherwise than asked, and why; of a size what it is taken for. A line for each card."""
    done: dict[str, dict[str, str]] = {}  # by card: what is done, and why
    for fit in fits:
        done.setdefault(fit.card.name, {}).update({_done(row): row.why for row in fit.changes})
        if fit.card.is_assumed:
            done[fit.card.name]["taken for an Ampere GPU or a later one"] = ""
    for name, changes in done.items():
        if changes:
            why = next(iter(changes.values())).replace(name, "it")
            yield Text(f"{name}: {', '.join(changes)}" + (f" ({why})" if why else ""), style="dim")


def _done(row: PlanRow[Any]) -> str:
    """What is done instead: `float32`, `sdpa`, `without use_liger_kernel`."""
    return shown(row.effective) if row.effective else f"without {row.setting}"


def _whole(count: int) -> str:
    return size(count).replace(".0 GiB", " GiB")


def _fit(fit: Fit, room: int) -> Text:
    """As much as there is room for: the verdict, the largest batch, the longest row."""
    if not fit.fits:
        return _unfit(fit, room)
    text = Text(fit.verdict, style=VERDICT[fit.verdict])
    if fit.largest_batch:
        word = "batch " if room > len("tight, batch ≤ 1") else ""
        text.append(f", {word}≤ {fit.largest_batch:,}", style="default")
    if fit.longest and room >= 2 * WIDE_NAMES - 8:
        text.append(f" or length ≤ {fit.longest:,}", style="default")
    return text


def _unfit(fit: Fit, room: int) -> Text:
    """What would fit where the step does not."""
    batch = f"batch {fit.largest_batch:,}" if fit.largest_batch else ""
    length = f"length {fit.longest:,}" if fit.longest and room >= 2 * WIDE_NAMES - 8 else ""
    text = Text("no", style=VERDICT[fit.verdict])
    smaller = " or ".join(filter(None, [batch, length]))
    if not smaller:
        return text
    return text.append(f"; {smaller} would fit" if room >= WIDE_NAMES else f", {smaller}", style="default")


def _advice(check: MemoryCheck, width: int) -> RenderableType:
    """Changes by what they save, with the lines to write, which are never broken."""
    changes = [(change, _consequence(check, change)) for change in check.advice[:SHOWN_ADVICE]]
    lines = [Text("\n".join(change.lines), style=COMPLETION) for change, _ in changes]
    if width < max(NARROW, 44 + max(text.cell_len for line in lines for text in line.split())):
        parts: list[RenderableType] = [Text("What would help", style="italic")]
        for (change, what), line in zip(changes, lines, strict=True):
            told = f"saves {size(change.saved)}, leaves {size(change.total)}: {what}"
            parts += [Text(told), Padding(line, (0, 0, 0, 2))]
        return Group(Text(), *parts)
    table = Table(title="What would help", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("saves", justify="right", no_wrap=True)
    table.add_column("leaves", justify="right", no_wrap=True)
    table.add_column("change")
    table.add_column("write", no_wrap=True)
    for (change, what), line in zip(changes, lines, strict=True):
        table.add_row(size(change.saved), size(change.total), what, line)
    return table


def _consequence(check: MemoryCheck, change: Change) -> str:
    """The change, and if it shortens rows that are at hand, how many it would cut."""
    limit = next((int(line.split(": ")[1]) for line in change.lines if line.startswith("max_length")), None)
    if check.data is None or limit not in check.data.cut:
        return change.what
    return f"{change.what}; {check.data.cut[limit]:.0%} of the rows at hand would be cut"


SHOWN_ADVICE = 6


def _grid(check: MemoryCheck) -> RenderableType:
    """Peaks by length and batch, coloured by one card."""
    assert check.grid is not None
    assert check.grid_card is not None
    card = check.grid_card
    title = f"Peak by length and batch; green fits {card.name} ({_whole(card.memory)}), yellow is tight, red does not"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("length", justify="right", no_wrap=True)
    for batch in next(iter(check.grid.values())):
        table.add_column(f"batch {batch}", justify="right", no_wrap=True)
    for length, row in check.grid.items():
        table.add_row(f"{length:,}", *(Text(size(peak), style=VERDICT[card.verdict(peak)]) for peak in row.values()))
    return table


def plan_view(plan: Sequence[PlanRow[Any]]) -> RenderableType:
    """What is on, and what this machine does otherwise than asked, and why; settings that are off stay out."""
    table = Table(title="Plan", title_justify="left")
    rows = [row for row in plan if row.changed or shown(row.effective) not in ("false", "none", "1")]
    explained = any(row.why for row in rows)
    table.add_column("setting", no_wrap=True)
    for column in ("asked", "here", *(("why",) if explained else ())):
        table.add_column(column, overflow="fold")
    for row in rows:
        here = Text(shown(row.effective), style="yellow" if row.changed else "")
        table.add_row(row.setting, shown(row.asked), here, *((row.why,) if explained else ()))
    return table


def training_view(report: TrainingReport, config: str) -> RenderableType:
    """What a run came to, and the next command to type."""
    if report.state == "dry run":
        return facts_table(
            {"run": str(report.run), "state": "dry run: nothing was trained", "next": f"slds train --config {config}"}
        )
    rows = {
        "run": str(report.run),
        "state": report.state,
        "steps": str(report.steps),
        "training loss": _number(report.train_loss),
        "evaluation loss": _number(report.eval_loss),
        **({"adapters": _movement(report.movement)} if report.movement else {}),
        "checkpoint": str(report.checkpoint or "none"),
        "time": duration(report.seconds),
    }
    if report.checkpoint and report.has_adapter:
        rows["next"] = f"slds merge --checkpoint {report.checkpoint.name} --config {config}"
    elif report.checkpoint:  # full fine-tuning: nothing to merge
        rows["next"] = f"slds generate --decision FILE.txt --lang de --config {config}"
    return facts_table(rows)


def _movement(movement: Movement) -> str:
    if movement.moved == movement.adapters:
        return f"all {movement.adapters} changed"
    return f"{movement.moved} of {movement.adapters} changed; the others are in parts that text does not use"


def merge_view(report: MergeReport, config: str) -> RenderableType:
    """What was merged, how it was checked, and the next lines to type."""
    rows = {
        "base": report.base,
        "adapter": ", then ".join(str(adapter) for adapter in report.adapters),
        "output": f"{report.output} ({size(report.bytes)}, {report.dtype})",
        "tensors": f"{report.merged} merged, {report.copied} as they were",
        "verified": _verified(report.verification),
    }
    trained = report.verification.trained if report.verification else None
    if trained is not None:
        rows["trained in 4 bits"] = f"{_apart(trained)}, from the 4-bit model that was trained; --onto nf4 is nearer"
    rows["next"] = f"slds generate --decision FILE.txt --lang de --model {report.output} --config {config}"
    rows["or a server"] = f"vllm serve {report.output}"
    return facts_table(rows)


def _verified(check: Verification | None) -> str:
    if check is None:
        return "not asked for"
    return f"{check.how}: {_apart(check.distance)}; {check.tolerance:g} is allowed"


def _apart(distance: Distance) -> str:
    apart = f"logits are {distance.relative_l2:.2g} away (relative L2, {distance.max_abs:.2g} at most)"
    if distance.loss is None or distance.merged_loss is None:
        return apart.replace("logits are ", "")
    return f"{apart}, loss {distance.loss:.4f} → {distance.merged_loss:.4f}"


def check_view(report: CheckReport) -> RenderableType:
    """A merged folder, looked at again."""
    state = "; ".join(report.faults) or f"all {report.files} files are as they were written"
    return facts_table({"folder": str(report.folder), "state": state})


def headnote_view(headnote: GeneratedHeadnote) -> RenderableType:
    """What was checked about a headnote, to stand below it."""
    rows: dict[str, str | Text] = {
        "citations in the decision": Text(", ".join(headnote.found) or "none", FOUND if headnote.found else ""),
        "in part": Text(", ".join(headnote.partly) or "none", PARTLY if headnote.partly else ""),
        "not in the decision": Text(", ".join(headnote.unsupported) or "none", MISSING if headnote.unsupported else ""),
        "language": Text(
            f"{headnote.detected or 'unknown'} (asked: {headnote.lang})",
            PARTLY if headnote.detected != headnote.lang else "",
        ),
        "tokens": f"{headnote.prompt_tokens:,} read, {headnote.completion_tokens:,} written",
        "time": duration(headnote.seconds or 0.0),
    }
    return facts_table(rows)


def evaluation_view(report: Report) -> RenderableType:
    """Each score with its interval; by language pair; what differs by more than chance; the published results."""
    first, *others = report.evaluations
    title = f"{report.rows:,} headnotes of {report.decisions:,} decisions"
    columns = [(one.name, {name: table.macro for name, table in one.tables.items()}) for one in report.evaluations]
    if not others:
        columns = [
            ("mean of pairs", columns[0][1]),
            ("all rows", {name: table.weighted for name, table in first.tables.items()}),
        ]
    views: list[RenderableType] = [_score_table(title, columns)]
    for one in report.evaluations[: report.files]:
        groups = {"pair": {name: table.groups for name, table in one.tables.items()}} | one.by
        views += [_group_table(f"{one.name}, by {key.replace('_', ' ')}", found) for key, found in groups.items()]
    views += [_difference(one) for one in report.comparisons if one.metric in IN_GROUPS]
    if report.published:
        views.append(_published_table(report))
    views += [Text(f"! {note}", "yellow") for note in report.notes]
    told = dict.fromkeys(report.signatures.values())
    views += [Text(f"{_scores_with(report, signature)}: {signature}", "dim") for signature in told]
    views.append(Text("in brackets: 95 % bootstrap intervals, by decision", "dim"))
    return Group(*views)


def _difference(one: Comparison) -> Text:
    """A plain sentence: which is better, by how much, and whether chance explains it."""
    apart = one.difference
    bounds = f"95 %: {apart.low:+.1f} to {apart.high:+.1f}"
    if one.more_than_chance is None:
        told = f"{one.second} minus {one.first} {apart.value:+.1f} ({bounds}); too few decisions for a verdict"
        return Text(printable(f"{SCORES[one.metric]}: {told}"), "dim")
    if not one.more_than_chance:
        verdict = f"{one.second} and {one.first} differ by no more than chance may give"
        return Text(printable(f"{SCORES[one.metric]}: {verdict} ({apart.value:+.1f}; {bounds})"), "dim")
    word = "higher" if apart.value > 0 else "lower"
    size = f"{abs(apart.value):.1f} {word}"
    return Text(
        f"{SCORES[one.metric]}: {one.second} scores {size} than {one.first}, more than chance ({bounds})", "bold"
    )


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
            table.add_row(label, *(_interval(found[score]) for _, found in columns))
    return table


def _group_table(title: str, found: Mapping[str, Mapping[str, Interval]]) -> Table:
    """The main scores of each group; all of them are in --json."""
    table = Table(title=printable(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    shown = [score for score in IN_GROUPS if score in found]
    table.add_column("", no_wrap=True)
    for score in shown:
        table.add_column(SCORES[score], justify="right")
    for group in sorted(next(iter(found.values()))):
        table.add_row(printable(group.replace("_", " → ")), *(_interval(found[score][group]) for score in shown))
    return table


def _published_table(report: Report) -> Table:
    table = Table(title=f"Published ({SOURCE})", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("BERTScore", justify="right")
    table.add_column("ROUGE-L", justify="right")
    for one in report.published:
        table.add_row(one.model, f"{one.bertscore:.1f}", f"{one.rouge_l:.1f}")
    for evaluated in report.evaluations:
        own = (evaluated.tables.get("bertscore"), evaluated.tables["rougeL"])
        table.add_row(printable(evaluated.name), *("–" if score is None else _interval(score.macro) for score in own))
    return table


def _interval(found: Interval) -> str:
    if found.value is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.value:.1f}"
    return f"{found.value:.1f} ({found.low:.1f}–{found.high:.1f})"


def many_view(report: ManyReport) -> RenderableType:
    """What a run over many rows came to."""
    rows = {
        "output": str(report.output),
        "headnotes": f"{report.headnotes:,}" + (f", {report.before:,} of them from before" if report.before else ""),
        "unfinished": _some(report.unfinished, "the token limit cut them off: raise --max-new-tokens"),
        "in another language": _some(report.other_language, "not in the one asked for"),
        "of a cut decision": _some(report.cut, "longer than `max_length`"),
        "failed": _some(report.failed, "the same command tries them again"),
        "time": duration(report.seconds),
    }
    return facts_table(rows)


def _some(count: int, more: str) -> str:
    return f"{count:,}; {more}" if count else "none"


def review_view(report: ReviewReport) -> RenderableType:
    """The page that was written, and what is on it."""
    rows = {
        "output": f"{report.output} ({size(report.bytes)})",
        "headnotes": f"{report.rows:,} of {report.decisions:,} decisions",
        "to look at first": f"{report.unsupported:,} with unsupported citations, {report.unfinished:,} unfinished",
    }
    return facts_table(rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def runs_view(found: list[dict[str, Any]]) -> RenderableType:
    """Runs, newest first."""
    if not found:
        return Text("no runs here")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("run", "left"), ("state", "left"), ("steps", "right"), ("loss", "right"),
                          ("eval loss", "right"), ("started", "left")):  # fmt: skip
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for one in found:
        losses = (_number(one["train_loss"]), _number(one["eval_loss"]))
        table.add_row(one["run"], one["state"], str(one["steps"]), *losses, str(one["started"] or ""))
    return table


def difference_view(changed: dict[str, tuple[Any, Any]]) -> RenderableType:
    """Config keys in which two runs differ."""
    if not changed:
        return Text("the same config")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("key", "first", "second"):
        table.add_column(name, overflow="fold")
    for key, (one, other) in changed.items():
        table.add_row(key, str(one), str(other))
    return table
