"""`slds generate`: a decision in, a headnote out, with its citations looked up in the decision."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headnote_cli.citations import Status, check
from headnote_cli.config import Config, Overflow
from headnote_cli.encoding import Encoder
from headnote_cli.errors import DataError, UnreachableError, UsageError
from headnote_cli.events import Listener, Note
from headnote_cli.language import detect_language
from headnote_cli.prompts import PromptTemplates
from headnote_cli.runs import (
    MERGED,
    PROMPTS,
    is_adapter,
    merged_models,
    newest_whole,
    noted_base,
    output_dir,
    read_json,
    record_of,
)

MAX_CHARACTERS = 5_000_000  # the longest real decision has about 0.5 million

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
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "sample_id": self.sample_id,
            "lang": self.lang,
            "headnote": self.headnote,
            "finish_reason": self.finish_reason,
            "tokens": {"prompt": self.prompt_tokens, "completion": self.completion_tokens, "cut": self.cut},
            "citations": {"found": self.found, "partly": self.partly, "unsupported": self.unsupported},
            "language": {"expected": self.lang, "detected": self.detected},
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Decision:
    """A decision to write headnotes for."""

    name: str
    text: str
    language: str | None


def read_decision(path: Path, raw: bytes | None = None) -> Decision:
    """A decision from a text file (UTF-8, or Windows-1252 if it is not), or from bytes already read.

    Raises:
        UsageError: There is no such file.
        DataError: It is empty, binary or far too long.
    """
    if raw is None:
        try:
            raw = path.read_bytes()
        except FileNotFoundError as error:
            raise UsageError("there is no such file", str(path)) from error
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", str(path)) from error
    text = _decoded(raw, path)
    if not text.strip():
        raise DataError("the decision is empty", str(path))
    if len(text) > MAX_CHARACTERS:
        raise DataError(f"{len(text):,} characters are no decision", str(path))
    return Decision(path.stem if str(path) != "-" else "-", text.strip(), detect_language(text))


def _decoded(raw: bytes, path: Path) -> str:
    if b"\0" in raw[:8192] or raw[:5] == b"%PDF-":
        raise DataError("is not a text file", str(path), "save the decision as plain text first")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


@dataclass(frozen=True)
class ModelChoice:
    """Which model writes, and how it was trained to be prompted."""

    name: str
    base: str  # folder or hub id of the weights
    adapter: Path | None  # a checkpoint to put on them
    tokenizer: str  # folder or hub id; a checkpoint keeps the tokenizer and chat template that it was trained with
    prompts: Path
    max_length: int | None
    overflow: Overflow
    overflow_field: str
    trained: bool  # by slds, so that its own record decides


def choose_model(config: Config, model: str | None) -> ModelChoice:
    """The model that `--model` names, else the newest one of the config's run that needs no adapter.

    Raises:
        UnreachableError: There is no such model yet.
    """
    name = model or str(_newest_whole_model(config))
    local = config.locate(name)
    folder = local if local is not None and local.is_dir() else None
    record = _record_beside(folder) if folder else {}
    adapter = folder if folder and is_adapter(folder) else None
    base = str(folder) if folder else name
    if adapter is not None:
        named = str(record.get("base_model") or noted_base(adapter))
        base = str(config.locate(named) or named)
    own_tokenizer = folder is not None and (folder / "tokenizer_config.json").is_file()
    settings = config.settings
    return ModelChoice(
        name,
        base,
        adapter,
        str(folder) if own_tokenizer else base,
        _prompts_beside(folder) if record and folder else config.path_of("prompts_path"),
        record.get("max_length", settings.max_length),
        record.get("overflow", settings.overflow),
        record.get("overflow_field", settings.overflow_field),
        bool(record),
    )


def _record_beside(folder: Path) -> dict[str, Any]:
    """How a merged model, or the run of a checkpoint, wants to be prompted."""
    manifest = read_json(folder / MERGED) or {}
    return manifest if "max_length" in manifest else record_of(folder) or {}


def _prompts_beside(folder: Path) -> Path:
    """The templates kept with a merged model, or with the run of a checkpoint.

    Raises:
        DataError: They are gone.
    """
    for candidate in (folder / PROMPTS, folder.parent / PROMPTS):
        if candidate.is_dir():
            return candidate
    raise DataError("the prompts that the model was trained with are gone", str(folder / PROMPTS))


def _newest_whole_model(config: Config) -> Path:
    newest = next(merged_models(config), None)
    if newest is not None:
        return newest
    if config.settings.output_dir and not config.settings.use_peft:  # full fine-tuning: checkpoints are models
        whole = newest_whole(output_dir(config))
        if whole is not None:
            return whole.path
    merge = f", then `slds merge --checkpoint latest --config {config.path}`" if config.settings.use_peft else ""
    raise UnreachableError(
        "there is no finished model of this config's run yet",
        str(config.settings.output_dir),
        f"run `slds train --config {config.path}`{merge}; or name a model with --model",
    )


def generate(
    config: Config,
    decisions: list[Decision],
    languages: list[str],
    emit: Listener,
    model: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int = 42,
) -> Iterator[GeneratedHeadnote]:
    """Write a headnote for each decision in each language, one by one.

    Raises:
        UnreachableError: No model.
        DataError: A decision that does not fit and must not be cut.
    """
    choice = choose_model(config, model)
    emit(Note(f"model: {choice.name}" + ("" if choice.trained else " (not trained by slds)")))

    from headnote_cli.engine.base import base_of, load_model_config, load_tokenizer
    from headnote_cli.engine.generation import Sampling, Writer
    from headnote_cli.engine.loading import this_machine
    from headnote_cli.hardware import resolve

    base = base_of(choice.base)
    plan = resolve(config.settings, this_machine(), load_model_config(base).model_type)
    tokenizer = load_tokenizer(replace(base, name=choice.tokenizer), config if not choice.trained else None)
    encoder = Encoder(
        tokenizer, PromptTemplates(choice.prompts), choice.max_length, choice.overflow, choice.overflow_field
    )
    writer = Writer(base, choice.adapter, tokenizer, plan, encoder.turn_end_id())
    sampling = Sampling(max_new_tokens, temperature, repetition_penalty=repetition_penalty, seed=seed)
    for decision in decisions:
        for language in languages:
            yield _one(decision, language, encoder, writer, sampling, emit)


def _one(
    decision: Decision, language: str, encoder: Encoder, writer: Any, sampling: Any, emit: Listener
) -> GeneratedHeadnote:
    started = time.monotonic()
    row = {encoder.overflow_field: decision.text, "decision_language": decision.language, "headnote_language": language}
    encoded = encoder.encode_prompt(row, room=_room(encoder))
    if encoded is None:
        raise DataError("the decision is longer than `max_length` and `overflow: drop` leaves it out", decision.name)
    if encoded.cut:
        gave_way = f"{encoded.cut:,} tokens gave way ({encoder.overflow})"
        emit(Note(f"the decision is longer than `max_length` allows: {gave_way}", warning=True))
    written = writer.write(encoded.prompt_ids, sampling, emit)
    cited: dict[Status, list[str]] = {"found": [], "partly": [], "missing": []}
    for checked in check(written.text, decision.text, language, decision.language):
        cited[checked.status].append(checked.citation.text)
    return GeneratedHeadnote(
        sample_id=decision.name,
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
        seconds=round(time.monotonic() - started, 3),
    )


def _room(encoder: Encoder) -> int:
    """Tokens of `max_length` to leave for the headnote, whatever the limit on writing: one decision, one prompt."""
    return HEADNOTE_ROOM if encoder.max_length is None else min(HEADNOTE_ROOM, encoder.max_length // 4)
