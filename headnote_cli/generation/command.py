"""`slds generate`: a decision in, a headnote out, with its citations looked up in the decision."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from headnote_cli.config.keys import Overflow
from headnote_cli.config.layers import Config
from headnote_cli.data.documents import Decision
from headnote_cli.data.encoding import Encoded, Encoder
from headnote_cli.data.prompts import PromptTemplates
from headnote_cli.data.row_files import Row
from headnote_cli.data.sources import row_fault
from headnote_cli.errors import DataError, UnreachableError
from headnote_cli.events import Listener, Note
from headnote_cli.generation.sampling import Headnote, Prompt, Sampling
from headnote_cli.law.citations import Status, check
from headnote_cli.law.language import detect_language
from headnote_cli.machine.plan import Quantization
from headnote_cli.models.adapter_base import base_of_adapter
from headnote_cli.models.quantization import noted_quantization
from headnote_cli.runs.files import read_json
from headnote_cli.runs.folders import MERGED, PROMPTS, is_adapter, merged_models, newest_whole, output_dir, record_of

if TYPE_CHECKING:
    from headnote_cli.generation.endpoint import Server
    from headnote_cli.generation.writer import Writer


class OneWriter(Protocol):
    """What writes one headnote while somebody waits: a local model, or a server."""

    def write_one(self, prompt: Prompt, sampling: Sampling, emit: Listener) -> Headnote: ...


HEADNOTE_ROOM = 512  # the longest official headnotes have about 700 tokens, nine in ten fewer than 400


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
    quantization: Quantization | None = None  # of the base, as the checkpoint was trained on it


def choose_model(config: Config, model: str | None, prompts: Path | None = None) -> ModelChoice:
    """The model that `--model` names, else the newest one of the config's run that needs no adapter.

    Args:
        prompts: Templates in place of its own.

    Raises:
        UnreachableError: There is no such model yet.
    """
    name = model or str(_newest_whole_model(config))
    local = config.locate(name)
    folder = local if local is not None and local.is_dir() else None
    record = _record_beside(folder) if folder else {}
    adapter = folder if folder and is_adapter(folder) else None
    base = str(folder) if folder else name
    quantization = None
    if adapter is not None:
        found = base_of_adapter(config, adapter, record)
        base, quantization = found.name, noted_quantization(record)
    own_tokenizer = folder is not None and (folder / "tokenizer_config.json").is_file()
    settings = config.settings
    return ModelChoice(
        name,
        base,
        adapter,
        str(folder) if own_tokenizer else base,
        prompts or (_prompts_beside(folder) if record and folder else config.path_of("prompts_path")),
        record.get("max_length", settings.max_length),
        record.get("overflow", settings.overflow),
        record.get("overflow_field", settings.overflow_field),
        bool(record),
        quantization,
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


def announce(config: Config, choice: ModelChoice, encoder: Encoder, server: Server | None, emit: Listener) -> None:
    """Which model writes, and where its prompts are others than the config's."""
    if server is not None:
        emit(Note(f"model: {server.model or choice.name} at {server.address}"))
    else:
        emit(Note(f"model: {choice.name}" + ("" if choice.trained else " (not trained by slds)")))
        for note in encoder.notes:  # a server has its own chat template
            emit(Note(note))
    if (differing := _other_prompts(config, choice)) is not None:
        emit(Note(differing, warning=True))


def encoder_of(config: Config, choice: ModelChoice) -> Encoder:
    """The encoder that the model was trained with."""
    from headnote_cli.models.base import BaseModel, load_tokenizer

    named = BaseModel(choice.tokenizer, config.settings.model_class)
    tokenizer = load_tokenizer(named, config if not choice.trained else None)
    templates = PromptTemplates(choice.prompts)
    return Encoder(tokenizer, templates, choice.max_length, choice.overflow, choice.overflow_field)


def load_writer(config: Config, choice: ModelChoice, encoder: Encoder) -> Writer:
    """The model itself, as this machine can run it."""
    from headnote_cli.generation.writer import Writer
    from headnote_cli.machine.plan import resolve
    from headnote_cli.models.base import base_of, load_model_config
    from headnote_cli.models.loading import this_machine

    base = base_of(choice.base)
    plan = resolve(config.settings, this_machine(), load_model_config(base).model_type)
    tokenizer: Any = encoder.tokenizer
    return Writer(base, choice.adapter, tokenizer, plan, encoder.turn_end_id(), choice.quantization)


def _other_prompts(config: Config, choice: ModelChoice) -> str | None:
    """How the config's templates differ from those that the model was trained with, which decide."""
    if not choice.trained or not config.settings.prompts_path:
        return None
    own = config.path_of("prompts_path")
    kept, now = PromptTemplates(choice.prompts).hashes(), PromptTemplates(own).hashes()
    differing = sorted(name for name in {*kept, *now} if kept.get(name) != now.get(name))
    if not differing:
        return None
    files = ", ".join(f"{name}.jinja" for name in differing)
    return f"{files} in {own} differs from the prompts of training, which are used: {choice.prompts}"


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
