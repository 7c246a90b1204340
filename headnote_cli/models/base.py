"""Which base model a config means, its `config.json` and its tokenizer; no torch needed."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.logging import disable_default_handler

from headnote_cli.config.layers import Config
from headnote_cli.data.sources import unreachable
from headnote_cli.errors import ConfigError, SldsError, is_of_the_network
from headnote_cli.machine.plan import Quantization
from headnote_cli.models.fit import length_warning, positions_of, stored_quantization, wrong_class
from headnote_cli.runs.files import require_there

if not os.environ.get("SLDS_DEBUG"):
    disable_default_handler()  # `libraries` shows each warning once


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """Which model to load, and how."""

    name: str  # hub id, or a local folder
    model_class: str
    revision: str = "main"
    trust_remote_code: bool = False

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained`."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


def base_model(config: Config, allow_remote_code: bool = False) -> BaseModel:
    """The model that a config names. Also sets the config's `hub_token`, if any, for the hub's clients.

    Raises:
        ConfigError: No model is named.
    """
    if config.settings.hub_token:
        os.environ.setdefault("HF_TOKEN", config.settings.hub_token)
    name = config.settings.model_name_or_path
    if not name:
        raise ConfigError("`model_name_or_path` is not set", str(config.path), "name a hub id or a local folder")
    local = config.locate(name)
    return BaseModel(
        str(local) if local else name,
        config.settings.model_class,
        config.settings.model_revision,
        config.settings.trust_remote_code and allow_remote_code,
    )


@contextmanager
def reaching(kind: str, name: str) -> Iterator[None]:
    """Turn the libraries' errors into one message: unavailable, or cannot be loaded as asked."""
    require_there(kind, name)
    try:
        yield
    except SldsError:
        raise
    except OSError as error:
        raise unreachable(error, kind, name) from error
    except (ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"the {kind} cannot be loaded as asked: {str(error).strip().splitlines()[0]}", name
        ) from error
    except Exception as error:
        if is_of_the_network(error):
            raise unreachable(error, kind, name) from error
        raise


def load_model_config(base: BaseModel) -> Any:
    """The model's `config.json` as transformers reads it."""
    with reaching("model", base.name):
        return AutoConfig.from_pretrained(base.name, **base.options())


def stored_quantization_of(base: BaseModel) -> Quantization | None:
    """How a base's weights are quantized on disk, or None."""
    return stored_quantization(load_model_config(base).to_dict(), base.name)


def eos_ids(noted: int | list[int] | None) -> list[int]:
    """The ids of a config's `eos_token_id`: none, one or several."""
    return noted if isinstance(noted, list) else [] if noted is None else [noted]


def require_fitting_class(base: BaseModel, where: str | None = None) -> None:
    """Check `model_class` with transformers' tables of Auto classes and model types.

    Raises:
        ConfigError: `model_class` does not load this model, but the other one does.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    tables = {
        "AutoModelForCausalLM": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "AutoModelForImageTextToText": MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    }
    model_type = load_model_config(base).model_type
    fitting = [name for name, types in tables.items() if model_type in types]
    if fitting and base.model_class not in fitting:
        raise wrong_class(base.model_class, fitting[0], base.name, model_type, where)


def longer_than_made_for(config: Config, base: BaseModel) -> str | None:
    """A warning if `max_length` exceeds the model's maximum positions."""
    return length_warning(config.settings.max_length, positions_of(load_model_config(base).to_dict()))


NEEDED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*", "NOTICE*", "USE_POLICY*")


def weights_folder(base: BaseModel) -> Path:
    """The folder of a model's files: its own, or the hub's cached snapshot, downloaded if needed.

    Raises:
        UnreachableError: There is no such folder, and the hub does not provide the model.
    """
    local = Path(base.name)
    if local.is_dir():
        return local
    from huggingface_hub import snapshot_download

    with reaching("model", base.name):
        return Path(snapshot_download(base.name, revision=base.revision, allow_patterns=list(NEEDED_FILES)))


def load_tokenizer(base: BaseModel, config: Config | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer, with the chat template of `chat_template_path`, if set.

    Raises:
        UnreachableError: The hub does not provide it, or the folder has none.
        ConfigError: The template is missing or not text, or the vocabulary lacks `eos_token`.
    """
    with reaching("tokenizer", base.name):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base.name, **base.options())
    if config is not None and config.settings.chat_template_path:
        tokenizer.chat_template = _chat_template(config, base)
    if config is not None and config.settings.eos_token is not None:
        _set_end(tokenizer, config)
    tokenizer.chat_template = _without_mark(tokenizer.chat_template)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _chat_template(config: Config, base: BaseModel) -> Any:
    """A template file, or the template (or templates by name) of another model."""
    name = str(config.settings.chat_template_path)
    local = config.locate(name)
    if local is not None and local.is_file():
        try:
            return local.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"cannot be read as UTF-8 text: {error}", str(local)) from error
    with reaching("chat template", name):
        other = AutoTokenizer.from_pretrained(str(local) if local else name, trust_remote_code=base.trust_remote_code)
    if not other.chat_template:
        raise ConfigError(
            f"`chat_template_path`: {name} has no chat template",
            config.where("chat_template_path"),
            "name a model or a .jinja file that has one",
        )
    return other.chat_template


def _set_end(tokenizer: PreTrainedTokenizerBase, config: Config) -> None:
    """Set TRL's `eos_token`: the token that ends a text."""
    name = str(config.settings.eos_token)
    if name not in tokenizer.get_vocab():
        near = difflib.get_close_matches(name, tokenizer.all_special_tokens, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]}?" if near else f"special tokens: {', '.join(tokenizer.all_special_tokens)}"
        raise ConfigError(f"`eos_token: {name}` is not in the model's vocabulary", config.where("eos_token"), hint)
    tokenizer.eos_token = name


def _without_mark(template: Any) -> Any:
    """A chat template, or templates by name, without a byte order mark, which some editors add."""
    if isinstance(template, dict):
        return {name: _without_mark(text) for name, text in template.items()}
    return template.removeprefix("\ufeff") if isinstance(template, str) else template


def base_of(name: str) -> BaseModel:
    """A model by its name alone; its architecture determines its Auto class."""
    text_only = BaseModel(name, "AutoModelForCausalLM")
    architectures = load_model_config(text_only).architectures or []
    multimodal = any(architecture.endswith("ForConditionalGeneration") for architecture in architectures)
    return dataclasses.replace(text_only, model_class="AutoModelForImageTextToText") if multimodal else text_only
