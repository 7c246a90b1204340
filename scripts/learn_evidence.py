"""Learn what `headnote_cli/law/evidence.py` knows: the lexicon, and the weights of its signals.

    python scripts/learn_evidence.py ROWS [ROWS …]

ROWS are files of rows (JSONL, also gzipped) of decisions with official headnotes. Those with headnotes in several
languages teach the lexicon: sentences that are translations of each other, by IBM Model 1. All teach the weights: each
sentence with a pointer, and as many drawn from all headnotes, which no consideration supports. Keep those that you
measure with out of it.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from headnote_cli.data.row_files import stream_rows
from headnote_cli.data.sources import sound
from headnote_cli.law.citations import Cited
from headnote_cli.law.evidence import GAIN, NONE, WEIGHTS, Passages, Sentence, is_near, read_weights, sentences
from headnote_cli.law.similarity import LEXICON, stems

Row = dict[str, Any]
ROUNDS = 5  # of the expectation–maximization of Model 1
LEAST, MOST = 0.1, 3  # a translation's probability, and how many a word has
LONGEST = 150  # words of a sentence
STEPS, RATE, DECAY = 400, 0.05, 1e-4  # of the logit
CASES = ("same", "across")
# The signals of each consideration, and which are right; none may be.
Choice = tuple[list[dict[str, float]], list[bool]]


def decisions(files: Iterable[Path]) -> Iterator[list[Row]]:
    """The rows of each decision."""
    rows: dict[str, list[Row]] = {}
    for row in (sound(row) for _, row in stream_rows(*files)):
        rows.setdefault(row["decision_id"], []).append(row)
    yield from rows.values()


def translations(pairs: Sequence[tuple[list[str], list[str]]]) -> dict[tuple[str, str], float]:
    """The probability of each word of the second language, given one of the first: IBM Model 1."""
    probability: dict[tuple[str, str], float] = defaultdict(lambda: 1.0)
    for _ in range(ROUNDS):
        counts, totals = defaultdict[tuple[str, str], float](float), defaultdict[str, float](float)
        for words, others in pairs:
            for other in others:
                shares = [(word, probability[word, other]) for word in (*words, "")]
                total = sum(share for _, share in shares)
                for word, share in shares:
                    counts[word, other] += share / total
                    totals[word] += share / total
        learnt = {pair: count / totals[pair[0]] for pair, count in counts.items() if count / totals[pair[0]] > 1e-3}
        probability = defaultdict(float, learnt)
    return dict(probability)


def learn_lexicon(some: Sequence[list[Row]]) -> Iterator[tuple[str, str, str, str, float]]:
    """Language, other language, word, its translation, the probability."""
    pairs: dict[tuple[str, str], list[tuple[list[str], list[str]]]] = defaultdict(list)
    for rows in some:
        texts = {row["headnote_language"]: sentences(row["headnote"], row["headnote_language"]) for row in rows}
        for one, other in permutations(texts, 2):
            if len(texts[one]) == len(texts[other]):
                for a, b in zip(texts[one], texts[other], strict=True):
                    words, others = (list(dict.fromkeys(stems(sentence.words))) for sentence in (a, b))
                    if 0 < len(words) < LONGEST and others:
                        pairs[one, other].append((words, others))
    for (one, other), sentence_pairs in sorted(pairs.items()):
        best: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for (word, translation), share in translations(sentence_pairs).items():
            if share >= LEAST and word and not (word[0].isdigit() or translation[0].isdigit()):
                best[word].append((share, translation))
        for word, found in sorted(best.items()):
            for share, translation in sorted(found, reverse=True)[:MOST]:
                yield one, other, word, translation, share


def choices(some: Sequence[list[Row]]) -> dict[str, list[Choice]]:
    """For each sentence with a pointer which considerations are right, and none for one drawn from all headnotes."""
    random = Random(0)
    of_all: dict[str, list[Sentence]] = defaultdict(list)
    read = [(rows, [sentences(r["headnote"], r["headnote_language"], int(r["year"])) for r in rows]) for rows in some]
    for rows, headnotes in read:
        for row, headnote in zip(rows, headnotes, strict=True):
            of_all[row["headnote_language"]] += headnote
    found: dict[str, list[Choice]] = defaultdict(list)
    for rows, headnotes in read:
        text, decision_language = rows[0]["decision"], rows[0]["decision_language"]
        passages = Passages(Cited(text, decision_language, int(rows[0]["year"])))
        for row, headnote in zip(rows, headnotes, strict=True):
            language = row["headnote_language"]
            case = CASES[language != passages.language]
            for place, signals in enumerate(passages.signals(headnote, language)):
                pointers = headnote[place].pointers
                right = [any(is_near(number, pointer) for pointer in pointers) for number in passages.numbers]
                if any(right):
                    foreign = [*headnote[:place], random.choice(of_all[language]), *headnote[place + 1 :]]
                    strange = list(passages.signals(foreign, language))[place]
                    found[case] += [(signals, right), (strange, [False] * len(right))]
    return found


def learn_weights(some: Sequence[Choice]) -> dict[str, float]:
    """The weights of a conditional logit by Adam; where several answers are right, their probabilities are added."""
    names = list(some[0][0][0])
    rows, right, group = [], [], []
    for number, (signals, answers) in enumerate(some):
        rows += [[one[name] for name in names] + [0.0] for one in signals] + [[0.0] * len(names) + [1.0]]
        right += [*answers, not any(answers)]
        group += [number] * (len(signals) + 1)
    values = np.array(rows)
    scale = np.append(values[:, :-1].std(axis=0) + 1e-9, 1.0)
    values, correct, groups = values / scale, np.array(right, dtype=float), np.array(group)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    weights, mean, square = np.zeros((3, values.shape[1]))
    for step in range(1, STEPS + 1):
        scores = values @ weights
        shares = np.exp(scores - np.maximum.reduceat(scores, starts)[groups])
        of_right = shares * correct
        gained = of_right / np.add.reduceat(of_right, starts)[groups] - shares / np.add.reduceat(shares, starts)[groups]
        slope = values.T @ gained / len(starts) - DECAY * weights
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope**2
        weights = weights + RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
    return dict(zip([*names, NONE], (weights / scale).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+")
    some = list(decisions(parser.parse_args().rows))
    with gzip.GzipFile(LEXICON, "wb", mtime=0) as packed:  # the same bytes for the same rows
        lines = ["from,into,stem,translation,share"]
        lines += [f"{one},{into},{word},{other},{share:.2f}" for one, into, word, other, share in learn_lexicon(some)]
        packed.write(("\n".join(lines) + "\n").encode())
    found = choices(some)
    before, weights = read_weights(), {case: learn_weights(found[case]) for case in CASES}
    with WEIGHTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["signal", *CASES])
        writer.writerows([name, *(f"{weights[case][name]:.3f}" for case in CASES)] for name in weights["same"])
        writer.writerow([GAIN, *(f"{before[case][GAIN]:.3f}" for case in CASES)])  # learnt with a model
    print(f"{len(lines) - 1:,} translations; weights from {', '.join(f'{len(found[c]):,} choices {c}' for c in CASES)}")


if __name__ == "__main__":
    main()
