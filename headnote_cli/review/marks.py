"""Marks that reviewers exported from the page, and how far the reviewers agree."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

from headnote_cli.errors import DataError, package
from headnote_cli.generation.predictions import Key, key_of
from headnote_cli.runs.files import naming, sha256

MarkName = Literal["good", "wrong", "unsure"]
MarkKey = Key | tuple[str, str, int, str]  # sample, language, candidate; the file, where several are compared
HINT = "a file of marks is what “Export marks” on the page of `slds review` saves"


@dataclass(frozen=True)
class Mark:
    """What a reviewer says of a headnote; no mark if only a comment was written."""

    mark: MarkName | None
    comment: str


@dataclass(frozen=True)
class Reviewer:
    """A reviewer's marks."""

    name: str
    marks: dict[MarkKey, Mark]


@dataclass(frozen=True)
class Agreement:
    """How far reviewers agree on the headnotes that at least two of them marked.

    Attributes:
        headnotes: That at least two marked.
        percent: Of the pairs of marks of one headnote, those that are equal.
        kappa: Cohen's κ of two reviewers (A Coefficient of Agreement for Nominal Scales, 1960); None where it is not
            defined, or there are more.
        alpha: Krippendorff's α of three or more (Content Analysis, 2004), likewise.
    """

    headnotes: int
    percent: float
    kappa: float | None
    alpha: float | None


def digest_of(predictions: Sequence[Path]) -> str:
    """What tells the predictions of a page from all others."""
    hashes = sorted(map(sha256, predictions))
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def read_marks(path: Path, names: Sequence[str], digest: str) -> Reviewer:
    """A reviewer's marks of a page's predictions.

    Args:
        names: Of the files of predictions.
        digest: What `digest_of` says of them.

    Raises:
        DataError: The file cannot be read, or its marks are of other predictions.
    """
    with naming(path):
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"is no JSON: {error}", str(path), HINT) from error
    if not isinstance(read, dict) or not isinstance(read.get("marks"), list):
        raise DataError("has no list of `marks`", str(path), HINT)
    if read.get("sha256") != digest:
        hint = f"they are of {read.get('predictions')}; marks fit only the very files that were marked"
        raise DataError(f"has marks of other predictions than {', '.join(names)}", str(path), hint)
    marks = {}
    for place, line in enumerate(read["marks"], start=1):
        key, mark = _mark(line, names, f"{path}, mark {place}")
        marks[key] = mark
    name = read.get("reviewer")
    return Reviewer(name if isinstance(name, str) and name.strip() else path.stem, marks)


def _mark(line: Any, files: Sequence[str], where: str) -> tuple[MarkKey, Mark]:
    if not isinstance(line, dict) or not isinstance(line.get("sample_id"), str | int) or "lang" not in line:
        raise DataError("names no `sample_id` and `lang`", where, HINT)
    if not isinstance(line.get("candidate"), int | None):
        raise DataError("`candidate` is not a whole number", where, HINT)
    if len(files) > 1 and line.get("predictions") not in files:
        raise DataError(
            f"is of {line.get('predictions')}", where, f"the files are {', '.join(files)}: was one renamed?"
        )
    mark, comment = line.get("mark"), line.get("comment")
    if mark is not None and mark not in get_args(MarkName):
        raise DataError(f"`mark` is {mark!r}", where, f"it is one of {', '.join(get_args(MarkName))}, or null")
    key, said = key_of(line), Mark(mark, comment if isinstance(comment, str) else "")
    return (*key, str(line["predictions"])) if len(files) > 1 else key, said


def agreement(reviewers: Sequence[Reviewer]) -> Agreement | None:
    """How far the reviewers agree; None if no headnote has two marks.

    Raises:
        UsageError: Three reviewers or more, and the package for their α is not installed.
    """
    marks = {key: [_name(reviewer, key) for reviewer in reviewers] for reviewer in reviewers for key in reviewer.marks}
    shared = [given for given in marks.values() if sum(mark is not None for mark in given) > 1]
    if not shared:
        return None
    pairs = [pair for given in shared for pair in combinations([mark for mark in given if mark is not None], 2)]
    equal = sum(one == other for one, other in pairs) / len(pairs)
    kappa = _kappa(pairs, equal) if len(reviewers) == 2 else None
    return Agreement(len(shared), 100 * equal, kappa, _alpha(shared) if len(reviewers) > 2 else None)


def _name(reviewer: Reviewer, key: MarkKey) -> MarkName | None:
    mark = reviewer.marks.get(key)
    return mark.mark if mark else None


def _kappa(pairs: Sequence[tuple[Any, Any]], equal: float) -> float | None:
    first, second = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    by_chance = sum(first[mark] * second[mark] for mark in first) / len(pairs) ** 2
    return None if by_chance == 1 else (equal - by_chance) / (1 - by_chance)


def _alpha(shared: Sequence[Sequence[MarkName | None]]) -> float | None:
    with package("krippendorff", "review", "the agreement of three reviewers or more"):
        import krippendorff
    names = get_args(MarkName)
    if len({mark for given in shared for mark in given if mark is not None}) < 2:
        return None
    codes = [[float("nan") if mark is None else names.index(mark) for mark in given] for given in shared]
    by_reviewer = [list(column) for column in zip(*codes, strict=True)]
    return float(krippendorff.alpha(reliability_data=by_reviewer, level_of_measurement="nominal"))
