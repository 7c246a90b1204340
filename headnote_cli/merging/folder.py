"""All files of a merged model except its weights: config, tokenizer, chat template, prompts, card and manifest."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headnote_cli.config.assets import assets_root
from headnote_cli.config.layers import Config
from headnote_cli.data.encoding import Encoder
from headnote_cli.data.prompts import PromptTemplates, copy_prompts
from headnote_cli.machine.libraries import version_of
from headnote_cli.models.card import CARD, model_card
from headnote_cli.models.weights import ADAPTER_WEIGHTS, PICKLES
from headnote_cli.runs.files import read_json, sha256, write_json, write_text
from headnote_cli.runs.folders import PROMPTS, hashes_of, now

if TYPE_CHECKING:
    from headnote_cli.merging.plan import MergeJob
    from headnote_cli.merging.stream import Written
    from headnote_cli.merging.verification import Verification

SHIPPED_PROMPTS = Path("prompts/ipst/slds")
CHAT_TEMPLATE, TOKENIZER = "chat_template.jinja", "tokenizer_config.json"
# The base's weights, which the merged ones replace.
REPLACED = (".safetensors", ".safetensors.index.json", ".gguf", ".h5", ".msgpack", ".bin.index.json", *PICKLES)
PACKAGES = ("headnote-cli", "torch", "transformers", "safetensors", "peft")


def complete(base: Path, adapter: Path, folder: Path, record: Mapping[str, Any], prompts: Path | None) -> None:
    """Add the base's other files (processor, licence …), training's chat template and stop tokens, prompts, card."""
    for file in sorted(base.iterdir()):
        if file.is_file() and not file.name.endswith(REPLACED) and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    template = _template_of(adapter)
    if template is not None:
        write_text(folder / CHAT_TEMPLATE, template)
        _remove_other_templates(folder)
    if prompts is not None:
        copy_prompts(prompts, folder / PROMPTS)
    write_text(folder / CARD, model_card({"base_model": base.name, **record}, merged=True))
    _stop_as_trained(folder, record, prompts)


def _template_of(adapter: Path) -> str | None:
    """The chat template of a checkpoint: a file, or, from an older transformers, a key of the tokenizer config."""
    if (adapter / CHAT_TEMPLATE).is_file():
        return (adapter / CHAT_TEMPLATE).read_text(encoding="utf-8")
    template = (read_json(adapter / TOKENIZER) or {}).get("chat_template")
    return template if isinstance(template, str) else None


def _remove_other_templates(folder: Path) -> None:
    """Remove the base's other templates: some libraries and servers read them first."""
    (folder / "chat_template.json").unlink(missing_ok=True)
    for name in (TOKENIZER, "processor_config.json"):
        content = read_json(folder / name) or {}
        if content.pop("chat_template", None) is not None:
            write_json(folder / name, content)


def _stop_as_trained(folder: Path, record: Mapping[str, Any], prompts: Path | None) -> None:
    """Make every server stop at the token that ends a turn, and at the `eos_token` of training.

    transformers and vLLM read the ids of generation_config.json, others those of config.json, llama.cpp the tokenizer's
    `eos_token`. In a base that is not a chat model these end a text, not a turn.
    """
    from headnote_cli.models.base import BaseModel, eos_ids, load_tokenizer

    tokenizer = load_tokenizer(BaseModel(str(folder), "AutoModelForCausalLM"))
    if not tokenizer.chat_template:
        return
    templates = PromptTemplates(prompts or assets_root() / SHIPPED_PROMPTS)
    end = Encoder(tokenizer, templates).turn_end_id()  # type: ignore[arg-type]
    chosen = (record.get("config") or {}).get("eos_token")
    trained = [end, tokenizer.convert_tokens_to_ids(chosen)] if chosen else [end]
    for name in ("generation_config.json", "config.json"):
        content = read_json(folder / name) or {}
        known = eos_ids(content.get("eos_token_id"))
        if not set(trained) <= set(known):
            write_json(folder / name, content | {"eos_token_id": list(dict.fromkeys([*trained, *known]))})
    last = chosen or tokenizer.convert_ids_to_tokens(end)
    content = read_json(folder / TOKENIZER) or {}
    # A template that contains the `eos_token` would then render another token.
    if content and tokenizer.eos_token != last and "eos_token" not in str(tokenizer.chat_template):
        write_json(folder / TOKENIZER, content | {"eos_token": last})


def prompts_of(config: Config, adapter: Path) -> Path | None:
    """The templates of the adapter's run, else those of the config."""
    kept = adapter.parent / PROMPTS
    if kept.is_dir():
        return kept
    return config.path_of("prompts_path") if config.settings.prompts_path else None


def manifest_of(
    config: Config,
    record: Mapping[str, Any],
    base: str,
    job: MergeJob,
    written: Written,
    folder: Path,
    check: Verification | None,
) -> dict[str, Any]:
    """How the merged model was made, and how to prompt it."""
    keys = ("model_class", "max_length", "overflow", "overflow_field")
    prompting = {key: record.get(key, getattr(config.settings, key)) for key in keys}
    return prompting | {
        "base_model": base,
        "base_files": written.base_files,
        "adapters": [
            {"path": str(path), "sha256": sha256(path / ADAPTER_WEIGHTS)}
            for path in job.adapters
            if (path / ADAPTER_WEIGHTS).is_file()
        ],
        "onto": asdict(job.onto) if job.onto else "base",
        "dtype": written.dtype,
        "tensors": {"copied": written.copied, "merged": written.merged},
        "untied": written.untied,
        "files": hashes_of(folder, written.files),
        "verification": asdict(check) if check else None,
        "packages": {name: version_of(name) for name in PACKAGES},
        "data": record.get("data"),
        "merged": now(),
    }
