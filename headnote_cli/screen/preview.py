"""`slds preview-prompts`: rows as the model sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headnote_cli.data.shortening import CUT_MARK
from headnote_cli.screen.console import facts_table, printable

if TYPE_CHECKING:
    from headnote_cli.training.preview import Preview, PreviewedRow

PROMPT, COMPLETION, CONTROL, CUT = "cyan", "bold green", "magenta", "bold red"
BAR = 30  # widest bar of a histogram, in characters


def preview_view(preview: Preview) -> RenderableType:
    """Each row as the model sees it, with colours for prompt, completion, control tokens and cuts."""
    parts: list[RenderableType] = [_legend(preview)] if preview.rows else []
    for row in preview.rows:
        parts += [Text.assemble(("── ", "dim"), (_row_title(row), "bold")), _row_text(row), Text()]
    return Group(*parts, *_stats_views(preview.stats))


def preview_raw(preview: Preview) -> list[str]:
    """The exact text of each row; without a tokenizer, the text of its messages."""
    return [row.encoded.text if row.encoded else _messages(row) for row in preview.rows]


def _messages(row: PreviewedRow) -> str:
    messages = [*row.conversation.prompt, *row.conversation.completion]
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def _legend(preview: Preview) -> Text:
    words = [("prompt", PROMPT), (" · ", "dim"), ("completion, in the loss", COMPLETION)]
    if preview.control_tokens:
        words += [(" · ", "dim"), ("control token", CONTROL), (" · ", "dim"), (f"{CUT_MARK} removed text", CUT)]
    return Text.assemble(*words)


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
    encoded = row.encoded
    text = Text.assemble((printable(encoded.prompt_text), PROMPT), (printable(encoded.completion_text), COMPLETION))
    for style, spans in ((CONTROL, encoded.control_spans), (CUT, encoded.cut_spans)):
        for span in spans:
            text.stylize(style, *(len(printable(encoded.text[:position])) for position in span))
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
    """Rows, lengths and cuts in total and by language pair, with a histogram; without a tokenizer, what is known."""
    if "pairs" not in stats:
        return [facts_table({name.replace("_", " "): _quantiles(value) for name, value in stats.items()})]
    keys = ("rows", "rows_cut", "rows_dropped", "rows_bad", "tokens_cut", "tokens_dropped")
    counted = {key.removeprefix("rows_").replace("_", " "): key for key in keys if stats[key]}
    table = Table(title="Tokens (prompt and headnote: median / p90 / max)", title_justify="left")
    table.add_column("pair", no_wrap=True)
    for column in (*counted, "prompt", "headnote"):
        table.add_column(column, justify="right")
    for name, part in (*stats["pairs"].items(), ("all", stats)):
        lengths = (_quantiles(part["prompt_tokens"]), _quantiles(part["completion_tokens"]))
        table.add_row(name, *(f"{part[key]:,}" for key in counted.values()), *lengths)
    most = max((count for _, count in stats["histogram"]), default=0)
    bars = Table.grid(padding=(0, 1))
    for bound, count in stats["histogram"]:
        bar = Text("█" * -(-count * BAR // most), style=PROMPT)
        bars.add_row(Text(f"≤ {bound:,}", justify="right"), bar, f"{count:,}")
    return [table, bars]


def _quantiles(value: Any) -> str:
    if isinstance(value, dict):
        return " / ".join(f"{count:,}" for count in value.values())
    return "–" if value is None else f"{value:,}"
