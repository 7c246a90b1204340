"""`slds generate`: a decision in, a headnote out, with its citations looked up in the decision."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from headnote_cli.config.layers import Config
from headnote_cli.data.documents import Decision
from headnote_cli.data.encoding import Encoder
from headnote_cli.events import Listener, Note
from headnote_cli.generation.sampling import Headnote, Prompt, Sampling

if TYPE_CHECKING:
    from headnote_cli.generation.endpoint import Server
from headnote_cli.generation.choice import announce, choose_model, encoder_of, load_writer
from headnote_cli.generation.headnotes import GeneratedHeadnote, checked, encoded_prompt


class OneWriter(Protocol):
    """What writes one headnote while somebody waits: a local model, or a server."""

    def write_one(self, prompt: Prompt, sampling: Sampling, emit: Listener) -> Headnote: ...


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What is asked of headnotes beside the config.

    Attributes:
        languages: Of the headnotes, for each decision; none: each row's own `headnote_language`.
        model: What `--model` names; None: the newest model of the config's run.
        candidates: Headnotes for each decision and language, drawn with one seed after the other.
        server: What writes instead of a model here.
        prompts: Templates in place of those that the model was trained with.
    """

    languages: tuple[str, ...] = ()
    model: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    candidates: int = 1
    server: Server | None = None
    prompts: Path | None = None

    def seed_of(self, place: int, number: int) -> int:
        """What a headnote is drawn with: the same for a decision and candidate, in whatever language, wherever written.

        Args:
            place: The decision's or row's place, from 0.
            number: The candidate's, from 0.
        """
        return self.sampling.seed + place * self.candidates + number


def generate(
    config: Config, decisions: list[Decision], emit: Listener, options: GenerateOptions
) -> Iterator[GeneratedHeadnote]:
    """Write headnotes for each decision in each language, one by one.

    Raises:
        UnreachableError: No model, or no server.
        DataError: A decision that does not fit and must not be cut.
    """
    choice = choose_model(config, options.model, options.prompts)
    encoder = encoder_of(config, choice)
    announce(config, choice, encoder, options.server, emit)
    writer: OneWriter = (
        options.server.connect(choice.name, emit) if options.server else load_writer(config, choice, encoder)
    )
    several = len(options.languages) * options.candidates > 1
    for place, decision in enumerate(decisions):
        if decision.note:
            emit(Note(decision.note))
        for language in options.languages:
            for number in range(options.candidates):
                drawn = replace(options.sampling, seed=options.seed_of(place, number))
                written = _one(decision, language, encoder, writer, drawn, emit, several)
                yield replace(written, candidate=number + 1 if options.candidates > 1 else None)


def _one(
    decision: Decision,
    language: str,
    encoder: Encoder,
    writer: OneWriter,
    sampling: Sampling,
    emit: Listener,
    kept: bool,
) -> GeneratedHeadnote:
    started = time.monotonic()
    row = {encoder.overflow_field: decision.text, "decision_language": decision.language, "headnote_language": language}
    encoded = encoded_prompt(row, encoder, decision.name)
    if encoded.cut:
        removed = f"{encoded.cut:,} tokens are removed ({encoder.overflow})"
        emit(Note(f"the decision is longer than `max_length` allows: {removed}", warning=True))
    prompt = Prompt(decision.name, encoded.prompt_ids, encoded.messages(), sampling.seed, kept)
    written = writer.write_one(prompt, sampling, emit)
    headnote = checked(decision.name, language, encoded, written, decision.text, decision.language)
    return replace(headnote, seconds=round(time.monotonic() - started, 3))
