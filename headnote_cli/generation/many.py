"""`slds generate` for a whole split, a folder or a file of rows: resumable, row by row, on a model or a server."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from headnote_cli.config.layers import Config
from headnote_cli.data.documents import Decision
from headnote_cli.data.encoding import Encoded, Encoder
from headnote_cli.data.row_files import Row
from headnote_cli.data.sources import located_rows
from headnote_cli.errors import DataError, SldsError, UsageError
from headnote_cli.events import Listener, Note, RowWritten
from headnote_cli.generation.choice import ModelChoice, announce, choose_model, encoder_of, load_writer
from headnote_cli.generation.command import GenerateOptions
from headnote_cli.generation.headnotes import checked, encoded_prompt
from headnote_cli.generation.predictions import Key, noted_settings, part_of, sample_name, settings_of, written_id
from headnote_cli.generation.sampling import Headnote, Prompt, Sampling
from headnote_cli.models.weights import ADAPTER_WEIGHTS, fingerprint, has_weights
from headnote_cli.runs.files import Journal, sha256, write_json
from headnote_cli.runs.folders import set_aside, writing

if TYPE_CHECKING:
    pass


SHOWN_REASONS = 3


@dataclass(frozen=True)
class HeadnoteRequest:
    """One headnote to write. `place` is its row's number; `candidate` counts from 1 where there are several."""

    place: int
    key: Key
    row: Row
    decision: str
    seed: int
    candidate: int | None


@dataclass(frozen=True)
class Prompted:
    """A request as the model will see it."""

    request: HeadnoteRequest
    encoded: Encoded


class Backend(Protocol):
    """What writes: a local model, or a server."""

    def write(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[tuple[Any, Headnote | Exception]]:
        """The headnotes in whatever order they are done, each with its prompt's name; a failure stands in the place of
        its headnote."""
        ...


@dataclass(frozen=True, kw_only=True)
class ManyOptions(GenerateOptions):
    """What is asked of a file of headnotes.

    Attributes:
        shard: This part of so many.
        concurrency: Headnotes at a time; None: as many as the machine does well.
    """

    output: Path
    limit: int | None = None
    shard: tuple[int, int] = (1, 1)
    force: bool = False
    concurrency: int | None = None


@dataclass(frozen=True)
class ManyReport:
    """What a run over many rows came to."""

    output: Path
    headnotes: int
    failed: int
    before: int  # of them there from an earlier start
    unfinished: int  # headnotes that the token limit cut off
    other_language: int  # in another language than asked for
    cut: int  # whose decision was longer than `max_length`
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"output": str(self.output)}


def rows_of(config: Config, split: str | None, file: Path | None, decisions: list[Decision]) -> list[tuple[str, Row]]:
    """The rows to write for, each with its place, from a split, a file of rows, or decisions read from files.

    Raises:
        DataError: A row cannot be read.
    """
    if file is not None or split is not None:
        return list(located_rows(config, str(split), file))
    field = config.settings.overflow_field
    return [
        (one.name, {"sample_id": one.name, field: one.text, "decision_language": one.language}) for one in decisions
    ]


def generate_many(config: Config, rows: list[tuple[str, Row]], emit: Listener, options: ManyOptions) -> ManyReport:
    """Write a headnote for each row, or finish what an earlier start left.

    Each finished row is flushed to `OUTPUT.part`; when all are there, they go into `OUTPUT` in the order of the rows.

    Raises:
        UsageError: An earlier start had another model or other settings, or another process is writing the file.
        DataError: Rows name no language or the same sample twice.
        UnreachableError: No model, or no server.
    """
    with writing(options.output):
        return _generate_many(config, rows, emit, options)


def _generate_many(config: Config, rows: list[tuple[str, Row]], emit: Listener, options: ManyOptions) -> ManyReport:
    began = time.monotonic()
    choice = choose_model(config, options.model, options.prompts)
    encoder = encoder_of(config, choice)
    requests = _requests(rows, encoder.overflow_field, options)
    settings = _settings(choice, encoder, options)
    _require_same(settings, options, emit)
    journal = Journal(part_of(options.output))
    done = _there(Journal(options.output)) | _there(journal)
    todo = [request for request in requests if "headnote" not in done.get(request.key, {})]
    before = len(requests) - len(todo)
    if before:
        emit(Note(f"{before} of {len(requests)} headnotes are there already"))
    if todo:
        write_json(settings_of(options.output), settings)
        announce(config, choice, encoder, options.server, emit)
        backend = _backend(config, choice, encoder, options, emit)
        for line in _written(todo, len(requests), encoder, backend, options, emit):
            done[_key(line)] = line
            journal.append(line)
    lines = [done.pop(request.key) for request in requests]
    if todo or journal.path.exists():
        journal.publish(options.output, [*lines, *done.values()])
    if done:
        emit(Note(f"{len(done)} lines of other rows or languages stay in {options.output}"))
    _tell_reasons([line["error"] for line in lines if "error" in line], emit)
    return _report(options.output, lines, before, time.monotonic() - began)


def _report(output: Path, lines: list[dict[str, Any]], before: int, seconds: float) -> ManyReport:
    written = [line for line in lines if "error" not in line]
    return ManyReport(
        output=output,
        headnotes=len(written),
        failed=len(lines) - len(written),
        before=before,
        unfinished=sum(line["finish_reason"] == "length" for line in written),
        other_language=sum(line["language"]["detected"] not in (None, line["lang"]) for line in written),
        cut=sum(line["tokens"]["cut"] > 0 for line in written),
        seconds=round(seconds, 3),
    )


def _requests(rows: list[tuple[str, Row]], field: str, options: ManyOptions) -> list[HeadnoteRequest]:
    """What is to be written, in the order of the rows.

    Raises:
        DataError: A row without text, language or a name of its own.
    """
    requests: dict[Key, HeadnoteRequest] = {}
    for place, (where, row) in enumerate(itertools.islice(rows, options.limit)):
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
                raise DataError(f"the sample {name} in {language} stands there twice", where)
            asked = {**row, "headnote_language": language}
            candidate = number + 1 if options.candidates > 1 else None
            requests[key] = HeadnoteRequest(place, key, asked, text, options.seed_of(place, number), candidate)
    part, of = options.shard
    return list(requests.values())[part - 1 :: of]


def _settings(choice: ModelChoice, encoder: Encoder, options: ManyOptions) -> dict[str, Any]:
    """All that decides what is written: a file of headnotes is of one model and one way of writing."""
    base = Path(choice.base)
    adapter = choice.adapter / ADAPTER_WEIGHTS if choice.adapter else None
    return {
        "model": choice.name,
        "weights": fingerprint(base) if has_weights(base) else None,
        "adapter": sha256(adapter) if adapter and adapter.is_file() else None,
        "prompt": encoder.fingerprint(),
        "prompting": {
            "templates": encoder.templates.hashes(),
            "max_length": encoder.max_length,
            "overflow": encoder.overflow,
        },
        "sampling": asdict(options.sampling),
        "candidates": options.candidates,
        "shard": list(options.shard),
        "served_model": (options.server.model or choice.name) if options.server else None,
    }


def _require_same(settings: dict[str, Any], options: ManyOptions, emit: Listener) -> None:
    """
    Raises:
        UsageError: The output was begun with other settings, or by another tool.
    """
    part = part_of(options.output)
    if not options.output.exists() and not part.exists():
        return
    before = noted_settings(options.output)
    changed = sorted(name for name in settings if before and before.get(name, settings[name]) != settings[name])
    if before and not changed:
        return
    if not options.force:
        what = f"was begun with another {', '.join(changed)}" if before else "exists already, and slds did not begin it"
        hint = "choose another --output, or --force to begin anew (the old one is set aside)"
        raise UsageError(what, str(options.output), hint)
    for old in (options.output, part, settings_of(options.output)):
        if old.exists():
            emit(Note(f"the earlier file now lies in {set_aside(old)}"))


def _there(journal: Journal) -> dict[Key, dict[str, Any]]:
    """The lines that a file has, the last one of each request.

    Raises:
        DataError: A line's `candidate` is no number.
    """
    try:
        return {_key(line): line for line in journal.lines()}
    except (TypeError, ValueError, OverflowError) as error:
        hint = "correct the line or remove it; the same command then writes its headnote again"
        raise DataError(f"a `candidate` is no whole number: {error}", str(journal.path), hint) from error


def _key(line: dict[str, Any]) -> Key:
    return str(line.get("sample_id")), str(line.get("lang")), int(line.get("candidate") or 1)


def _backend(config: Config, choice: ModelChoice, encoder: Encoder, options: ManyOptions, emit: Listener) -> Backend:
    if options.server is not None:
        return options.server.connect(choice.name, emit, options.concurrency)
    from headnote_cli.generation.writer import BatchWriter

    return BatchWriter(load_writer(config, choice, encoder), options.concurrency)


def _written(
    todo: list[HeadnoteRequest], total: int, encoder: Encoder, backend: Backend, options: ManyOptions, emit: Listener
) -> Iterator[dict[str, Any]]:
    """One line for each request, as they get done.

    Raises:
        SldsError: A server fails for a reason that all requests share.
    """
    prompts: list[Prompted] = []
    finished, tokens, began = total - len(todo), 0, time.monotonic()
    for request in todo:
        try:
            prompts.append(Prompted(request, encoded_prompt(request.row, encoder)))
        except SldsError as error:
            finished += 1
            yield _failure(request, error)
    longest: dict[str, int] = {}
    for one in prompts:
        longest[one.request.decision] = max(longest.get(one.request.decision, 0), len(one.encoded.prompt_ids))
    # Of like length together, the longest first; those of one decision side by side, so that they share what they can.
    prompts.sort(key=lambda one: (-longest[one.request.decision], one.request.decision, one.encoded.prompt_ids))
    if options.server is not None and prompts:  # where even the shortest is too long, all are
        prompts.insert(0, prompts.pop())
    asked = (Prompt(one, one.encoded.prompt_ids, one.encoded.messages(), one.request.seed) for one in prompts)
    for prompted, result in backend.write(asked, options.sampling):
        finished += 1
        if isinstance(result, Exception):
            line = _failure(prompted.request, result)
        else:
            tokens += result.tokens
            line = _line(prompted, result)
        emit(RowWritten(finished, total, total - len(todo), tokens, time.monotonic() - began))
        yield line


def _line(prompted: Prompted, headnote: Headnote) -> dict[str, Any]:
    request = prompted.request
    name, language, _ = request.key
    own = request.row.get("decision_language")
    sample_id = written_id(request.row, name)
    written = checked(sample_id, language, prompted.encoded, headnote, request.decision, own)
    return replace(written, candidate=request.candidate).to_json()


def _failure(request: HeadnoteRequest, error: Exception) -> dict[str, Any]:
    """A row that could not be written; the run goes on, and a later start tries it again."""
    name, language, _ = request.key
    message = error.message if isinstance(error, SldsError) else str(error)  # the line itself says where
    told = {"type": type(error).__name__, "message": message or type(error).__name__}
    if isinstance(error, SldsError) and error.hint:
        told["hint"] = error.hint
    line = {"sample_id": written_id(request.row, name), "lang": language, "error": told}
    return line if request.candidate is None else {"candidate": request.candidate} | line


def _tell_reasons(failures: list[dict[str, str]], emit: Listener) -> None:
    """Why rows failed, the commonest reasons, each once whatever the numbers in it."""
    alike: dict[str, list[dict[str, str]]] = {}
    for failure in failures:
        alike.setdefault(re.sub(r"\d+", "#", failure["message"]), []).append(failure)
    common = sorted(alike.values(), key=len, reverse=True)
    for some in common[:SHOWN_REASONS]:
        reason = "; ".join(some[0][name] for name in ("message", "hint") if name in some[0])
        emit(Note(f"{len(some):,} {'row' if len(some) == 1 else 'rows'} failed: {reason}", warning=True))
    if len(common) > SHOWN_REASONS:
        emit(Note(f"{sum(map(len, common[SHOWN_REASONS:])):,} rows failed for other reasons", warning=True))


def read_shard(text: str | None, output: Path) -> tuple[tuple[int, int], Path]:
    """`2/4` → the part and a file name of its own; without one, the launcher's rank.

    Raises:
        UsageError: It is no such part.
    """
    if text is None:
        processes = int(os.environ.get("WORLD_SIZE", "1") or 1)
        if processes <= 1:
            return (1, 1), output
        text = f"{int(os.environ.get('RANK', '0')) + 1}/{processes}"
    part, slash, of = text.partition("/")
    if not (slash and part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of)):
        raise UsageError(f"--shard {text}: write a part of all, such as 1/4")
    return (int(part), int(of)), output.with_name(f"{output.stem}.{part}-of-{of}{output.suffix}")
