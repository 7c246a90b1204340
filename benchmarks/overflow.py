"""What survives the cut: for each strategy, the share of what the official headnote names that is in the kept text.

The headnote only measures; it never steers a cut. A consideration counts by the share of its characters that are
kept, an article if the kept text still cites it. Lengths are in tokens of 3.56 characters, Gemma's average on these
decisions, less 700 for prompt and headnote, so that no tokenizer is needed.

    python benchmarks/overflow.py [FOLDER of train.jsonl, validation.jsonl, test.jsonl] [--extra]
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headnote_cli.data.row_files import stream_rows
from headnote_cli.data.shortening import CUT_MARK, Cut, shorten
from headnote_cli.law.citations import citations
from headnote_cli.law.document import Consideration, structure

CHARACTERS_A_TOKEN, PROMPT_AND_HEADNOTE = 3.56, 700
LENGTHS = (8192, 4096, 2048)
STRATEGIES: tuple[Cut, ...] = ("structure", "middle", "end")
DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data" / "bge"


@dataclass(frozen=True)
class Evidence:
    """Decisions that were cut, and the mean shares of what their headnotes name that is still there."""

    decisions: int
    considerations: float
    articles: float


def pseudo_tokens(text: str) -> list[tuple[int, int]]:
    count = int(len(text) / CHARACTERS_A_TOKEN) + 1
    bounds = [min(len(text), round(index * CHARACTERS_A_TOKEN)) for index in range(count + 1)]
    return list(itertools.pairwise(bounds))


def decisions(folder: Path, extra: bool) -> Iterator[dict[str, Any]]:
    """Each decision once, with its German headnote."""
    files = [folder / f"{split}.jsonl" for split in ("train", "validation", "test")]
    for file in files + ([folder / "extra.jsonl.gz"] if extra else []):
        yield from (row for _, row in stream_rows(file) if row["headnote_language"] == "de")


def kept_share(part: Consideration, text: str, kept: str) -> float:
    """Share of a consideration's characters that stand in the kept text, counted in runs of 40 characters."""
    span = text[part.start : part.end]
    runs = [span[index : index + 40] for index in range(0, max(1, len(span) - 39), 40)]
    return sum(run in kept for run in runs) / len(runs)


def survival(row: dict[str, Any], kept: str) -> tuple[list[float], list[float]]:
    """Shares of the considerations and articles named in the headnote."""
    text, named = row["decision"], citations(row["headnote"])
    parts = structure(text).considerations
    shares = []
    for citation in named:
        if citation.kind == "consideration":
            number = re.split("[- ]", citation.path[0][1])[0].rstrip("abcdefgh")
            inside = [part for part in parts if part.number == number or part.number.startswith(f"{number}.")]
            if inside:
                shares.append(statistics.mean(kept_share(part, text, kept) for part in inside))
    cited, still = {c.text for c in citations(text)}, {c.text for c in citations(kept)}
    articles = [float(c.text in still) for c in named if c.kind == "article" and c.text in cited]
    return shares, articles


def evidence(rows: list[tuple[dict[str, Any], list[tuple[int, int]]]], length: int, strategy: Cut) -> Evidence:
    """What is kept of the decisions that do not fit a length."""
    budget = length - PROMPT_AND_HEADNOTE
    shares: list[float] = []
    articles: list[float] = []
    too_long = [(row, tokens) for row, tokens in rows if len(tokens) > budget]
    for row, tokens in too_long:
        kept = shorten(row["decision"], tokens, budget, strategy)
        assert CUT_MARK in kept
        assert len(kept) <= budget * CHARACTERS_A_TOKEN + 200
        more_shares, more_articles = survival(row, kept)
        shares += more_shares
        articles += more_articles
    return Evidence(len(too_long), statistics.mean(shares), statistics.mean(articles))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT)
    parser.add_argument("--extra", action="store_true", help="also the decisions of extra.jsonl.gz")
    options = parser.parse_args()
    if not options.folder.is_dir():
        print(f"nothing to measure: the real decisions are not in {options.folder}")
        return
    rows = [(row, pseudo_tokens(row["decision"])) for row in decisions(options.folder, options.extra)]
    structured = sum(len(structure(row["decision"]).considerations) > 1 for row, _ in rows)
    print(f"{len(rows)} decisions, {structured} with numbered considerations; of those that overflow:")
    print("length  strategy    decisions  considerations  articles")
    for length in LENGTHS:
        for strategy in STRATEGIES:
            found = evidence(rows, length, strategy)
            means = f"{100 * found.considerations:13.1f} %  {100 * found.articles:6.1f} %"
            print(f"{length:6}  {strategy:10}  {found.decisions:9}  {means}")


if __name__ == "__main__":
    main()
