"""What survives the cut, by decade: for each strategy, the share of what the official headnote names that is kept.

The headnote only measures; it never steers a cut. A consideration counts by the share of its characters that are
kept, an article if the kept text still cites it. Lengths are in tokens of 3.56 characters, Gemma's average on decisions
of 2020-2026, less 700 for prompt and headnote, so that no tokenizer is needed.

    python benchmarks/overflow.py [FILE or FOLDER ...]

A file holds rows (JSON lines, parquet …), a folder train.jsonl, validation.jsonl and test.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headnote_cli.data.row_files import stream_rows
from headnote_cli.data.shortening import CUT_MARK, Cut, inserted_marks, shorten
from headnote_cli.law.citations import citations
from headnote_cli.law.document import Consideration, structure

CHARACTERS_A_TOKEN, PROMPT_AND_HEADNOTE = 3.56, 700
LENGTHS = (8192, 4096, 2048)
FITTING = (4096, 8192, 16384)
STRATEGIES: tuple[Cut, ...] = ("structure", "middle", "end")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
DEFAULT = (DATA / "bge", DATA / "bge_old" / "decisions.jsonl.gz")


@dataclass(frozen=True)
class Decision:
    """A decision with the considerations and articles that one of its headnotes names, and where its tokens are."""

    text: str
    language: str
    named: list[list[Consideration]]  # of each consideration that is named, its parts
    articles: frozenset[str]
    tokens: list[tuple[int, int]]


def decision_of(row: dict[str, Any]) -> Decision:
    text, language = row["decision"], row["headnote_language"]
    parts = structure(text).considerations
    cited = citations(row["headnote"], language, int(row["year"]))
    numbers = [citation.path[0][1] for citation in cited if citation.kind == "consideration"]
    named = [[part for part in parts if number in part.names] for number in numbers]
    own = {citation.text for citation in citations(text, row["decision_language"], int(row["year"]))}
    articles = {citation.text for citation in cited if citation.kind == "article"} & own
    return Decision(
        text, row["decision_language"], [inside for inside in named if inside], frozenset(articles), pseudo_tokens(text)
    )


def pseudo_tokens(text: str) -> list[tuple[int, int]]:
    count = int(len(text) / CHARACTERS_A_TOKEN) + 1
    bounds = [min(len(text), round(index * CHARACTERS_A_TOKEN)) for index in range(count + 1)]
    return list(itertools.pairwise(bounds))


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Each decision once."""
    seen = set()
    files = [path] if path.is_file() else [path / f"{split}.jsonl" for split in ("train", "validation", "test")]
    for file in files:
        for _, row in stream_rows(file):
            if row["decision_id"] not in seen:
                seen.add(row["decision_id"])
                yield row


def kept_share(part: Consideration, text: str, kept: str) -> float:
    """Share of a consideration's characters that stand in the kept text, counted in runs of 40 characters."""
    span = text[part.start : part.end]
    runs = [span[index : index + 40] for index in range(0, max(1, len(span) - 39), 40)]
    return sum(run in kept for run in runs) / len(runs)


def survival(decision: Decision, kept: str) -> tuple[list[float], list[float]]:
    """Shares of the considerations, and of the articles, that the headnote names."""
    shares = [statistics.mean(kept_share(part, decision.text, kept) for part in inside) for inside in decision.named]
    still = {citation.text for citation in citations(kept)} if decision.articles else set()
    return shares, [float(article in still) for article in decision.articles]


def share(values: Sequence[float]) -> str:
    return f"{100 * statistics.mean(values):5.1f} %" if values else "      –"


def show_fitting(decisions: dict[str, list[Decision]]) -> None:
    print("decade     decisions  numbered  fit in " + "  ".join(f"{length:>7,}" for length in FITTING))
    for decade, some in sorted(decisions.items()):
        fitting = (share([len(one.tokens) <= length - PROMPT_AND_HEADNOTE for one in some]) for length in FITTING)
        numbered = share([len(structure(one.text).considerations) > 1 for one in some])
        print(f"{decade:9}  {len(some):9}   {numbered}         " + "  ".join(fitting))


def show_survival(decisions: dict[str, list[Decision]], length: int) -> None:
    print(f"\nkept at {length:,} tokens: considerations and articles that headnotes name")
    print("decade     cut  " + "  ".join(f"{strategy:>17}" for strategy in STRATEGIES))
    budget = length - PROMPT_AND_HEADNOTE
    for decade, some in sorted(decisions.items()):
        long = [one for one in some if len(one.tokens) > budget]
        cells = []
        for strategy in STRATEGIES:
            shares: list[float] = []
            articles: list[float] = []
            for one in long:
                kept = shorten(one.text, one.tokens, budget, strategy)
                assert CUT_MARK in kept
                more_shares, more_articles = survival(one, kept)
                shares += more_shares
                articles += more_articles
            cells.append(f"{share(shares)}, {share(articles)}")
        print(f"{decade:9} {len(long):4}  " + "  ".join(f"{cell:>17}" for cell in cells))


def show_cuts(decisions: dict[str, list[Decision]]) -> None:
    """How many of our marks go before a word in lower case, which no sentence begins with."""
    counts: dict[str, list[bool]] = defaultdict(list)
    for decade, some in sorted(decisions.items()):
        for one, length in itertools.product(some, LENGTHS):
            if len(one.tokens) > length - PROMPT_AND_HEADNOTE:
                kept = shorten(one.text, one.tokens, length - PROMPT_AND_HEADNOTE, "structure")
                for mark in inserted_marks(one.text, kept):
                    following = kept[mark + len(CUT_MARK) :].lstrip()
                    lettered = re.match(r"[a-z]{1,2}\)", following)  # `b)` heads a consideration
                    for group in (decade, one.language):
                        counts[group].append(following[:1].islower() and not lettered)
    print("\nmarks of `structure` before a word in lower case")
    print("".join(f"{group}: {share(values)} of {len(values):,}\n" for group, values in counts.items()), end="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="*", default=[path for path in DEFAULT if path.exists()])
    options = parser.parse_args()
    if not options.paths:
        print("nothing to measure: name a file or folder of real decisions")
        return
    decisions: dict[str, list[Decision]] = defaultdict(list)
    for path in options.paths:
        for row in rows_of(path):
            decade = int(row["year"]) // 10 * 10
            decisions[f"{decade}-{decade + 9}"].append(decision_of(row))
    show_fitting(decisions)
    for length in LENGTHS:
        show_survival(decisions, length)
    show_cuts(decisions)


if __name__ == "__main__":
    main()
