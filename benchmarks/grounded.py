"""What grounded decoding gives and costs: free against grounded headnotes of the same decisions with the same seeds.

For each way of writing: citations that the decision lacks, precision and recall of the citations against those of the
official headnote, ROUGE-L, headnotes in the right language, loops, tokens a second. Then, by decade, how many official
headnotes the grammar would forbid: of all, and of those whose citations the decision has. The ways of writing take
turns on each part of the decisions.

    python benchmarks/grounded.py --model MODEL [--rows FILE] [--count N] [--candidates 1 4] [--temperature T]
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import llguidance
from rouge_score.rouge_scorer import RougeScorer

from headnote_cli.generation.grounding import LIMITS
from headnote_cli.law.citations import Cited, citations
from headnote_cli.law.grammar import grammar
from headnote_cli.law.plain import plain

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
PARTS = 4  # into which the decisions are divided, so that the ways of writing alternate
Row = dict[str, Any]


def written(rows: list[Row], options: argparse.Namespace, candidates: int, grounded: bool) -> tuple[list[Row], float]:
    """The headnotes of rows, of several candidates the chosen ones, and the seconds without start-up."""
    with tempfile.TemporaryDirectory() as folder:
        asked, output = Path(folder) / "rows.jsonl", Path(folder) / "o.jsonl"
        asked.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        command = [sys.executable, "-m", "headnote_cli", "generate", "--decision", str(asked), "--output", str(output)]
        command += ["--config", options.config, "--model", options.model, "--max-new-tokens", str(options.tokens)]
        command += ["--temperature", str(options.temperature), "--top-p", "0.9", "--json"]
        command += ["--grounded"] if grounded else []
        command += ["--num-candidates", str(candidates), "--choose"] if candidates > 1 else []
        report = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    kept = [line for line in lines if line.get("chosen", True) and "headnote" in line]
    return kept, float(json.loads(report)["seconds"])


def scores(rows: list[Row], lines: list[Row], seconds: float) -> dict[str, float]:
    """The figures of one way of writing."""
    by_name = {(str(row["sample_id"]), row["headnote_language"]): row for row in rows}
    rouge = RougeScorer(["rougeL"])
    cited = right = official = 0
    for line in lines:
        row = by_name[str(line["sample_id"]), line["lang"]]
        own = {c.key for c in citations(line["headnote"], line["lang"], int(row["year"]))}
        wanted = {c.key for c in citations(row["headnote"], line["lang"], int(row["year"]))}
        cited, right, official = cited + len(own), right + len(own & wanted), official + len(wanted)
    pairs = [(by_name[str(line["sample_id"]), line["lang"]]["headnote"], line["headnote"]) for line in lines]
    return {
        "not in the decision, per headnote": sum(len(line["citations"]["unsupported"]) for line in lines) / len(lines),
        "citations, per headnote": cited / len(lines),
        "precision of citations, %": 100 * right / max(1, cited),
        "recall of citations, %": 100 * right / max(1, official),
        "ROUGE-L": 100 * statistics.mean(rouge.score(*pair)["rougeL"].fmeasure for pair in pairs),
        "right language, %": 100 * statistics.mean(line["language"]["detected"] == line["lang"] for line in lines),
        "loops, %": 100 * statistics.mean(line["finish_reason"] == "loop" for line in lines),
        "seconds": seconds,
    }


def compare(rows: list[Row], options: argparse.Namespace) -> None:
    ways = [(count, grounded) for count in options.candidates for grounded in (False, True)]
    lines: dict[tuple[int, bool], list[Row]] = defaultdict(list)
    seconds: Counter[tuple[int, bool]] = Counter()
    for part in range(PARTS):
        for way in ways if part % 2 == 0 else reversed(ways):
            some, took = written(rows[part::PARTS], options, *way)
            lines[way] += some
            seconds[way] += round(took)
    table = {way: scores(rows, lines[way], seconds[way]) for way in ways}
    print(f"{len(rows)} decisions, {options.model}, temperature {options.temperature:g}")
    names = [f"{'grounded' if grounded else 'free'}, best of {count}" for count, grounded in ways]
    print(f"{'':34}" + "".join(f"{name:>22}" for name in names))
    for figure in table[ways[0]]:
        print(f"{figure:34}" + "".join(f"{table[way][figure]:22.2f}" for way in ways))
    official = {_name(row["sample_id"], row["headnote_language"]): row["headnote"] for row in rows}
    of_each = {way: rouge_of_each(lines[way], official) for way in ways}
    for way, name in list(zip(ways, names, strict=True))[1:]:
        low, high = interval([of_each[way][key] - of_each[ways[0]][key] for key in official])
        print(f"ROUGE-L of {name} minus that of {names[0]}, 95 %: {low:+.2f} to {high:+.2f}")


def _name(sample: object, language: str) -> tuple[str, str]:
    return str(sample), language


def rouge_of_each(lines: list[Row], official: dict[tuple[str, str], str]) -> dict[tuple[str, str], float]:
    rouge = RougeScorer(["rougeL"])
    written_ = {_name(line["sample_id"], line["lang"]): line["headnote"] for line in lines}
    return {key: 100 * rouge.score(text, written_[key])["rougeL"].fmeasure for key, text in official.items()}


def interval(differences: list[float], resamples: int = 2000) -> tuple[float, float]:
    """The 95 % interval of a mean, by the paired bootstrap over decisions."""
    random = Random(0)
    means = sorted(statistics.mean(random.choices(differences, k=len(differences))) for _ in range(resamples))
    return means[resamples // 40], means[-resamples // 40]


def forbidden(rows: Iterator[Row]) -> None:
    """Official headnotes that the grammar does not accept, by decade."""
    tokens = llguidance.LLTokenizer("byte")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    taken = []
    for row in rows:
        language, year = row["headnote_language"], int(row["year"])
        headnote = " ".join(plain(row["headnote"]).text.split())
        cited = Cited(row["decision"], row["decision_language"], year)
        started = time.perf_counter()
        one = llguidance.LLMatcher(tokens, grammar(cited, language), limits=LIMITS, log_level=0)
        taken.append(time.perf_counter() - started)
        ids = tokens.tokenize_str(headnote)
        accepted = one.try_consume_tokens(ids) == len(ids) and one.is_accepting()
        statuses = {cited.status(citation) for citation in citations(headnote, language, year)}
        count = counts[f"{year // 10 * 10}s"]
        count.update(headnotes=1, forbidden=not accepted)
        count.update(supported=statuses <= {"found"}, wrongly=statuses <= {"found"} and not accepted)
    print("\nofficial headnotes  forbidden   of those whose citations are all found")
    for decade, count in sorted(counts.items()):
        share, wrongly = count["forbidden"] / count["headnotes"], count["wrongly"] / max(1, count["supported"])
        print(f"{decade}  {count['headnotes']:12}  {share:9.1%}   {wrongly:9.1%} of {count['supported']}")
    mean, longest = 1000 * statistics.mean(taken), 1000 * max(taken)
    print(f"a grammar is made and begun in {mean:.0f} ms on average, {longest:.0f} at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "demo_output/run/checkpoint-20-merged"))
    parser.add_argument("--config", default=str(ROOT / "configs/demo.yaml"))
    parser.add_argument("--rows", type=Path, default=DATA / "bge" / "test.jsonl")
    parser.add_argument("--old", type=Path, default=DATA / "bge_old" / "decisions.jsonl.gz")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--candidates", type=int, nargs="+", default=[1])
    parser.add_argument("--temperature", type=float, default=0.7)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    if options.count:
        compare(rows[: options.count], options)
    every = list(rows)
    if options.old.is_file():
        with gzip.open(options.old, "rt", encoding="utf-8") as lines:
            every += [json.loads(line) for line in lines]
    forbidden(iter(every))


if __name__ == "__main__":
    main()
