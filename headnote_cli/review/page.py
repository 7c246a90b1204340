"""One page to review headnotes by: each beside its decision and its reference, citations linked; no network needed."""

from __future__ import annotations

import base64
import csv
import hashlib
import itertools
import json
import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from headnote_cli.data.fields import decision_id, year_of_row
from headnote_cli.errors import DataError
from headnote_cli.generation.loops import ends_in_a_loop
from headnote_cli.generation.predictions import Pair, key_of
from headnote_cli.law.citations import Citation, Cited, citations, spans
from headnote_cli.law.document import law_heading
from headnote_cli.law.evidence import evidence
from headnote_cli.law.language import detect_language
from headnote_cli.law.pages import page_marks
from headnote_cli.review.marks import Reviewer
from headnote_cli.review.pieces import pieces

FOLDER = Path(__file__).resolve().parent  # the template, its style and its script lie beside this file
TEMPLATE, STYLE, SCRIPT, TEXTS = "review.html.jinja", "review.css", "review.js", "texts.csv"
PAGE_LANGUAGES = ("en", "de", "fr", "it")
ROUGE_L = ("rougeL", "rouge_l")
UNFINISHED = ("length", "loop")
WORST = ("missing", "official", "partly", "found")
Place = tuple[int, int]  # start and end character in the decision
Segment = str | dict[str, Any]  # plain text, or text that cites

# Markup, characters that change the direction of writing, and code points that are not characters.
_UNSAFE = re.compile(
    "[<>&\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
_WORD = re.compile(r"\w+")
# What begins a paragraph among the facts: `B.`, `B.a`, and the word that heads the considerations; `B. AG` is a party.
_PARAGRAPH = re.compile(
    r"(?<=[.!?»)\]\"]\s)(?=[A-Z]\.[a-z]{1,2}\.?\s|[B-Z]\.\s(?!(?:AG|SA|GmbH|Sàrl|Sagl|Ltd|Inc)\b)[A-ZÀ-Ý]"
    r"|(?:Aus den )?Erwägungen\b|Extrait des considérants\b|Considérants?\b|(?:Dai c|C)onsiderandi\b)"
)


@dataclass
class _Decision:
    """A decision that one or more rows share, and the segments of their headnotes that cite."""

    number: int
    language: str | None
    cited: Cited
    url: str | None = None  # the court's page of it
    links: list[dict[str, Any]] = field(default_factory=list)

    def segments(self, headnote: object, language: str, official: object = None) -> list[Segment]:
        """A headnote in pieces; those that cite know their status, and the places in the decision.

        Args:
            official: The official headnote, which may cite what an excerpt of the decision lacks.
        """
        segments: list[Segment] = []
        if not isinstance(headnote, str):
            return segments
        officially = set(citations(official, language, self.cited.year)) if isinstance(official, str) else set()
        at = 0
        for span in spans(headnote, language, self.cited.year):
            for piece in pieces(headnote[span.start : span.end], span.citations):
                start, end = span.start + piece.start, span.start + piece.end
                statuses = [
                    "official" if (status := self.cited.status(one)) == "missing" and one in officially else status
                    for one in piece.citations
                ]
                link = {"text": headnote[start:end], "name": piece.whole, "status": min(statuses, key=WORST.index)}
                places = [place for one in piece.citations for place in self.cited.places(one)]
                self.links.append(link | {"places": places})
                segments += [headnote[at:start], self.links[-1]] if start > at else [self.links[-1]]
                at = end
        return segments + ([headnote[at:]] if at < len(headnote) else [])

    def evidence(self, headnote: str, language: str) -> list[dict[str, Any]]:
        """For each sentence of a headnote the considerations that support it, as links."""
        found = []
        for one in evidence(headnote, language, self.cited):
            links = []
            for number, strength in one.places:
                places = self.cited.places(Citation("consideration", (("E.", number),)))
                links.append({"name": number, "strength": round(100 * strength), "places": places})
            self.links += links
            points_to = [] if one.pointer != "wrong" else list(one.points_to)
            found.append({"text": headnote[one.start : one.end], "places": links, "wrong": points_to})
        return found

    def to_json(self) -> dict[str, Any]:
        """The decision in paragraphs, its marks numbered; from then on, the links name the numbers of their marks."""
        marks = self._marks()
        starts = [start for start, _ in marks]
        for link in self.links:  # where marks would overlap, the one that covers a place stands for it
            link["places"] = sorted({bisect_right(starts, start) - 1 for start, _ in link["places"]})
        paragraphs, law = self._paragraphs(marks)
        return {"lang": self.language, "paragraphs": paragraphs, "law": law, "url": self.url}

    def _marks(self) -> list[Place]:
        """All places to be marked, in order and without overlap: what is cited, what is linked, each consideration."""
        heads = [(start, start + len(number)) for number, start in self.cited.counted]
        places = {(span.start, span.end) for span in self.cited.spans}
        places |= {place for link in self.links for place in link["places"]}
        # `Erwägungen 2.` heads a consideration, and looks like a citation of it.
        places = {place for place in places if not _overlaps(place, heads)} | set(heads)
        kept: list[Place] = []
        for start, end in sorted(places, key=lambda place: (place[0], -place[1])):
            if not kept or start >= kept[-1][1]:
                kept.append((start, end))
        return kept

    def _paragraphs(self, marks: list[Place]) -> tuple[list[list[Segment]], int | None]:
        """Paragraphs, one for each consideration, and in which of them the considerations begin; in each, pieces with
        the number of their mark. Where a page turns within a mark, that is said behind it."""
        text = self.cited.decision
        turns = [turn.span() for turn in page_marks(text, self.cited.year)]
        law = law_heading(text)
        heads = {start: _beginning(text, start, number) for number, start in self.cited.counted}
        facts = min(heads, default=0)
        breaks: set[int] = set()
        for (_, at), (start, _) in itertools.pairwise([(0, 0), *marks, (len(text), len(text))]):
            breaks |= {match.start() for match in _PARAGRAPH.finditer(text, at, min(start, facts))}
            breaks.add(max(at, heads.get(start, at)))
            breaks.discard(at)  # what follows a mark directly stays with it
        if law is not None and not _overlaps((law, law + 1), marks):
            breaks.add(law)
        numbers = {start: number for number, (start, _) in enumerate(marks)}
        paragraphs: list[list[Segment]] = [[]]
        begins = [0]
        outside = [turn for turn in turns if not any(start < turn[1] and turn[0] < end for start, end in marks)]
        edges = sorted({0, len(text), *breaks, *itertools.chain(*marks, *outside)})
        for begin, end in itertools.pairwise(edges):
            if begin in breaks:
                paragraphs.append([])
                begins.append(begin)
            piece = text[begin:end]
            if begin in numbers:
                within = [text[slice(*turn)] for turn in turns if begin <= turn[0] < end]
                for turn in within:
                    piece = piece.replace(turn, "")
                mark: Segment = {"text": piece, "mark": numbers[begin]} | ({"head": True} if begin in heads else {})
                paragraphs[-1] += [mark, *({"text": turn, "page": True} for turn in within)]
            else:
                paragraphs[-1].append({"text": piece, "page": True} if (begin, end) in outside else piece)
        return paragraphs, None if law is None else bisect_right(begins, law) - 1


def build(
    pairs: Iterable[Pair], text_field: str, title: str, digest: str, reviewers: Sequence[Reviewer] = (),
    blind: int | None = None,
) -> tuple[str, dict[str, int]]:  # fmt: skip
    """The page for predictions and their rows as HTML, and how many of what it shows.

    Args:
        text_field: The field of a row that holds the decision.
        title: What the predictions are called.
        digest: A hash of the predictions, under which a browser keeps the marks.
        reviewers: Whose marks are shown beside the reader's own.
        blind: A seed for the order of several files' headnotes, whose names are then hidden.

    Raises:
        DataError: A row has no decision.
    """
    name = title.encode(errors="replace").decode()  # of a file whose name is no Unicode
    others = [{"name": reviewer.name, "marks": _marks_of(reviewer)} for reviewer in reviewers]
    about = {"title": name, "digest": digest, "reviewers": others, "texts": _texts(), "blind": blind is not None}
    data = page_data(list(pairs), text_field) | about
    items = data["items"] = _compared(data["items"], blind)
    counts = {
        "rows": len(items),
        "decisions": len(data["decisions"]),
        "unsupported": sum("missing" in item["citations"].values() for item in items),
        "unfinished": sum(item["finish"] in UNFINISHED for item in items),
    }
    return _render(data), counts


def _compared(items: list[dict[str, Any]], blind: int | None) -> list[dict[str, Any]]:
    """The headnotes of one row by several files one behind the other, each with its row and a letter; blind, in an
    order that is drawn. The first candidates that files have are compared, then the second ones."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    turns = Counter[tuple[Any, ...]]()
    for item in items:
        of_file = (item["file"], item["sample"], item["lang"])
        groups.setdefault((item["sample"], item["lang"], turns[of_file]), []).append(item)
        turns[of_file] += 1
    random = Random(blind)
    for row, group in enumerate(groups.values()):
        if blind is not None:
            random.shuffle(group)
        for place, item in enumerate(group):
            item |= {"letter": chr(ord("A") + place % 26), "row": row}
    return [item for group in groups.values() for item in group]


def _marks_of(reviewer: Reviewer) -> dict[str, dict[str, str | None]]:
    """A reviewer's marks by the names that the page gives headnotes."""
    return {
        json.dumps(key, ensure_ascii=False, separators=(",", ":")): {"mark": mark.mark, "comment": mark.comment}
        for key, mark in reviewer.marks.items()
    }


def page_data(pairs: list[Pair], text_field: str) -> dict[str, Any]:
    """All that the page shows, as plain values; a decision that rows share is there once.

    Raises:
        DataError: A row has no decision.
    """
    decisions: dict[tuple[str, str | None], _Decision] = {}
    score, scores = _scores(pairs)
    items = []
    for pair, value in zip(pairs, scores, strict=True):
        decision = _decision_of(pair, text_field, decisions)
        lang = pair.prediction["lang"]
        written, official = pair.prediction["headnote"], pair.row.get("headnote")
        headnote = decision.segments(written, lang, official)
        texts = {"headnote": headnote, "reference": decision.segments(official, lang, official)}
        cites = {segment["name"]: segment["status"] for segment in headnote if isinstance(segment, dict)}
        found = decision.evidence(written, lang)
        facts = {"citations": cites, "evidence": found, "decision": decision.number, "score": value}
        items.append(_item(pair) | texts | facts)
    return {"score": score, "decisions": [decision.to_json() for decision in decisions.values()], "items": items}


def _decision_of(pair: Pair, text_field: str, decisions: dict[tuple[str, str | None], _Decision]) -> _Decision:
    """The decision of a row, read once for all rows that share it."""
    text, language = pair.row.get(text_field), pair.row.get("decision_language")
    if not isinstance(text, str) or not text.strip():
        where = f"the row of sample {pair.prediction['sample_id']}"
        raise DataError(f"has no text in `{text_field}`", where, "`overflow_field` names the decision's field")
    key = (text, language if isinstance(language, str) else None)
    if key not in decisions:
        cited = Cited(*key, year_of_row(pair.row))
        decisions[key] = _Decision(len(decisions), key[1], cited, _address(pair.row.get("url")))
    return decisions[key]


def _item(pair: Pair) -> dict[str, Any]:
    """The facts about a headnote, without its text."""
    prediction, row = pair.prediction, pair.row
    sample, lang, candidate = key_of(prediction)
    tokens, detected, written = prediction.get("tokens"), prediction.get("language"), prediction["headnote"]
    return {
        "sample": sample,
        "file": pair.file,
        "lang": lang,
        "candidate": candidate if "candidate" in prediction else None,
        "name": decision_id(row) or sample,
        "decision_id": decision_id(row),
        "area": _text(row.get("law_area")),
        "year": _text(row.get("year")),
        "finish": "loop" if ends_in_a_loop(written) else _text(prediction.get("finish_reason")),
        "tokens": {k: v for k, v in tokens.items() if isinstance(v, int)} if isinstance(tokens, dict) else {},
        "detected": (_text(detected.get("detected")) if isinstance(detected, dict) else None)
        or detect_language(written),
        "doubt": _doubt(prediction.get("doubt"), len(written)),
    }


def _doubt(noted: Any, length: int) -> dict[str, Any] | None:
    """How sure the model was, as far as the file says it soundly."""
    mean = noted.get("mean_log_probability") if isinstance(noted, dict) else None
    if not isinstance(mean, int | float):
        return None
    words = noted.get("words") if isinstance(noted.get("words"), list) else []
    spans = [(word.get("start"), word.get("end")) for word in words if isinstance(word, dict)]
    sound = [[a, b] for a, b in spans if isinstance(a, int) and isinstance(b, int) and 0 <= a < b <= length]
    return {"mean": mean, "words": sound}


def _overlaps(place: Place, ordered: Sequence[Place]) -> bool:
    """Whether a place overlaps one of some that are in order and apart."""
    after = bisect_right(ordered, place)
    return any(start < place[1] and place[0] < end for start, end in ordered[max(0, after - 1) : after + 1])


def _address(url: Any) -> str | None:
    return url if isinstance(url, str) and re.fullmatch(r"https://[!-~]{4,400}", url) else None


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _beginning(text: str, start: int, number: str) -> int:
    """Where the paragraph of a heading begins: before the numbers of its parents if they precede it, as in `4. 4.1`."""
    parts = number.split(".")
    for length in range(len(parts) - 1, 0, -1):
        before = text[max(0, start - 20) : start]
        parent = re.search(rf"(?<!\S){re.escape('.'.join(parts[:length]))}\.?\s$", before)
        start -= len(parent[0]) if parent else 0
    return start


def _scores(pairs: list[Pair]) -> tuple[str, list[float | None]]:
    """The name of the score and the score of each headnote: ROUGE-L if every line has it, else word overlap."""
    brought = [_rouge(pair.prediction.get("scores")) for pair in pairs]
    if all(value is not None for value in brought):
        return "ROUGE-L", [*brought]
    texts = [(pair.prediction["headnote"], pair.row.get("headnote")) for pair in pairs]
    return "word overlap (F1)", [overlap(one, other) if isinstance(other, str) else None for one, other in texts]


def _rouge(scores: Any) -> float | None:
    values = (scores.get(name) for name in ROUGE_L) if isinstance(scores, dict) else ()
    return next((float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)), None)


def overlap(headnote: str, reference: str) -> float:
    """The F1 of the words of two texts as multisets, from 0 to 100: a rough guide."""
    words, other = (Counter(_WORD.findall(text.casefold())) for text in (headnote, reference))
    total = words.total() + other.total()
    return round(200 * (words & other).total() / total, 2) if total else 0.0


def embedded(value: object) -> str:
    """JSON that may stand in a `<script>` element: nothing in it can end the element or is seen as markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _render(data: dict[str, Any]) -> str:
    """The page as HTML; its policy allows its own style and script, by their hashes, and nothing else."""
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in (STYLE, SCRIPT))
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(TEMPLATE).render(
        title="headnotes" if data["blind"] else data["title"],
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=Markup(embedded(data)),
    )


def _texts() -> dict[str, dict[str, str]]:
    """What the page itself says, by language and name."""
    with (FOLDER / TEXTS).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {language: {row["key"]: row[language] for row in rows} for language in PAGE_LANGUAGES}


def _hash(text: str) -> str:
    """The hash of a source in the form of a Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
