"""`slds generate` for a whole split, a folder or a file of rows: resumable, row by row, on a model or a server."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headnote_cli.config.layers import Config
from headnote_cli.data.encoding import Encoder
from headnote_cli.data.row_files import Row
from headnote_cli.errors import DataError, SldsError, UsageError, counted
from headnote_cli.events import Listener, Note, RowWritten
from headnote_cli.generation.best import best_of
from headnote_cli.generation.choice import Backend, ModelChoice, announce, backend_of, choose_model, encoder_of
from headnote_cli.generation.headnotes import checked
from headnote_cli.generation.predictions import Key, noted_settings, part_of, settings_of, written_id
from headnote_cli.generation.request import GenerateOptions, HeadnoteRequest, Prompted, prompted, requests_of
from headnote_cli.models.weights import ADAPTER_WEIGHTS, fingerprint, has_weights
from headnote_cli.runs.files import Journal, sha256, write_json
from headnote_cli.runs.folders import set_aside, writing

SHOWN_REASONS = 3


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
    loops: int  # headnotes that repeat themselves
    other_language: int  # in another language than asked for
    cut: int  # whose decision was longer than `max_length`
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"output": str(self.output)}


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
    part, of = options.shard
    requests = requests_of(rows[: options.limit], encoder.overflow_field, options)[part - 1 :: of]
    settings = _settings(choice, encoder, options)
    _require_same(settings, options, emit)
    journal = Journal(part_of(options.output))
    done = _there(Journal(options.output)) | _there(journal)
    todo = [request for request in requests if "headnote" not in done.get(request.key, {})]
    before = len(requests) - len(todo)
    if before:
        emit(Note(f"written before: {before} of {counted(len(requests), 'headnote')}"))
    if todo:
        write_json(settings_of(options.output), settings)
        announce(config, choice, encoder, options.server, emit)
        backend = backend_of(config, choice, encoder, options.server, emit, options.concurrency)
        for line in _written(todo, len(requests), encoder, backend, options, emit):
            done[_key(line)] = line
            journal.append(line)
    lines = [done.pop(request.key) for request in requests]
    if options.choose:
        _choose(lines)
    if todo or journal.path.exists():
        journal.publish(options.output, [*lines, *done.values()])
    if done:
        emit(Note(f"{counted(len(done), 'line')} of other rows or languages kept in {options.output}"))
    _report_reasons([line["error"] for line in lines if "error" in line], emit)
    return _report(options.output, lines, before, time.monotonic() - began)


def _choose(lines: list[dict[str, Any]]) -> None:
    """Note of each candidate whether it is the best of its sample and language."""
    of_sample: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        if "headnote" in line:
            of_sample.setdefault((str(line["sample_id"]), str(line["lang"])), []).append(line)
    for candidates in of_sample.values():
        best = best_of(candidates)
        for place, line in enumerate(candidates):
            line["chosen"] = place == best


def _report(output: Path, lines: list[dict[str, Any]], before: int, seconds: float) -> ManyReport:
    written = [line for line in lines if "error" not in line]
    return ManyReport(
        output=output,
        headnotes=len(written),
        failed=len(lines) - len(written),
        before=before,
        unfinished=sum(line["finish_reason"] == "length" for line in written),
        loops=sum(line["finish_reason"] == "loop" for line in written),
        other_language=sum(line["language"]["detected"] not in (None, line["lang"]) for line in written),
        cut=sum(line["tokens"]["cut"] > 0 for line in written),
        seconds=round(seconds, 3),
    )


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
        "grounded": options.grounded,
        "evidence": options.evidence,
        "choose": options.choose,
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
    changed = _changed(before or {}, settings)
    if before and not changed:
        return
    if not options.force:
        what = (
            f"was begun with other settings: {'; '.join(changed)}"
            if before
            else "exists already, and slds did not begin it"
        )
        hint = "choose another --output, or --force to begin anew (the old one is set aside)"
        raise UsageError(what, str(options.output), hint)
    for old in (options.output, part, settings_of(options.output)):
        if old.exists():
            emit(Note(f"the earlier file now lies in {set_aside(old)}"))


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`max_new_tokens 8 → 9`, for each setting that was noted and is another now; of hashes the names alone."""
    changed = []
    for name, value in now.items():
        old = before.get(name, value)
        if isinstance(value, dict) and isinstance(old, dict):
            changed += _changed(old, value)
        elif old != value:
            is_hash = any(isinstance(text, str) and len(text) == 64 for text in (old, value))
            changed.append(f"another {name}" if is_hash else f"{name} {old} → {value}")
    return changed


def _there(journal: Journal) -> dict[Key, dict[str, Any]]:
    """The lines that a file has, the last one of each request.

    Raises:
        DataError: A line's `candidate` is not a number.
    """
    try:
        return {_key(line): line for line in journal.lines()}
    except (TypeError, ValueError, OverflowError) as error:
        hint = "correct the line or remove it; the same command then writes its headnote again"
        raise DataError(f"a `candidate` is not a whole number: {error}", str(journal.path), hint) from error


def _key(line: dict[str, Any]) -> Key:
    return str(line.get("sample_id")), str(line.get("lang")), int(line.get("candidate") or 1)


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
            prompts.append(prompted(request, encoder))
        except SldsError as error:
            finished += 1
            yield _failure(request, error)
    _sort_by_length(prompts)
    if options.server is not None and prompts:  # where even the shortest is too long, all are
        prompts.insert(0, prompts.pop())
    for asked, result in backend.write((asked.prompt(options.grounded) for asked in prompts), options.sampling):
        finished += 1
        if isinstance(result, Exception):
            line = _failure(asked.request, result)
        else:
            tokens += result.tokens
            line = checked(asked, result, options.likelihoods(backend)).to_json()
        emit(RowWritten(finished, total, total - len(todo), tokens, time.monotonic() - began))
        yield line


def _sort_by_length(prompts: list[Prompted]) -> None:
    """Of like length together, the longest first; those of one decision side by side, so that they share what they
    can."""
    longest: dict[str, int] = {}
    for asked in prompts:
        decision = asked.request.decision
        longest[decision] = max(longest.get(decision, 0), len(asked.encoded.prompt_ids))
    prompts.sort(key=lambda p: (-longest[p.request.decision], p.request.decision, p.encoded.prompt_ids))


def _failure(request: HeadnoteRequest, error: Exception) -> dict[str, Any]:
    """A row that could not be written; the run goes on, and a later start tries it again."""
    name, language, _ = request.key
    message = error.message if isinstance(error, SldsError) else str(error)  # the line itself says where
    failure = {"type": type(error).__name__, "message": message or type(error).__name__}
    if isinstance(error, SldsError) and error.hint:
        failure["hint"] = error.hint
    line = {"sample_id": written_id(request.row, name), "lang": language, "error": failure}
    return line if request.candidate is None else {"candidate": request.candidate} | line


def _report_reasons(failures: list[dict[str, str]], emit: Listener) -> None:
    """Why rows failed, the commonest reasons, each once whatever the numbers in it."""
    alike: dict[str, list[dict[str, str]]] = {}
    for failure in failures:
        alike.setdefault(re.sub(r"\d+", "#", failure["message"]), []).append(failure)
    common = sorted(alike.values(), key=len, reverse=True)
    for some in common[:SHOWN_REASONS]:
        reason = "; ".join(some[0][name] for name in ("message", "hint") if name in some[0])
        emit(Note(f"{counted(len(some), 'row')} failed: {reason}", warning=True))
    if len(common) > SHOWN_REASONS:
        emit(Note(f"{counted(sum(map(len, common[SHOWN_REASONS:])), 'row')} failed for other reasons", warning=True))


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
