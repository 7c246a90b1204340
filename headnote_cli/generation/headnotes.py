"""A decision's prompt, and a headnote with what was checked about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headnote_cli.data.encoding import Encoded, Encoder
from headnote_cli.data.fields import row_fault
from headnote_cli.data.row_files import Row
from headnote_cli.errors import DataError
from headnote_cli.generation.sampling import Headnote
from headnote_cli.law.citations import Status, check
from headnote_cli.law.language import detect_language

if TYPE_CHECKING:
    pass

HEADNOTE_ROOM = 512  # the longest official headnotes have about 700 tokens, nine in ten fewer than 400


@dataclass(frozen=True)
class GeneratedHeadnote:
    """A headnote and what was checked about it."""

    sample_id: Any
    lang: str
    headnote: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cut: int
    found: list[str]
    partly: list[str]
    unsupported: list[str]
    detected: str | None
    seconds: float | None = None
    candidate: int | None = None  # counted from 1, where there are several

    def to_json(self) -> dict[str, Any]:
        numbered = {} if self.candidate is None else {"candidate": self.candidate}
        timed = {} if self.seconds is None else {"seconds": self.seconds}
        told = {
            "sample_id": self.sample_id,
            "lang": self.lang,
            "headnote": self.headnote,
            "finish_reason": self.finish_reason,
            "tokens": {"prompt": self.prompt_tokens, "completion": self.completion_tokens, "cut": self.cut},
            "citations": {"found": self.found, "partly": self.partly, "unsupported": self.unsupported},
            "language": {"expected": self.lang, "detected": self.detected},
        }
        return numbered | told | timed


def encoded_prompt(row: Row, encoder: Encoder, where: str | None = None) -> Encoded:
    """The prompt of a row, with room for the headnote.

    Raises:
        DataError: It has a fault that training would refuse, too, or does not fit.
    """
    fault = row_fault(row, encoder.templates.fields("system", "user"), (), encoder.overflow_field)
    if fault is not None:
        hint = "name it with --from, or in the row" if "`decision_language`" in fault else None
        raise DataError(fault, where, hint)
    encoded = encoder.encode_prompt(row, room=headnote_room(encoder))
    if encoded is None:
        raise DataError("the decision is longer than `max_length` and `overflow: drop` leaves it out", where)
    return encoded


def checked(
    sample_id: Any, language: str, encoded: Encoded, written: Headnote, decision: str, decision_language: str | None
) -> GeneratedHeadnote:
    """A headnote with its citations looked up in the decision, and its language."""
    cited: dict[Status, list[str]] = {"found": [], "partly": [], "missing": []}
    for one in check(written.text, decision, language, decision_language):
        cited[one.status].append(one.citation.text)
    return GeneratedHeadnote(
        sample_id=sample_id,
        lang=language,
        headnote=written.text,
        finish_reason=written.finish_reason,
        prompt_tokens=len(encoded.prompt_ids),
        completion_tokens=written.tokens,
        cut=encoded.cut,
        found=cited["found"],
        partly=cited["partly"],
        unsupported=cited["missing"],
        detected=detect_language(written.text),
    )


def headnote_room(encoder: Encoder) -> int:
    """Tokens of `max_length` to leave for the headnote, whatever the limit on writing: one decision, one prompt."""
    return HEADNOTE_ROOM if encoder.max_length is None else min(HEADNOTE_ROOM, encoder.max_length // 4)
