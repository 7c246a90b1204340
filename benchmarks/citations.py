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
from itertools import chain
from pathlib import Path
from typing import Any

from headnote_cli.data.row_files import stream_rows
from headnote_cli.law.citations import Citation, check, citations, cited_by
from headnote_cli.law.document import structure

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ROOT.parent / "shared" / "data" / "bge"
LABELS = ROOT / "tests" / "data" / "headnote_citations.jsonl"
DECADES = ROOT / "tests" / "data" / "citations_by_decade.jsonl"
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
    scores = Scores()
    for line in LABELS.read_text(encoding="utf-8").splitlines():
        label = json.loads(line)
        language = label["headnote_language"]
        parsed = {cited.text for cited in citations(headnotes[label["decision_id"], language], language)}
        scores.add((language,), parsed, set(label["citations"]))
    scores.print("labels, 2020-2026")


def against_labels_by_decade(rows: Rows, old: Path) -> None:
    """Labels of 150 headnotes and, where there are no old headnotes in a language, 68 passages of decisions."""
    texts = {(row["decision_id"], row["headnote_language"]): row["headnote"] for row in rows}
    texts |= {(r["decision_id"], r["language"]): r["headnote"] for _, r in stream_rows(old / "headnotes.jsonl.gz")}
    decisions = {}
    for _, row in stream_rows(old / "decisions.jsonl.gz"):
        texts.setdefault((row["decision_id"], row["headnote_language"]), row["headnote"])
        decisions[row["decision_id"]] = row["decision"]
    scores = Scores()
    for line in DECADES.read_text(encoding="utf-8").splitlines():
        label = json.loads(line)
        named, language, year, wanted = (label[key] for key in ("decision_id", "language", "year", "citations"))
        if "passage" in label:
            start, end = label["passage"]
            spans = cited_by(decisions[named], language, year).spans
            read = [cited for span in spans if start <= span.start and span.end <= end for cited in span.citations]
        else:
            read = citations(texts[named, language], language, year)
        read = [cited for cited in read if cited.kind != "act"]
        if "cut" in label and read and read[-1].text not in wanted:
            del read[-1]  # the headnote ends in the middle of it
        for group in ((f"{year // 10 * 10}s",), (language,), ("together",)):
            scores.add(group, {cited.text for cited in read}, set(wanted))
    scores.print("labels by decade")


class Scores:
    """Precision and recall by group."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)

    def add(self, group: tuple[str, ...], parsed: set[str], wanted: set[str]) -> None:
        self.counts[" ".join(group)] += Counter(right=len(parsed & wanted), parsed=len(parsed), listed=len(wanted))

    def print(self, title: str) -> None:
        print(f"{title:18}  listed  precision  recall")
        for group, count in sorted(self.counts.items()):
            precision, recall = 100 * count["right"] / count["parsed"], 100 * count["right"] / count["listed"]
            print(f"{group:18}  {count['listed']:6}  {precision:7.1f} %  {recall:5.1f} %")
        print()


def across_languages(rows: Rows, sample: int) -> None:
    cited: dict[str, dict[str, set[str]]] = defaultdict(dict)
    for row in rows:
        found = citations(row["headnote"], row["headnote_language"], int(row["year"]))
        cited[row["decision_id"]][row["headnote_language"]] = {citation.key for citation in found}
    differ = [name for name, sets in cited.items() if len({frozenset(found) for found in sets.values()}) > 1]
    share = 100 * (1 - len(differ) / len(cited))
    print(f"the same in all three headnotes: {share:.1f} % of {len(cited)} decisions; of the others:")
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


def own_considerations(rows: Iterable[dict[str, Any]]) -> None:
    """How many of the considerations that headnotes name are found, by decade of the decision, and how many of those
    that the decision cannot have."""
    named, imagined = defaultdict[str, Counter[str]](Counter), defaultdict[str, Counter[str]](Counter)
    seen = set()
    for row in rows:
        decade = f"{int(row['year']) // 10 * 10}s"
        cited = cited_by(row["decision"], row["decision_language"], int(row["year"]))
        for citation in citations(row["headnote"], row["headnote_language"], int(row["year"])):
            named[decade][cited.status(citation)] += citation.kind == "consideration"
        if row["decision_id"] not in seen:
            seen.add(row["decision_id"])
            named[decade]["decisions"] += 1
            for number in impossible(row["decision"]):
                imagined[decade][cited.status(Citation("consideration", (("E.", number),)))] += 1
    print("\nconsiderations  decisions   cited    found  found of those that the decision cannot have")
    for decade, counts in sorted(named.items()):
        cited = sum(counts[status] for status in STATUSES)
        wrong = imagined[decade]["found"] / max(1, imagined[decade].total())
        print(f"{decade:14}  {counts['decisions']:9}  {cited:6}  {100 * counts['found'] / cited:5.2f} %  {wrong:6.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT)
    parser.add_argument("--old", type=Path, default=OLD, help="a folder of decisions of 1954-2019")
    parser.add_argument("--sample", type=int, default=12, help="how many misses to print of each kind")
    options = parser.parse_args()
    rows = [row for name in FILES for _, row in stream_rows(options.folder / name)]
    against_labels(rows)
    has_old = options.old.is_dir()
    if has_old:
        against_labels_by_decade(rows, options.old)
    across_languages(rows, options.sample)
    in_the_decision(rows, options.sample)
    old = (row for name in OLD_FILES for _, row in stream_rows(options.old / name)) if has_old else ()
    own_considerations(chain(old, rows))


if __name__ == "__main__":
    main()
