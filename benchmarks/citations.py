"""The reading of citations, on the official headnotes: precision and recall against labels made by hand, and three
checks that need no labels: the same citations in the three headnotes of a decision, their presence in the decision, and
that no consideration is found that the decision cannot have.

Where the three headnotes differ, most often the court itself does: a paragraph more or less in one language, a slip of
the pen (CP for CPP, lit. c for e), an act by its abbreviation in one and by its title in another. What a decision
lacks stands mostly in considerations that the official collection leaves out: the headnote's first line names them.
A plain search, without the parser's grammar and whatever the act, tells how many of the articles that are not found the
decision can have at all.

A consideration that a decision cannot have is one above its last, up to 60, or in one that it has and behind the last
part of that one. The last ones are those that the cut reads as headings (`headnote_cli/law/document.py`), independently
of the lookup. It stops early in some decisions, so that the share is an upper bound: of 40 numbers of 2020-2026 that
are found, read one by one, all are truly there.

    python benchmarks/citations.py [FOLDER of train.jsonl, validation.jsonl, test.jsonl, extra.jsonl.gz] [--sample 12]
        [--old FOLDER of decisions.jsonl.gz, volume.jsonl.gz]
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headnote_cli.data.row_files import stream_rows
from headnote_cli.law.citations import Citation, check, citations, cited_by
from headnote_cli.law.document import structure
from headnote_cli.law.language import LANGUAGES

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ROOT.parent / "shared" / "data" / "bge"
LABELS = ROOT / "tests" / "data" / "headnote_citations.jsonl"
FILES = ("train.jsonl", "validation.jsonl", "test.jsonl", "extra.jsonl.gz")
OLD, OLD_FILES = DEFAULT.with_name("bge_old"), ("decisions.jsonl.gz", "volume.jsonl.gz")
LAST = 60  # the highest consideration that is looked up
Rows = list[dict[str, Any]]
STATUSES = ("found", "partly", "missing")
BEFORE = r"(?:rt\.|rtikeln?|rticles?|rticol[oi]|§|,|-|–|\b(?:und|et|e|à|bis|a|l))\s?"  # a number that is an article's
WORDS = {
    "Abs.": "Abs|Absatz|Absätzen?|al|alinéas?|cpv|capovers[oi]",
    "lit.": "lit|Bst|let|lett|lettres?|lettera",
    "Ziff.": "Ziff|Ziffern?|ch|n|Nr|cifr[ae]",
}
AFTER, APART = 400, 25  # characters from an article to its subdivisions; from `Abs.` to its number


def against_labels(rows: Rows) -> None:
    headnotes = {(row["decision_id"], row["headnote_language"]): row["headnote"] for row in rows}
    print("labels by hand   listed  precision  recall")
    labels = [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]
    for language in LANGUAGES:
        right, named, listed = 0, 0, 0
        for label in (label for label in labels if label["headnote_language"] == language):
            parsed = {citation.text for citation in citations(headnotes[label["decision_id"], language], language)}
            right += len(parsed & set(label["citations"]))
            named += len(parsed)
            listed += len(label["citations"])
        print(f"{language:15}  {listed:6}  {100 * right / named:7.1f} %  {100 * right / listed:4.1f} %")


def across_languages(rows: Rows, sample: int) -> None:
    cited: dict[str, dict[str, set[str]]] = defaultdict(dict)
    for row in rows:
        found = citations(row["headnote"], row["headnote_language"], int(row["year"]))
        cited[row["decision_id"]][row["headnote_language"]] = {citation.key for citation in found}
    differ = [name for name, sets in cited.items() if len({frozenset(found) for found in sets.values()}) > 1]
    share = 100 * (1 - len(differ) / len(cited))
    print(f"\nthe same in all three headnotes: {share:.1f} % of {len(cited)} decisions; of the others:")
    for name in random.Random(0).sample(differ, min(sample, len(differ))):
        common = set.intersection(*cited[name].values())
        print(f"  {name}: " + "; ".join(f"{lang} {sorted(found - common)}" for lang, found in cited[name].items()))


def may_stand(citation: Citation, text: str) -> bool:
    """Whether a text has the article's number, of a range the first, with its subdivisions' behind it."""
    numbers = [re.sub(r"(?<=\d)(?=[a-z])", r"\\s?", re.split("[ -]", value)[0]) for _, value in citation.path]
    parts = [
        re.compile(rf"\b(?:{WORDS[level]})\.?\s[^.;()]{{0,{APART}}}?(?<![\w.]){number}(?!\w)")
        for (level, _), number in zip(citation.path[1:], numbers[1:], strict=True)
        if level in WORDS
    ]
    places = re.finditer(rf"{BEFORE}{numbers[0]}(?![\w.])", text)
    return any(all(part.search(text, at.end(), at.end() + AFTER) for part in parts) for at in places)


def in_the_decision(rows: Rows, sample: int) -> None:
    counts: Counter[tuple[str, str, str]] = Counter()
    missing, absent = [], 0
    for row in rows:
        pair = "same language" if row["headnote_language"] == row["decision_language"] else "another language"
        for checked in check(row["headnote"], row["decision"], row["headnote_language"], row["decision_language"]):
            counts[checked.citation.kind, pair, checked.status] += 1
            counts[checked.citation.kind, "together", checked.status] += 1
            if checked.citation.kind == "article" and checked.status != "found":
                absent += not may_stand(checked.citation, row["decision"])
            if checked.status == "missing" and checked.citation.kind == "article":
                missing.append((row["decision_id"], row["headnote_language"], checked.citation.text))
    print("\nin the decision                         cited   found  in part  missing")
    for kind, pair in sorted({(kind, pair) for kind, pair, _ in counts}):
        numbers = [counts[kind, pair, status] for status in STATUSES]
        shares = "  ".join(f"{100 * number / sum(numbers):4.1f} %" for number in numbers)
        print(f"{kind:15}  {pair:20}  {sum(numbers):6}  {shares}")
    found, cited = counts["article", "together", "found"], sum(counts["article", "together", s] for s in STATUSES)
    there = cited - absent
    print(
        f"{absent} articles stand nowhere in the decision by a plain search; of the other {there}, {found / there:.1%}"
    )
    print("are found. Articles that are missing, a sample:")
    for name, language, text in random.Random(0).sample(missing, min(sample, len(missing))):
        print(f"  {name} ({language}): {text}")


def impossible(decision: str) -> list[str]:
    """Numbers of considerations that a decision cannot have; none where it shows no numbers."""
    headings = [part.number for part in structure(decision).considerations if re.fullmatch(r"[\d.]+", part.number)]
    parts: dict[str, int] = {}  # of each consideration, its last part; of the decision, its last consideration
    for heading in headings:
        above, _, last = heading.rpartition(".")
        parts[above] = max(parts.get(above, 0), int(last))
    last = parts.get("", LAST)
    behind = [f"{above}.{last + more}" for above, last in parts.items() if above for more in (1, 2, 5)]
    return [str(number) for number in range(last + 1, LAST + 1)] + behind


def own_considerations(name: str, rows: Iterable[dict[str, Any]]) -> None:
    named, imagined = Counter[str](), Counter[str]()
    seen = set()
    for row in rows:
        cited = cited_by(row["decision"], row["decision_language"], int(row["year"]))
        for citation in citations(row["headnote"], row["headnote_language"], int(row["year"])):
            named[cited.status(citation)] += citation.kind == "consideration"
        if row["decision_id"] not in seen:
            seen.add(row["decision_id"])
            for number in impossible(row["decision"]):
                imagined[cited.status(Citation("consideration", (("E.", number),)))] += 1
    shares = (100 * counts["found"] / counts.total() for counts in (named, imagined))
    print(f"{name:10}  {len(seen):9}  {named.total():6}  " + "  ".join(f"{share:5.2f} %" for share in shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT)
    parser.add_argument("--old", type=Path, default=OLD, help="a folder of decisions of 1954-2019")
    parser.add_argument("--sample", type=int, default=12, help="how many misses to print of each kind")
    options = parser.parse_args()
    rows = [row for name in FILES for _, row in stream_rows(options.folder / name)]
    against_labels(rows)
    across_languages(rows, options.sample)
    in_the_decision(rows, options.sample)
    print("\nconsiderations  decisions   cited    found  found of those that the decision cannot have")
    own_considerations("2020-2026", rows)
    if options.old.is_dir():
        own_considerations("1954-2019", (row for name in OLD_FILES for _, row in stream_rows(options.old / name)))


if __name__ == "__main__":
    main()
