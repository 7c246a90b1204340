"""`slds check-memory`: what a step needs, which cards it fits on, and what would help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from headnote_cli.machine.plan import shown
from headnote_cli.memory.estimate import BESIDE
from headnote_cli.screen.console import size

if TYPE_CHECKING:
    from headnote_cli.machine.plan import PlanRow
    from headnote_cli.memory.advice import Advice
    from headnote_cli.memory.cards import Card
    from headnote_cli.memory.command import Fit, MemoryCheck
from headnote_cli.screen.preview import COMPLETION, PROMPT

PURPOSE = {
    "train": "Peak memory of one training step",
    "generate": "Peak memory of generation",
    "merge": "Main memory of a merge",
}
VERDICT = {"fits": "green", "tight": "yellow", "does not fit": "red"}
SHARES = " ▏▎▍▌▋▊▉█"  # eighths of a character
NARROW = 72  # columns; narrower screens get no bars, and advice as a list
WIDE_NAMES = 22  # columns of one config's cell
SHOWN_ADVICE = 6
SHARDING = {
    "none": "alone",
    "ddp": "a copy each",
    "states": "states divided",
    "gradients": "states and gradients divided",
    "full": "all divided",
}
LOSSES = {
    "fused": "fused, in tiles",
    "full": "all logits",
    "liger": "Liger, in chunks",
    "labelled": "labelled positions",
}


def memory_view(checks: list[MemoryCheck], width: int) -> RenderableType:
    """Components with bars, total and assumptions; the cards; what would help; the grid.

    Args:
        width: Columns of the screen.
    """
    parts: list[RenderableType] = [_components(checks, width), *_caveats(checks), _cards(checks, width)]
    if len(checks) == 1 and checks[0].advice:
        parts.append(_advice(checks[0], width))
    return Group(*parts, *(_grid(check.grid, check.grid_card) for check in checks if check.grid and check.grid_card))


def _memory_table(title: str, first: str, width: int) -> Table:
    padding = (0, 1) if width >= NARROW else 0
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=padding)
    table.add_column(first, no_wrap=True, min_width=16)
    return table


def _components(checks: list[MemoryCheck], width: int) -> Table:
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
    facts = [_facts(check) for check in checks]
    for name in facts[0]:
        style = "bold" if name == "total" else ""
        table.add_row(name, *(Text(_breakable(own[name], width), style=style) for own in facts))
    return table


def _breakable(text: str, width: int) -> str:
    """On a narrow screen, a name that can wrap between its words."""
    return text if width >= NARROW else text.replace("_", " ")


def _component_names(checks: list[MemoryCheck]) -> list[str]:
    """The components of all configs; those that no tensor takes come last."""
    fullest = sorted(checks, key=lambda check: -len(check.estimate.components))
    names = dict.fromkeys(name for check in fullest for name in check.estimate.components)
    return sorted(names, key=lambda name: name in BESIDE)


def _counted(count: int, most: int, bars: bool) -> Text:
    shown = "–" if not count else size(count) if count >= 2**20 else "< 1 MiB"
    text = Text(f"{shown:>9}")
    return text.append(" ").append_text(_bar(count / most)) if bars else text


def _facts(check: MemoryCheck) -> dict[str, str]:
    """The total and its assumptions. All configs of a screen share their options, so they have the same names."""
    estimate, setup = check.estimate, check.setup
    facts = {"total": f"{'at least ' if estimate.unknown else ''}{size(estimate.total)}", "fullest in": estimate.phase}
    if check.purpose != "merge":
        facts["weights in"] = _weights_in(check)
        facts["attention"] = setup.kind.attention.replace("_causal", "")
        facts["batch × length"] = f"{check.batch} × {setup.length:,}"
    if check.purpose == "train":
        facts |= {"method": check.method, "loss": LOSSES[setup.loss]}
    if setup.devices > 1:
        facts["devices"] = f"{setup.devices}, {SHARDING[setup.sharding]}"
    if check.data is not None:
        facts["mean over the rows"] = size(check.data.mean_peak)
    return facts


def _caveats(checks: list[MemoryCheck]) -> list[Text]:
    """What is not counted, and which layer kinds are estimated by another kind."""
    unknown = sorted({part for check in checks for part in check.estimate.unknown})
    nearest = sorted({check.estimate.nearest for check in checks if check.estimate.nearest})
    lines = [f"not counted: {', '.join(unknown)}"] if unknown else []
    lines += [f"layers are estimated as the nearest counted kind: {kind}" for kind in nearest]
    return [Text(line, style="yellow") for line in lines]


def _weights_in(check: MemoryCheck) -> str:
    if check.purpose == "generate":  # the merged model is not quantized
        return check.setup.kind.dtype
    names = {"nf4": "NF4", "nf4 double": "NF4, nested", "int8": "int8"}
    return names.get(check.setup.quantization, check.setup.kind.dtype)


def _bar(share: float, width: int = 8) -> Text:
    eighths = round(share * width * 8)
    return Text("█" * (eighths // 8) + (SHARES[eighths % 8] if eighths % 8 else ""), style=PROMPT)


def _cards(checks: list[MemoryCheck], width: int) -> RenderableType:
    """For each card, whether it fits, and which batch and length would."""
    table = _memory_table("Fits on", "card", width)
    room = (width - WIDE_NAMES) // len(checks)
    for check in checks:
        table.add_column(_breakable(Path(check.config).stem, width) if len(checks) > 1 else "", overflow="fold")
    fits = [{fit.card.name: fit for fit in check.cards} for check in checks]
    for name in dict.fromkeys(name for by_card in fits for name in by_card):
        card = next(by_card[name].card for by_card in fits if name in by_card)
        used = f", {size(card.used)} in use" if card.used else ""
        cells = [_fit(by_card[name], room) if name in by_card else Text("–") for by_card in fits]
        table.add_row(f"{name}, {_whole(card.memory)}{used}", *cells)
    return Group(table, *_differences([fit for check in checks for fit in check.cards]))


def _differences(fits: list[Fit]) -> Iterator[Text]:
    """One line per card: what it does differently from the config and why, and what an assumed card stands for."""
    done: dict[str, dict[str, str]] = {}  # by card: what is done instead, and why
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
    """As much as fits the cell: the verdict, the largest batch, the longest row."""
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
    """What would fit if the step does not."""
    batch = f"batch {fit.largest_batch:,}" if fit.largest_batch else ""
    length = f"length {fit.longest:,}" if fit.longest and room >= 2 * WIDE_NAMES - 8 else ""
    text = Text("no", style=VERDICT[fit.verdict])
    smaller = " or ".join(filter(None, [batch, length]))
    if not smaller:
        return text
    return text.append(f"; {smaller} would fit" if room >= WIDE_NAMES else f", {smaller}", style="default")


def _advice(check: MemoryCheck, width: int) -> RenderableType:
    """Changes by what they save, with the config lines to write, which never wrap."""
    changes = [(change, _consequence(check, change)) for change in check.advice[:SHOWN_ADVICE]]
    lines = [Text("\n".join(change.lines), style=COMPLETION) for change, _ in changes]
    if width < max(NARROW, 44 + max(text.cell_len for line in lines for text in line.split())):
        parts: list[RenderableType] = [Text("\nWhat would help", style="italic")]
        for (change, what), line in zip(changes, lines, strict=True):
            parts.append(Text(f"saves {size(change.saved)}, leaves {size(change.total)}: {what}"))
            parts.append(Padding(line, (0, 0, 0, 2)))
        return Group(*parts)
    table = Table(title="What would help", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("saves", justify="right", no_wrap=True)
    table.add_column("leaves", justify="right", no_wrap=True)
    table.add_column("change")
    table.add_column("write", no_wrap=True)
    for (change, what), line in zip(changes, lines, strict=True):
        table.add_row(size(change.saved), size(change.total), what, line)
    return table


def _consequence(check: MemoryCheck, change: Advice) -> str:
    """The change, and, if it shortens rows that are known, how many it would cut."""
    limit = next((int(line.split(": ")[1]) for line in change.lines if line.startswith("max_length")), None)
    if check.data is None or limit not in check.data.cut:
        return change.what
    return f"{change.what}; {check.data.cut[limit]:.0%} of the rows at hand would be cut"


def _grid(peaks: dict[int, dict[int, int]], card: Card) -> Table:
    """Peaks by length and batch, coloured for one card."""
    title = f"Peak by length and batch; green fits {card.name} ({_whole(card.memory)}), yellow is tight, red does not"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("length", justify="right", no_wrap=True)
    for batch in next(iter(peaks.values())):
        table.add_column(f"batch {batch}", justify="right", no_wrap=True)
    for length, row in peaks.items():
        table.add_row(f"{length:,}", *(Text(size(peak), style=VERDICT[card.verdict(peak)]) for peak in row.values()))
    return table
