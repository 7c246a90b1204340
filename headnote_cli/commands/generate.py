"""`slds generate`: a decision in, a headnote out, with its citations looked up in the decision."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headnote_cli.citations import citations, unsupported
from headnote_cli.config import Config
from headnote_cli.encoding import Encoder
from headnote_cli.errors import DataError, UnreachableError, UsageError
from headnote_cli.events import Listener, Note
from headnote_cli.language import detect_language
from headnote_cli.prompts import PromptTemplates
from headnote_cli.runs import MANIFEST, PROMPTS, merged_models, read_json, record_of

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
            "citations": {"found": self.found, "unsupported": self.unsupported},
            "language": {"expected": self.lang, "detected": self.detected},
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Decision:
    """A decision to write headnotes for."""

    name: str
    text: str
    language: str | None


def read_decision(path: Path, text: str | None = None) -> Decision:
    """A decision from a text file (UTF-8, or Latin-1 if it is not), or from `text` already read.

    Raises:
        UsageError: There is no such file.
        DataError: It is empty, binary or far too long.
    """
    if text is None:
        try:
            raw = path.read_bytes()
        except FileNotFoundError as error:
            raise UsageError("there is no such file", str(path)) from error
        except OSError as error:
            raise DataError(f"cannot be read: {error}", str(path)) from error
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
        return raw.decode("latin-1")


@dataclass(frozen=True)
class ModelChoice:
    """Which model writes, and how it was trained to be prompted."""

    name: str
    base: str
    adapter: Path | None
    prompts: Path
    max_length: int | None
    overflow: Any
    overflow_field: str
    trained: bool


def choose_model(config: Config, model: str | None) -> ModelChoice:
    """The model that `--model` names, else the newest merged one of the config's run.

    Raises:
        UnreachableError: There is no merged model yet.
    """
    name = model or _newest_merged(config)
    local = config.locate(name)
    folder = local if local is not None and local.is_dir() else None
    manifest: dict[str, Any] = {}
    adapter = None
    base = str(folder) if folder else name
    prompts = config.path_of("prompts_path") if config.settings.prompts_path else None
    if folder is not None:
        manifest = read_json(folder / MANIFEST) or {}
        if (folder / "adapter_config.json").is_file():
            adapter = folder
            manifest = record_of(folder) or {}
            noted = (read_json(folder / "adapter_config.json") or {}).get("base_model_name_or_path")
            base = str(manifest.get("base_model") or noted)
        for candidate in (folder / PROMPTS, folder.parent / PROMPTS):
            if candidate.is_dir() and (adapter is not None or candidate.parent == folder):
                prompts = candidate
                break
    if prompts is None:
        raise UsageError("which prompts?", str(config.path), "set `prompts_path`")
    settings = config.settings
    return ModelChoice(
        name,
        base,
        adapter,
        prompts,
        manifest.get("max_length", settings.max_length),
        manifest.get("overflow", settings.overflow),
        manifest.get("overflow_field", settings.overflow_field),
        bool(manifest),
    )


def _newest_merged(config: Config) -> str:
    newest = next(merged_models(config), None)
    if newest is None:
        raise UnreachableError(
            "there is no merged model of this config's run yet",
            str(config.settings.output_dir),
            f"run `slds train --config {config.path}`, then `slds merge --checkpoint latest --config {config.path}`; "
            "or name a model with --model",
        )
    return str(newest)


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

    from headnote_cli.engine.base import BaseModel, load_tokenizer, model_class_of
    from headnote_cli.engine.generation import Sampling, Writer
    from headnote_cli.engine.loading import this_machine
    from headnote_cli.hardware import resolve

    plan = resolve(config.settings, this_machine())
    named = BaseModel(choice.base, "AutoModelForCausalLM")
    base = BaseModel(choice.base, model_class_of(named))
    tokenizer = load_tokenizer(base, config if not choice.trained else None)
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
    missing = [citation.text for citation in unsupported(written.text, decision.text)]
    return GeneratedHeadnote(
        sample_id=decision.name,
        lang=language,
        headnote=written.text,
        finish_reason=written.finish_reason,
        prompt_tokens=len(encoded.prompt_ids),
        completion_tokens=written.tokens,
        cut=encoded.cut,
        found=[citation.text for citation in citations(written.text) if citation.text not in missing],
        unsupported=missing,
        detected=detect_language(written.text),
        seconds=round(time.monotonic() - started, 3),
    )


def _room(encoder: Encoder) -> int:
    """Tokens of `max_length` to leave for the headnote, whatever the limit on writing: one decision, one prompt."""
    return HEADNOTE_ROOM if encoder.max_length is None else min(HEADNOTE_ROOM, encoder.max_length // 4)
