"""`slds generate`: a decision in, a headnote out, with its citations looked up in the decision."""

from __future__ import annotations

import time
from collections.abc import Iterator

from headnote_cli.config.layers import Config
from headnote_cli.data.documents import Decision
from headnote_cli.errors import counted
from headnote_cli.events import Listener, Note, TextWritten, ignore
from headnote_cli.generation.best import best_of
from headnote_cli.generation.choice import announce, backend_of, choose_model, encoder_of
from headnote_cli.generation.headnotes import GeneratedHeadnote, checked
from headnote_cli.generation.request import GenerateOptions, prompted, requests_of, rows_of


def generate(
    config: Config, decisions: list[Decision], emit: Listener, options: GenerateOptions
) -> Iterator[GeneratedHeadnote]:
    """Write headnotes for each decision in each language, one by one, with the text of each as it is written.

    Raises:
        UnreachableError: No model, or no server.
        DataError: A decision that does not fit and must not be cut.
    """
    choice = choose_model(config, options.model, options.prompts)
    encoder = encoder_of(config, choice)
    requests = requests_of(rows_of(decisions, encoder.overflow_field), encoder.overflow_field, options)
    announce(config, choice, encoder, options.server, emit)
    backend = backend_of(config, choice, encoder, options.server, emit)
    notes = {decision.name: decision.note for decision in decisions}
    group: list[GeneratedHeadnote] = []
    for request in requests:
        if note := notes.pop(request.where, None):
            emit(Note(note))
        started = time.monotonic()
        asked = prompted(request, encoder)
        if asked.encoded.cut:
            removed = f"{counted(asked.encoded.cut, 'token')} removed ({encoder.overflow})"
            emit(Note(f"the decision is longer than `max_length` allows: {removed}", warning=True))
        written = backend.write_one(
            asked.prompt(options.grounded, kept=len(requests) > 1),
            options.sampling,
            ignore if options.choose else emit,
        )
        headnote = checked(asked, written, options.likelihoods(backend), seconds=round(time.monotonic() - started, 3))
        if not options.choose:
            yield headnote
            continue
        group.append(headnote)
        if len(group) == options.candidates:
            place = best_of([candidate.to_json() for candidate in group])
            emit(Note(f"chosen: candidate {place + 1} of {len(group)}"))
            emit(TextWritten(group[place].headnote))
            yield group[place]
            group = []
