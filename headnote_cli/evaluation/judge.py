"""A language model as judge, after the protocol of the SLDS paper (arXiv 2410.13456): the written headnote against the
official one by five rubrics, each from 1 to 3; the score is 100 · Σ(s − 1) / 10.

The rubrics are the paper's; the words of the prompt are our own.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from headnote_cli.errors import DataError
from headnote_cli.evaluation.metrics import Metric, Scored, means
from headnote_cli.events import Listener, Note
from headnote_cli.generation.chat import AT_A_TIME, Chat
from headnote_cli.runs.files import Journal

RUBRICS = {
    "accuracy": "says the same law as the official headnote, and nothing that contradicts it",
    "completeness": "holds every point of the official headnote, and nothing beside the point",
    "clarity": "is well ordered, coherent and easy to understand",
    "legal_citations": "cites the same provisions (Art. …) as the official headnote, no more and no fewer",
    "considerations": "refers to the same considerations (E. … or consid. …) as the official headnote",
}
LEVELS = (1, 2, 3)
SYSTEM = (
    "You are an experienced Swiss lawyer who reads German, French and Italian. You compare a written headnote of a "
    "leading decision with the official one. For each rubric give a short reason, then a score: 1 fails or is "
    "seriously flawed, 2 is largely right but lacks something of weight, 3 matches the official headnote up to wording."
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": list(RUBRICS),
    "properties": {
        name: {
            "type": "object",
            "additionalProperties": False,
            "required": ["reason", "score"],
            "properties": {"reason": {"type": "string"}, "score": {"type": "integer", "enum": list(LEVELS)}},
        }
        for name in RUBRICS
    },
}
MAX_TOKENS = 1500
DISPENSABLE = ("response_format", "temperature")  # the prompt asks for JSON too


@dataclass(frozen=True)
class Judgement:
    """Scores by rubric; None where the answer could not be read."""

    scores: dict[str, int] | None

    def shares(self) -> list[float] | None:
        """Of what could be reached: Σ(s − 1) / 10, then (s − 1) / 2 of each rubric."""
        if self.scores is None:
            return None
        each = [(score - 1) / 2 for score in self.scores.values()]
        return [sum(each) / len(each), *each]


class Judge:
    """Asks a server, many at a time, and keeps every readable answer in a file, so that none is asked for twice."""

    def __init__(self, address: str, model: str, cache: Path, emit: Listener) -> None:
        """
        Raises:
            UsageError: The address or a proxy cannot be used, or the `openai` package is not installed.
            UnreachableError: Nobody answers there, or not to this key.
        """
        self.chat = Chat(address, model, emit)
        self.model = model
        self.cache = Journal(cache)
        self.emit = emit
        self.known = dict(_cached(self.cache))
        self._keeping = Lock()
        self._unread: Counter[str] = Counter()  # by reason

    def judge(self, rows: Sequence[Scored]) -> list[Judgement]:
        """
        Raises:
            UnreachableError: The server failed for good; what was judged until then is kept.
        """
        asked = [messages_for(row) for row in rows]
        keys = [self._key(messages) for messages in asked]
        missing = {key: messages for key, messages in zip(keys, asked, strict=True) if key not in self.known}
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            try:
                for one in as_completed([pool.submit(self._judge, *each) for each in missing.items()]):
                    one.result()
            finally:
                pool.shutdown(cancel_futures=True)
        found = [Judgement(self.known.get(key)) for key in keys]
        unread = sum(one.scores is None for one in found)
        if unread:
            told = f"{unread} of {len(found)} judgements could not be read; they count nowhere"
            reason = next((f": {reason}" for reason, _ in self._unread.most_common(1)), "")
            self.emit(Note(told + reason, warning=True))
        return found

    def _judge(self, key: str, messages: list[dict[str, str]]) -> None:
        """Ask, and keep the answer at once if it can be read."""
        try:
            answer = self._ask(messages)
        except DataError as error:  # the server refuses this one request, or answers without text
            answer, reason = "", error.message
        else:
            reason = "the answer is not five scores from 1 to 3"
        scores = read_scores(answer)
        with self._keeping:
            if scores is None:
                self._unread[reason] += 1
            else:
                self.known[key] = scores
                self.cache.append({"key": key, "model": self.model, "answer": answer})

    def _key(self, messages: list[dict[str, str]]) -> str:
        return hashlib.sha256(json.dumps([self.model, messages, SCHEMA]).encode()).hexdigest()

    def _ask(self, messages: list[dict[str, str]]) -> str:
        """
        Raises:
            DataError: The server refuses this one request, or answers without text.
            UnreachableError: It failed for good.
        """
        form = {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": SCHEMA}}
        return self.chat.ask(messages, DISPENSABLE, response_format=form, temperature=0, max_tokens=MAX_TOKENS).text


def _cached(cache: Journal) -> Iterator[tuple[str, dict[str, int]]]:
    for entry in cache.lines():
        scores = read_scores(str(entry.get("answer")))
        if scores is not None:
            yield str(entry.get("key")), scores


def messages_for(row: Scored) -> list[dict[str, str]]:
    """What the judge is asked about one headnote."""
    rubrics = "\n".join(f"- {name}: the written headnote {what}" for name, what in RUBRICS.items())
    question = (
        f"Rubrics:\n{rubrics}\n\nOfficial headnote:\n<official>\n{row.reference}\n</official>\n\n"
        f"Written headnote:\n<written>\n{row.headnote}\n</written>\n\n"
        'Answer with a JSON object alone: {"accuracy": {"reason": "…", "score": 1}, …} with all five rubrics.'
    )
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def read_scores(answer: str) -> dict[str, int] | None:
    """The scores of an answer: its JSON object, wherever it stands; None if a rubric or a valid score is missing."""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        given = json.loads(answer[start : end + 1])
        scores = {name: given[name]["score"] if isinstance(given[name], dict) else given[name] for name in RUBRICS}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    sound = all(isinstance(score, int) and not isinstance(score, bool) and score in LEVELS for score in scores.values())
    return scores if sound else None


def judged(judge: Judge) -> list[Metric]:
    """The judge's score and its rubrics, each from 0 to 100; a headnote whose judgement could not be read counts
    nowhere."""

    def values(rows: Sequence[Scored]) -> Iterator[Sequence[float] | None]:
        return (one.shares() for one in judge.judge(rows))

    names = ["judge", *(f"judge_{name}" for name in RUBRICS)]
    return means(names, values, f"{judge.model}, five rubrics from 1 to 3")
