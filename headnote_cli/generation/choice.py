"""Which model writes, how it was trained to be prompted, and the model itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from headnote_cli.config.keys import Overflow
from headnote_cli.config.layers import Config
from headnote_cli.data.encoding import Encoder
from headnote_cli.data.prompts import PromptTemplates
from headnote_cli.errors import DataError, UnreachableError
from headnote_cli.events import Listener, Note
from headnote_cli.generation.sampling import Headnote, Prompt, Sampling
from headnote_cli.law.evidence import Likelihoods
from headnote_cli.machine.plan import Quantization
from headnote_cli.models.adapter_base import base_of_adapter, noted_quantization
from headnote_cli.runs.files import read_json
from headnote_cli.runs.folders import MERGED, PROMPTS, Run, is_adapter, merged_models, output_dir, record_of

if TYPE_CHECKING:
    from headnote_cli.generation.endpoint import Server


class Backend(Protocol):
    """What writes: a local model, or a server."""

    def write(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[tuple[Any, Headnote | Exception]]:
        """The headnotes in whatever order they are done, each with its prompt's name; a failure stands in the place of
        its headnote."""
        ...

    def write_one(self, prompt: Prompt, sampling: Sampling, emit: Listener) -> Headnote:
        """One headnote, its text reported as it is written."""
        ...

    @property
    def gains(self) -> Likelihoods | None:
        """How much likelier each sentence of a headnote is behind each passage; None where nobody can say."""
        ...


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
    record = record_beside(folder) if folder else {}
    adapter = folder if folder and is_adapter(folder) else None
    base = str(folder) if folder else name
    quantization = None
    if adapter is not None:
        adapter_base = base_of_adapter(config, adapter, record)
        base, quantization = adapter_base.name, noted_quantization(record)
    own_tokenizer = folder is not None and (folder / "tokenizer_config.json").is_file()
    settings = config.settings
    return ModelChoice(
        name,
        base,
        adapter,
        str(folder) if own_tokenizer else base,
        prompts or (prompts_beside(folder) if record and folder else config.path_of("prompts_path")),
        record.get("max_length", settings.max_length),
        record.get("overflow", settings.overflow),
        record.get("overflow_field", settings.overflow_field),
        bool(record),
        quantization,
    )


def record_beside(folder: Path) -> dict[str, Any]:
    """How a merged model, or the run of a checkpoint, wants to be prompted."""
    manifest = read_json(folder / MERGED) or {}
    return manifest if "max_length" in manifest else record_of(folder) or {}


def prompts_beside(folder: Path) -> Path:
    """The templates kept with a merged model, or with the run of a checkpoint.

    Raises:
        DataError: They are gone.
    """
    for candidate in (folder / PROMPTS, folder.parent / PROMPTS):
        if candidate.is_dir():
            return candidate
    raise DataError("the prompts that the model was trained with are missing", str(folder / PROMPTS))


def _newest_whole_model(config: Config) -> Path:
    newest = next(merged_models(config), None)
    if newest is not None:
        return newest
    if config.settings.output_dir and not config.settings.use_peft:  # full fine-tuning: checkpoints are models
        whole = Run(output_dir(config)).newest_whole()
        if whole is not None:
            return whole.path
    merge = f", then `slds merge --checkpoint latest --config {config.path}`" if config.settings.use_peft else ""
    raise UnreachableError(
        "there is no finished model of this config's run yet",
        str(config.settings.output_dir),
        f"run `slds train --config {config.path}`{merge}; or name a model with --model",
    )


def announce(config: Config, choice: ModelChoice, encoder: Encoder, server: Server | None, emit: Listener) -> None:
    """Which model writes, and where its prompts are others than the config's."""
    if server is not None:
        emit(Note(f"model: {server.model or choice.name} at {server.address}"))
    else:
        emit(Note(f"model: {choice.name}" + ("" if choice.trained else " (not trained by slds)")))
        for note in encoder.notes:  # a server has its own chat template
            emit(Note(note))
    if (differing := other_prompts(config, choice)) is not None:
        emit(Note(differing, warning=True))


def encoder_of(config: Config, choice: ModelChoice) -> Encoder:
    """The encoder that the model was trained with."""
    from headnote_cli.models.base import BaseModel, load_tokenizer

    named = BaseModel(choice.tokenizer, config.settings.model_class)
    tokenizer = load_tokenizer(named, config if not choice.trained else None)
    templates = PromptTemplates(choice.prompts)
    return Encoder(tokenizer, templates, choice.max_length, choice.overflow, choice.overflow_field)


def backend_of(
    config: Config,
    choice: ModelChoice,
    encoder: Encoder,
    server: Server | None,
    emit: Listener,
    concurrency: int | None = None,
) -> Backend:
    """What writes: the model itself, as this machine can run it, or a server.

    Args:
        concurrency: Headnotes at a time; None: as many as the machine does well.

    Raises:
        UnreachableError: No model, or no server.
    """
    if server is not None:
        return server.connect(choice.name, emit, concurrency)
    from headnote_cli.generation.writer import Writer, load_to_write
    from headnote_cli.machine.plan import resolve
    from headnote_cli.models.base import base_of, load_model_config
    from headnote_cli.models.loading import stop_ids, this_machine

    base = base_of(choice.base)
    plan = resolve(config.settings, this_machine(), load_model_config(base).model_type)
    model = load_to_write(base, choice.adapter, plan, choice.quantization)
    tokenizer: Any = encoder.tokenizer
    return Writer(model, tokenizer, stop_ids(model, encoder.turn_end_id()), concurrency)


def other_prompts(config: Config, choice: ModelChoice) -> str | None:
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
