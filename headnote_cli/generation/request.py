"""What is asked for: which headnotes of which rows, and the prompt of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from headnote_cli.data.documents import Decision
from headnote_cli.data.encoding import Encoded, Encoder
from headnote_cli.data.fields import row_fault, year_of_row
from headnote_cli.data.row_files import Row
from headnote_cli.errors import DataError
from headnote_cli.generation.predictions import Key, sample_name
from headnote_cli.generation.sampling import Prompt, Sampling
from headnote_cli.law.citations import Cited, cited_by
from headnote_cli.law.evidence import Likelihoods
from headnote_cli.law.grammar import grammar

if TYPE_CHECKING:
    from headnote_cli.generation.choice import Backend
    from headnote_cli.generation.endpoint import Server

EvidenceBy = Literal["words", "model"]
HEADNOTE_ROOM = 512  # the longest official headnotes have about 700 tokens, nine in ten fewer than 400


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What is asked of headnotes beside the config.

    Attributes:
        languages: Of the headnotes, for each decision; none: each row's own `headnote_language`.
        model: What `--model` names; None: the newest model of the config's run.
        candidates: Headnotes for each decision and language, drawn with one seed after the other.
        choose: Whether the best of the candidates is chosen.
        server: What writes instead of a model here.
        prompts: Templates in place of those that the model was trained with.
        grounded: Whether a headnote may cite only what its decision has.
        evidence: By what each sentence is looked up in the decision.
    """

    languages: tuple[str, ...] = ()
    model: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    candidates: int = 1
    choose: bool = False
    server: Server | None = None
    prompts: Path | None = None
    grounded: bool = False
    evidence: EvidenceBy = "words"

    def likelihoods(self, backend: Backend) -> Likelihoods | None:
        """The model's own, if it is asked for evidence."""
        return backend.gains if self.evidence == "model" else None


@dataclass(frozen=True)
class HeadnoteRequest:
    """One headnote to write.

    Attributes:
        where: The row's place in its file, for messages.
        seed: What it is drawn with: the same for a decision and candidate in whatever language, wherever it is written.
        candidate: Counted from 1, None where there is one alone.
    """

    where: str
    key: Key
    row: Row
    decision: str
    seed: int
    candidate: int | None

    def cited(self) -> Cited:
        """What the decision cites: the whole of it, also what the prompt has no room for."""
        return cited_by(self.decision, self.row.get("decision_language"), year_of_row(self.row))

    def grammar(self) -> str:
        """The grammar of a headnote that cites nothing else."""
        return grammar(self.cited(), self.key[1])


@dataclass(frozen=True)
class Prompted:
    """A request as the model will see it."""

    request: HeadnoteRequest
    encoded: Encoded

    def prompt(self, grounded: bool, kept: bool = False) -> Prompt:
        grammar = self.request.grammar if grounded else None
        return Prompt(self, self.encoded.prompt_ids, self.encoded.messages(), self.request.seed, grammar, kept)


def rows_of(decisions: Iterable[Decision], field: str) -> list[tuple[str, Row]]:
    """Decisions read from files as rows, each with its place."""
    return [
        (decision.name, {"sample_id": decision.name, field: decision.text, "decision_language": decision.language})
        for decision in decisions
    ]


def requests_of(rows: Iterable[tuple[str, Row]], field: str, options: GenerateOptions) -> list[HeadnoteRequest]:
    """The headnotes to write, in the order of the rows.

    Raises:
        DataError: A row without text, language or a unique name.
    """
    requests: dict[Key, HeadnoteRequest] = {}
    for place, (where, row) in enumerate(rows):
        text, own = row.get(field), row.get("headnote_language")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"has no text in `{field}`", where)
        languages = options.languages or ((own,) if isinstance(own, str) else ())
        if not languages:
            raise DataError("has no `headnote_language`", where, "name the languages with --lang")
        name = sample_name(row, place)
        for language, number in itertools.product(languages, range(options.candidates)):
            key = (name, language, number + 1)
            if key in requests:
                raise DataError(f"the sample {name} in {language} appears twice", where)
            seed = options.sampling.seed + place * options.candidates + number
            candidate = number + 1 if options.candidates > 1 else None
            requests[key] = HeadnoteRequest(where, key, {**row, "headnote_language": language}, text, seed, candidate)
    return list(requests.values())


def prompted(request: HeadnoteRequest, encoder: Encoder) -> Prompted:
    """A request with its prompt, which leaves room for the headnote.

    Raises:
        DataError: The row has a fault that training would refuse, too, or does not fit.
    """
    fault = row_fault(request.row, encoder.templates.fields("system", "user"), (), encoder.overflow_field)
    if fault is not None:
        hint = "name it with --from, or in the row" if "`decision_language`" in fault else None
        raise DataError(fault, request.where, hint)
    encoded = encoder.encode_prompt(request.row, room=headnote_room(encoder))
    if encoded is None:
        message = "the decision is longer than `max_length` and `overflow: drop` leaves it out"
        raise DataError(message, request.where)
    return Prompted(request, encoded)


def headnote_room(encoder: Encoder) -> int:
    """Tokens of `max_length` to leave for the headnote, whatever the limit on writing: one decision, one prompt."""
    return HEADNOTE_ROOM if encoder.max_length is None else min(HEADNOTE_ROOM, encoder.max_length // 4)
