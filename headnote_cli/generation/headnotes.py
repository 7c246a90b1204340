"""A headnote with what was checked about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headnote_cli.data.fields import year_of_row
from headnote_cli.generation.doubt import Doubt
from headnote_cli.generation.predictions import written_id
from headnote_cli.generation.request import Prompted
from headnote_cli.generation.sampling import Headnote
from headnote_cli.law.citations import Status, check
from headnote_cli.law.evidence import Evidence, Likelihoods, evidence
from headnote_cli.law.language import detect_language


@dataclass(frozen=True)
class GeneratedHeadnote:
    """A headnote and what was checked about it."""

    sample_id: str | int
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
    evidence: list[Evidence]
    candidate: int | None = None  # counted from 1, where there are several
    doubt: Doubt | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        numbered = {} if self.candidate is None else {"candidate": self.candidate}
        timed = {} if self.seconds is None else {"seconds": self.seconds}
        checked = {
            "sample_id": self.sample_id,
            "lang": self.lang,
            "headnote": self.headnote,
            "finish_reason": self.finish_reason,
            "tokens": {"prompt": self.prompt_tokens, "completion": self.completion_tokens, "cut": self.cut},
            "citations": {"found": self.found, "partly": self.partly, "unsupported": self.unsupported},
            "language": {"expected": self.lang, "detected": self.detected},
            "evidence": [one.to_json() for one in self.evidence],
        }
        doubt = {} if self.doubt is None else {"doubt": self.doubt.to_json()}
        return numbered | checked | doubt | timed


def checked(
    prompted: Prompted, written: Headnote, likelihoods: Likelihoods | None = None, seconds: float | None = None
) -> GeneratedHeadnote:
    """A headnote with its citations and sentences looked up in the decision, and its language.

    Args:
        likelihoods: A model that is asked for evidence, too.
    """
    request = prompted.request
    name, language, _ = request.key
    cited: dict[Status, list[str]] = {"found": [], "partly": [], "missing": []}
    own, year = request.row.get("decision_language"), year_of_row(request.row)
    for looked_up in check(written.text, request.decision, language, own, year):
        cited[looked_up.status].append(looked_up.citation.text)
    return GeneratedHeadnote(
        sample_id=written_id(request.row, name),
        lang=language,
        headnote=written.text,
        finish_reason=written.finish_reason,
        prompt_tokens=len(prompted.encoded.prompt_ids),
        completion_tokens=written.tokens,
        cut=prompted.encoded.cut,
        found=cited["found"],
        partly=cited["partly"],
        unsupported=cited["missing"],
        detected=detect_language(written.text),
        evidence=evidence(written.text, language, request.cited(), likelihoods),
        candidate=request.candidate,
        doubt=written.doubt,
        seconds=seconds,
    )
