"""Evidence measured on the court's own pointers.

    python benchmarks/evidence.py FOLDER [--learnt FILE …] [--model MODEL --limit 20]

FOLDER has files of rows with official headnotes (JSONL, also gzipped), at any depth; files from which
`scripts/learn_evidence.py` learnt are passed over. Of each sentence the pointers are hidden, `(E. 3.2)`. An answer is
right if it is a consideration that they name, the one above it, or one right below it; considerations count down to the
second level. Intervals are of 95 %, by the bootstrap over decisions.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from headnote_cli.data.row_files import stream_rows
from headnote_cli.data.sources import sound
from headnote_cli.law.citations import Cited, citations, spans
from headnote_cli.law.evidence import MOST, Likelihoods, Passages, Sentence, evidence, is_near, sentences

Row = dict[str, Any]
LEARNT = ("extra.jsonl.gz", "volume.jsonl.gz")
THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 0.9)
RESAMPLES = 1000
WHOLES = {"swapped found": "swapped", "false alarms": "pointers", "articles found": "articles"}


@dataclass(frozen=True)
class Case:
    """A sentence with pointers, and what each way of finding its consideration says."""

    decision: str
    pair: str  # of the decision's and the headnote's language
    year: int
    right: list[bool]  # of each consideration, whether it is one that counts
    scores: dict[str, list[float]]  # of each consideration, by way

    @property
    def group(self) -> str:
        across = "across" if self.pair[:2] != self.pair[-2:] else "same language"
        return f"{across}{'' if self.year >= 2020 else ', until 2019'}"

    def is_hit(self, way: str, first: int) -> bool:
        """Whether one of the first answers is right."""
        ranked = sorted(range(len(self.right)), key=lambda place: -self.scores[way][place])
        return any(self.right[place] for place in ranked[:first])


def decisions(folder: Path, learnt: Sequence[str]) -> Iterator[list[Row]]:
    """The rows of each decision."""
    rows: dict[str, list[Row]] = defaultdict(list)
    files = sorted(file for form in ("*.jsonl", "*.jsonl.gz") for file in folder.rglob(form) if file.name not in learnt)
    for row in (sound(row) for _, row in stream_rows(*files)):
        if row.get("decision") and row.get("headnote"):
            rows[row["decision_id"]].append(row)
    yield from rows.values()


def passages_of(row: Row) -> Passages:
    return Passages(Cited(row["decision"], row["decision_language"], int(row["year"])))


def asking(model: str) -> Likelihoods:
    """The likelihoods of a model on the disk."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from headnote_cli.generation.likelihood import gains

    loaded = AutoModelForCausalLM.from_pretrained(model).eval()
    return partial(gains, loaded, AutoTokenizer.from_pretrained(model))


def hidden(headnote: str, language: str, year: int | None) -> str:
    """A headnote with blanks in the place of its pointers."""
    for span in spans(headnote, language, year):
        if any(citation.kind == "consideration" for citation in span.citations):
            headnote = headnote[: span.start] + " " * (span.end - span.start) + headnote[span.end :]
    return headnote


def cases(rows: list[Row], passages: Passages, random: Random, model: Likelihoods | None) -> Iterator[Case]:
    """The sentences with a pointer to a consideration that the decision has, but for those that all would get right."""
    lengths = [signals["length"] for signals in next(passages.signals(_of(rows[0], passages), "de"), [])]
    for row in rows:
        language, some = row["headnote_language"], _of(row, passages)
        bare = hidden(row["headnote"], language, passages.cited.year)
        gains = model(passages.texts, bare, [(one.start, one.end) for one in some]) if model else None
        asked = zip(passages.signals(some, language), passages.strengths(some, language, gains), strict=True)
        for place, (sentence, (by_place, strengths)) in enumerate(zip(some, asked, strict=True)):
            right = [any(is_near(number, pointer) for pointer in sentence.pointers) for number in passages.numbers]
            if any(right) and len(right) > 1:
                scores = {
                    "random": [random.random() for _ in right],
                    "first": [float(-place) for place in range(len(right))],
                    "longest": lengths,
                    "BM25": [signal["amount"] for signal in by_place],
                    **({"model alone": gains[place]} if gains else {}),
                    "evidence": strengths,
                }
                pair = f"{row['decision_language']}_{language}"
                yield Case(row["decision_id"], pair, int(row["year"]), right, scores)


def _of(row: Row, passages: Passages) -> list[Sentence]:
    return sentences(row["headnote"], row["headnote_language"], passages.cited.year)


def share(some: Sequence[Case], way: str, first: int) -> float:
    return statistics.mean(case.is_hit(way, first) for case in some) if some else 0.0


def interval(some: Sequence[Case], way: str, first: int) -> tuple[float, float]:
    """Of the share that is right, by the bootstrap over decisions."""
    of_decision: dict[str, list[bool]] = defaultdict(list)
    for case in some:
        of_decision[case.decision].append(case.is_hit(way, first))
    groups, random, shares = list(of_decision.values()), Random(0), []
    for _ in range(RESAMPLES):
        hits = [hit for group in random.choices(groups, k=len(groups)) for hit in group]
        shares.append(sum(hits) / len(hits))
    shares.sort()
    return shares[RESAMPLES // 40], shares[-RESAMPLES // 40]


def table(title: str, some: Sequence[Case], by: Callable[[Case], str]) -> None:
    """The share that is right by group and way."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in some:
        groups[by(case)].append(case)
    print(f"\n{title:29} sentences   top-1 (95 %)           top-3 (95 %)")
    for name, group in sorted(groups.items()):
        for way in group[0].scores if title == "by way" else ("evidence",):
            first, three = (
                f"{share(group, way, k):6.1%} ({' – '.join(f'{edge:.1%}' for edge in interval(group, way, k))})"
                for k in (1, MOST)
            )
            label = f"{name}: {way}" if title == "by way" else name
            print(f"{label:29} {len(group):9}   {first:22} {three}")


def abstention(some: Sequence[Case]) -> None:
    """What is right among the answers from a strength on."""
    print("\nfrom a strength of   answered   right of these   right of all")
    for least in THRESHOLDS:
        answered = [c for c in some if max(c.scores["evidence"]) >= max(least, 1 - sum(c.scores["evidence"]))]
        hits = sum(case.is_hit("evidence", 1) for case in answered)
        of_all, of_these = hits / len(some), hits / max(1, len(answered))
        print(f"{least:18.1f}   {len(answered) / len(some):8.1%}   {of_these:14.1%}   {of_all:12.1%}")


def foreign(read: Sequence[tuple[list[Row], Passages]], random: Random) -> None:
    """Sentences of other decisions: how many are said to have no evidence."""
    none = total = 0
    for rows, passages in read:
        for row in rows:
            other = random.choice(
                [o for others, _ in random.choices(read, k=8) for o in others if o["decision_id"] != row["decision_id"]]
            )
            for found in evidence(other["headnote"], other["headnote_language"], passages.cited):
                none, total = none + (not found.places), total + 1
    print(f"\nof {total} sentences of other decisions, {none / total:.1%} have no evidence")


def planted(read: Sequence[tuple[list[Row], Passages]], random: Random) -> None:
    """Faults that are planted: pointers of two sentences swapped, articles replaced by others."""
    counts: dict[str, int] = defaultdict(int)
    for rows, passages in read:
        for row in rows:
            language, headnote = row["headnote_language"], row["headnote"]
            found = evidence(headnote, language, passages.cited)
            counts["pointers"] += sum(one.pointer != "none" for one in found)
            counts["false alarms"] += sum(one.pointer == "wrong" for one in found)
            swapped = _swapped(_of(row, passages), random)
            if swapped:
                for one, other in zip(passages.strengths(swapped, language), swapped, strict=True):
                    if other.start < 0:
                        counts["swapped"] += 1
                        counts["swapped found"] += passages.pointer(other, one) == "wrong"
            for citation in citations(headnote, language, passages.cited.year):
                if citation.kind == "article" and passages.cited.status(citation) == "found":
                    strange = replace(citation, path=(("Art.", str(random.randint(1, 900))), *citation.path[1:]))
                    counts["articles"] += passages.cited.status(strange) != "found"
                    counts["articles found"] += passages.cited.status(strange) == "missing"
    of = {name: counts[name] / max(1, counts[whole]) for name, whole in WHOLES.items()}
    print(f"of {counts['swapped']} swapped pointers {of['swapped found']:.1%} are called wrong, ", end="")
    print(f"of the court's own {of['false alarms']:.1%}")
    print(f"of {counts['articles']} wrong articles {of['articles found']:.1%} are not in the decision")


def _swapped(some: list[Sentence], random: Random) -> list[Sentence]:
    """Two sentences that point to places apart with each other's pointers, marked by a start below zero."""
    pairs = [
        (a, b)
        for a, one in enumerate(some)
        for b, other in enumerate(some[:a])
        if one.pointers and other.pointers and not any(is_near(p, q) for p in one.pointers for q in other.pointers)
    ]
    if not pairs:
        return []
    a, b = random.choice(pairs)
    changed = list(some)
    changed[a] = replace(some[a], pointers=some[b].pointers, start=-1)
    changed[b] = replace(some[b], pointers=some[a].pointers, start=-1)
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--learnt", nargs="*", default=LEARNT, help="files that were learnt from")
    parser.add_argument("--model", help="a folder with a model that is asked, too")
    parser.add_argument("--limit", type=int, help="decisions")
    options = parser.parse_args()
    of_decisions = list(decisions(options.folder, options.learnt))[: options.limit]
    read = [(rows, passages_of(rows[0])) for rows in of_decisions]
    random, model = Random(0), asking(options.model) if options.model else None
    some = [case for rows, passages in read for case in cases(rows, passages, random, model)]
    print(f"{len(some)} sentences with pointers in {len({case.decision for case in some})} decisions")
    table("by way", some, lambda case: case.group)
    table("by language pair", some, lambda case: f"{case.pair}{'' if case.year >= 2020 else ', until 2019'}")
    table("by decade", some, lambda case: f"{case.year // 10 * 10}s, {case.group.partition(',')[0]}")
    abstention(some)
    foreign(read, random)
    planted(read, random)
    recent = [case for case in some if case.year >= 2020] or some
    same, across = ([case for case in recent if case.group.startswith(name)] for name in ("same", "across"))
    shares = [(k, share(same, "evidence", k), share(across, "evidence", k)) for k in (1, MOST)]
    print("\n" + "; ".join(f"top-{k} same language {one:.1%}, across {other:.1%}" for k, one, other in shares))


if __name__ == "__main__":
    main()
