"""A language model as judge, after the protocol of the SLDS paper (arXiv 2410.13456). It compares a generated headnote
with the official one by five rubrics, each from 1 to 3. The score is 100 · Σ(s − 1) / 10.

The rubrics are the paper's; the wording of the prompt is ours.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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


class Judge:
    """Asks a server, many requests at a time. Readable answers are cached in a file, so nothing is asked twice."""

    def __init__(self, address: str, model: str, cache: Path, emit: Listener) -> None:
        """
        Raises:
            UsageError: The address or a proxy cannot be used, or the `openai` package is not installed.
            UnreachableError: The server does not answer, or rejects the API key.
        """
        self.chat = Chat(address, model, emit)
        self.model = model
        self.cache = Journal(cache)
        self.emit = emit
        self.known: dict[str, dict[str, int]] = {}  # request hash → rubric → score
        for entry in self.cache.lines():
            if scores := read_scores(str(entry.get("answer"))):
                self.known[str(entry.get("key"))] = scores
        self._keeping = Lock()
        self._unread: Counter[str] = Counter()  # by reason

    def metrics(self) -> list[Metric]:
        """The judge's score and its rubrics, each 0 to 100. Headnotes with unreadable judgements are left out."""
        names = ["judge", *(f"judge_{name}" for name in RUBRICS)]
        return means(names, self.judge, f"{self.model}, five rubrics from 1 to 3")

    def judge(self, rows: Sequence[Scored]) -> list[list[float] | None]:
        """Per row: Σ(s − 1) / 10, then (s − 1) / 2 of each rubric; None if no answer could be read.

        Raises:
            UnreachableError: The server failed for good; earlier judgements are kept.
        """
        requests = [messages_for(row) for row in rows]
        keys = [hashlib.sha256(json.dumps([self.model, asked, SCHEMA]).encode()).hexdigest() for asked in requests]
        missing = {key: asked for key, asked in zip(keys, requests, strict=True) if key not in self.known}
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            list(pool.map(self._judge, missing, missing.values()))  # an error cancels requests not yet started
        judged = [_shares(self.known[key]) if key in self.known else None for key in keys]
        if unread := judged.count(None):
            warning = f"{unread} of {len(judged)} judgements could not be read; they count nowhere"
            reason = next((f": {reason}" for reason, _ in self._unread.most_common(1)), "")
            self.emit(Note(warning + reason, warning=True))
        return judged

    def _judge(self, key: str, messages: list[dict[str, str]]) -> None:
        """Ask, and save the answer at once if it can be read."""
        form = {"type": "json_schema", "json_schema": {"name": "judgement", "strict": True, "schema": SCHEMA}}
        answer, reason = "", "the answer is not five scores from 1 to 3"
        try:
            reply = self.chat.ask(messages, DISPENSABLE, response_format=form, temperature=0, max_tokens=MAX_TOKENS)
            answer = reply.text
        except DataError as error:  # the server rejects this one request, or answers without text
            reason = error.message
        scores = read_scores(answer)
        with self._keeping:
            if scores is None:
                self._unread[reason] += 1
            else:
                self.known[key] = scores
                self.cache.append({"key": key, "model": self.model, "answer": answer})


def _shares(scores: Mapping[str, int]) -> list[float]:
    rubrics = [(score - 1) / 2 for score in scores.values()]
    return [sum(rubrics) / len(rubrics), *rubrics]


def messages_for(row: Scored) -> list[dict[str, str]]:
    """The messages that ask the judge about one headnote."""
    rubrics = "\n".join(f"- {name}: the written headnote {what}" for name, what in RUBRICS.items())
    question = (
        f"Rubrics:\n{rubrics}\n\nOfficial headnote:\n<official>\n{row.reference}\n</official>\n\n"
        f"Written headnote:\n<written>\n{row.headnote}\n</written>\n\n"
        'Answer with a JSON object alone: {"accuracy": {"reason": "…", "score": 1}, …} with all five rubrics.'
    )
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def read_scores(answer: str) -> dict[str, int] | None:
    """The scores in an answer's JSON object, wherever it is; None if a rubric is missing or a score is invalid."""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        judged = json.loads(answer[start : end + 1])
        scores = {name: judged[name]["score"] if isinstance(judged[name], dict) else judged[name] for name in RUBRICS}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    sound = all(isinstance(score, int) and not isinstance(score, bool) and score in LEVELS for score in scores.values())
    return scores if sound else None
