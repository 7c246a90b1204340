"""One flat YAML file: its keys, their places in the file, its layers, and what came from where."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from headnote_cli.config.assets import assets_root, locate
from headnote_cli.config.key_versions import AddedKeys, version_fault
from headnote_cli.config.upstream_keys import ModelKeys, TrainingKeys
from headnote_cli.errors import ConfigError, UsageError

DEFAULT_CONFIG = "configs/ipst/slds/sft_liger_peft.yaml"
Overflow = Literal["structure", "middle", "end", "drop", "error"]
# Never written to a record, a screen or an error.
SECRETS = frozenset({"hub_token"})


class DataKeys(BaseModel):
    """The keys of the data, the prompts and the paths: the workshop's own, then ours."""

    model_config = ConfigDict(defer_build=True)  # validated as parts of `Settings` alone

    mode: Literal["train", "evaluate", "interact"] | None = None
    model_class: Literal["AutoModelForCausalLM", "AutoModelForImageTextToText"] = "AutoModelForCausalLM"
    dataset_name: str | None = None
    dataset_subset: str | None = None
    dataset_train_split: str = "train"
    dataset_eval_split: str | None = None
    dataset_test_split: str | None = None
    prompts_path: str | None = None
    fine_tuning_data_format: Literal["conversational_prompt_completion"] = "conversational_prompt_completion"
    peft_base_model_path: str | None = None
    peft_peft_model_path: str | None = None
    peft_output_model_path: str | None = None
    evaluate_vllm_model_name_or_path: str | None = None
    evaluate_vllm_tensor_parallel_size: int = 1
    evaluate_vllm_sampling_params_max_tokens: int | None = None
    extends: str | None = None
    overflow: Overflow = "structure"
    overflow_field: str = "decision"
    early_stopping: int | None = None  # evaluations without improvement after which a run ends


class Settings(DataKeys, ModelKeys, TrainingKeys, AddedKeys):
    """Every key that a config may hold, typed. Unknown keys and other types are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, defer_build=False, frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


def own_defaults(settings: Settings) -> dict[str, object]:
    """Values in place of the libraries' defaults, for keys that were not set."""
    values: dict[str, object] = {
        "train_sampling_strategy": "group_by_length",  # rows of like length together: little padding
        "per_device_eval_batch_size": settings.per_device_train_batch_size,
    }
    if settings.eval_strategy != "no":
        values["metric_for_best_model"] = "eval_loss"  # the best checkpoint is kept beside the last
    return {key: value for key, value in values.items() if key not in settings.model_fields_set}


def effective_values(settings: Settings) -> dict[str, object]:
    """The value of every key, whether a file, a library or slds decided it."""
    return settings.model_dump() | own_defaults(settings)


# Smallest and largest value that makes sense, both included, of every key that takes a number.
RANGES: dict[str, tuple[float, float]] = {
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, 1),
    "data_seed": (0, 2**32 - 1),
    "dataloader_num_workers": (0, 1024),
    "dataloader_prefetch_factor": (1, 10**6),
    "dataset_num_proc": (1, 1024),
    "ddp_bucket_cap_mb": (1, 10**6),
    "ddp_timeout": (1, 10**9),
    "early_stopping": (1, 10**6),
    "eval_accumulation_steps": (1, 10**9),
    "eval_delay": (0, 10**9),
    "eval_steps": (1e-6, 10**9),
    "evaluate_vllm_sampling_params_max_tokens": (1, 10**7),
    "evaluate_vllm_tensor_parallel_size": (1, 1024),
    "gradient_accumulation_steps": (1, 10**6),
    "label_smoothing_factor": (0, 1),
    "learning_rate": (0, 100),
    "local_rank": (-1, 10**6),
    "logging_steps": (1e-6, 10**9),
    "lora_alpha": (1, 10**6),
    "lora_dropout": (0, 1),
    "lora_r": (1, 10**5),
    "max_grad_norm": (0, 10**9),
    "max_length": (8, 10**8),
    "max_steps": (-1, 10**9),
    "neftune_noise_alpha": (0, 10**6),
    "num_train_epochs": (0, 10**6),
    "pad_to_multiple_of": (1, 10**6),
    "per_device_eval_batch_size": (1, 10**6),
    "per_device_train_batch_size": (1, 10**6),
    "router_aux_loss_coef": (0, 10**3),
    "save_steps": (1e-6, 10**9),
    "save_total_limit": (1, 10**6),
    "seed": (0, 2**32 - 1),
    "torch_empty_cache_steps": (1, 10**9),
    "warmup_steps": (0, 10**9),
    "weight_decay": (0, 10**3),
}
# Below 1 a share of all steps, from 1 on a number of steps.
SHARE_OR_STEPS = ("eval_steps", "logging_steps", "save_steps", "warmup_steps")
# What a text may be where upstream's type says no more than text: a pattern for all of it, and words for it.
FORMS = {
    "attn_implementation": (
        r"eager|sdpa|flex_attention|flash_attention_[234]|paged\|\w+|[^/:]+/[^/:]+(@[^/:]+)?(:[^/:]+)?",
        "eager, sdpa, flex_attention, flash_attention_2, _3 or _4, or a kernel of the hub (owner/name)",
    ),
    "bnb_4bit_quant_storage": (
        "float16|float32|int8|uint8|float64|bfloat16",
        "one of float16, float32, int8, uint8, float64, bfloat16",
    ),
    "lora_target_modules": (r"(?s).+", "a name or pattern of modules"),
    "pad_to_multiple_of": (r"auto|none|null|[1-9][0-9]{0,5}", "auto, none or a number of tokens"),
}
# Keys that name a file or folder which `locate` looks for in several places.
LOCATED = (
    "chat_template_path",
    "dataset_name",
    "model_name_or_path",
    "peft_base_model_path",
    "peft_peft_model_path",
    "prompts_path",
)

# Upstream's old names whose meaning lives on under another one.
RENAMED = {
    "bnb_4bit_use_double_quant": "use_bnb_nested_quant",
    "dataset_config": "dataset_subset",
    "evaluation_strategy": "eval_strategy",
    "max_seq_length": "max_length",
    "no_cuda": "use_cpu",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "torch_dtype": "dtype",
    "use_liger": "use_liger_kernel",
    "warmup_ratio": "warmup_steps",
}
# One value of an old key that is another key's value today.
TRANSLATED: dict[tuple[str, object], tuple[str, object]] = {
    ("adafactor", True): ("optim", "adafactor"),
    ("group_by_length", True): ("train_sampling_strategy", "group_by_length"),
}
# Old keys that mean nothing any more: the values for which dropping them changes nothing (ANY: all), and why
# every other value is refused.
ANY = object()
GONE: dict[str, tuple[tuple[object, ...], str]] = {
    "adafactor": ((False,), "write `optim: adafactor`"),
    "chars_per_token": ((ANY,), "rows are tokenised one by one"),
    "dataset_batch_size": ((ANY,), "rows are tokenised one by one"),
    "dataset_streaming": ((ANY,), "local rows are always streamed"),
    "dispatch_batches": ((None,), "write it into `accelerator_config`"),
    "evaluate_during_training": ((False,), "write `eval_strategy: steps`"),
    "fp16_backend": (("auto",), "only torch's own autocast is left"),
    "fp16_opt_level": ((ANY,), "apex is no longer used"),
    "fsdp_min_num_params": ((0,), "write `fsdp_config: {min_num_params: …}`"),
    "fsdp_transformer_layer_cls_to_wrap": ((None,), "write `fsdp_config: {transformer_layer_cls_to_wrap: …}`"),
    "gradient_checkpointing_use_reentrant": ((), "write `gradient_checkpointing_kwargs: {use_reentrant: …}`"),
    "group_by_length": ((False,), "write `train_sampling_strategy: group_by_length`"),
    "half_precision_backend": (("auto",), "only torch's own autocast is left"),
    "include_inputs_for_metrics": ((False,), "write `include_for_metrics: [inputs]`"),
    "include_tokens_per_second": ((ANY,), "tokens a second are always shown"),
    "jit_mode_eval": ((False,), "removed upstream"),
    "logging_dir": ((ANY,), "set TENSORBOARD_LOGGING_DIR in the environment instead"),
    "mp_parameters": (("",), "SageMaker's model parallelism was removed upstream"),
    "num_of_sequences": ((ANY,), "rows are tokenised one by one"),
    "overwrite_output_dir": ((ANY,), "a run is resumed, or set aside with --no-resume, never overwritten"),
    "past_index": ((-1,), "removed upstream"),
    "push_to_hub_organization": ((None,), "write `hub_model_id: organization/name`"),
    "ray_scope": ((ANY,), "no hyperparameter search is run"),
    "save_safetensors": ((True,), "checkpoints are always safetensors"),
    "sharded_ddp": (("", False, None), "fairscale's sharding was removed upstream; see `fsdp`"),
    "split_batches": ((None, False), "write it into `accelerator_config`"),
    "torchdynamo": ((None,), "write `torch_compile_backend`"),
    "tpu_metrics_debug": ((False,), "removed upstream"),
    "tpu_num_cores": ((None,), "removed upstream"),
    "use_ipex": ((False,), "removed upstream"),
    "use_legacy_prediction_loop": ((False,), "removed upstream"),
    "use_mps_device": ((ANY,), "Apple's GPU is found by itself"),
    "xpu_backend": ((None,), "write `ddp_backend`"),
}
# Keys of the libraries whose work slds does otherwise: the values that change nothing, and why others are ignored.
DONE_OTHERWISE: dict[str, tuple[tuple[object, ...], str]] = {
    "assistant_only_loss": ((False,), "the loss is taken on the headnote alone"),
    "batch_eval_metrics": ((False,), "the evaluation loss needs no other metrics"),
    "dataset_kwargs": ((None, {}), "rows are encoded by slds"),
    "dataset_text_field": (("text",), "the templates write a row's text"),
    "enable_jit_checkpoint": ((False,), "SIGTERM and Ctrl-C always save the step"),
    "include_for_metrics": (([],), "the evaluation loss needs none of them"),
    "label_names": ((None, ["labels"]), "rows have one column of labels"),
    "prediction_loss_only": ((True, False), "evaluation keeps the loss alone"),
    "remove_unused_columns": ((True,), "rows hold ids, labels and a name"),
    "skip_memory_metrics": ((True,), "the peak of memory is always measured"),
    "truncation_mode": (("keep_start",), "`overflow` says what of a long row gives way"),
}
YAML_1_1_BOOLEANS = {"yes": True, "on": True, "no": False, "off": False}


@dataclass(frozen=True)
class Origin:
    """Where a value came from."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.source, self.line, self.column) if part is not None)


@dataclass(frozen=True)
class Entry:
    """One key's value as written, and where."""

    value: Any
    origin: Origin


@dataclass(frozen=True)
class Config:
    """A checked configuration: typed settings, and the origin of each key that was set."""

    path: Path
    settings: Settings
    origins: Mapping[str, Origin]
    notes: tuple[str, ...] = ()

    def is_set(self, key: str) -> bool:
        """Whether a file or `--set` gave this key (and not the library's default)."""
        return key in self.origins

    def written(self) -> dict[str, object]:
        """The keys that were set, with their values; secrets stay out."""
        return {key: getattr(self.settings, key) for key in self.origins if key not in SECRETS}

    def to_yaml(self) -> str:
        """Each effective value and where it came from; defaults as comments, so that the text is the same config."""
        lines = [f"# {self.path}"]
        for key in Settings.model_fields:
            if key in SECRETS and self.is_set(key):
                lines.append(f"# {key} is set and not shown  # {self.origins[key]}")
                continue
            value = getattr(self.settings, key)
            line = f"{key}: {_written(self._found(value) if key in LOCATED and value else value)}"
            lines.append(f"{line}  # {self.origins[key]}" if self.is_set(key) else f"# {line}  # default")
        return "\n".join(lines) + "\n"

    def _found(self, name: str) -> str:
        """A path that means the same in a config that lies elsewhere."""
        found = self.locate(name)
        return name if found in (None, Path(name).expanduser()) else str(found.resolve())

    def where(self, key: str) -> str:
        """The place to name in a message about `key`."""
        return str(self.origins.get(key, self.path))

    def locate(self, name: str) -> Path | None:
        """An existing local path meant by `name`, see `assets.locate`."""
        return locate(name, self.path.parent)

    def path_of(self, key: str) -> Path:
        """The existing path that `key` names.

        Raises:
            ConfigError: The key is empty, or nothing lies there.
        """
        name = getattr(self.settings, key)
        if name is None:
            raise ConfigError(f"`{key}` is not set", str(self.path), f"add a line `{key}: …`")
        found = self.locate(name)
        if found is None:
            raise ConfigError(
                f"`{key}`: there is no {name}",
                self.where(key),
                "looked in the working directory, beside the config file and in the shipped files",
            )
        return found


def _written(value: object) -> str:
    """A value as YAML that `_Loader` reads back, on one line and in characters that every screen shows."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_written(key)}: {_written(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    if isinstance(value, str):
        return f'"{"".join(map(_escaped, value))}"'
    return json.dumps(value)


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"


@dataclass
class _Problems:
    """All faults of a config, told at once."""

    found: list[tuple[Origin, str]] = field(default_factory=list)

    def add(self, origin: Origin, message: str) -> None:
        self.found.append((origin, message))

    def raise_if_any(self) -> None:
        if not self.found:
            return
        if len(self.found) == 1:
            origin, message = self.found[0]
            raise ConfigError(message, str(origin))
        in_file_order = sorted(self.found, key=lambda fault: (fault[0].source, fault[0].line or 0))
        lines = [f"  {origin}: {message}" for origin, message in in_file_order]
        raise ConfigError("\n".join([f"{len(lines)} problems in the configuration:", *lines]))


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars (2e-4 is a number, `no` is a word), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        for key_node, first in self.repeated_keys(node):
            message = f"`{key_node.value}` is given twice, first in line {first}"
            raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
        return super().construct_mapping(node, deep)

    def repeated_keys(self, node: yaml.MappingNode) -> Iterator[tuple[yaml.ScalarNode, int]]:
        """Keys that stand in the mapping itself more than once, with the line of the first."""
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                raise yaml.constructor.ConstructorError(None, None, "a key is not text", key_node.start_mark)
            if key_node.value in seen:
                yield key_node, seen[key_node.value]
            seen.setdefault(key_node.value, key_node.start_mark.line + 1)


_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {  # no bytes, dates or sets, which no key takes
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value.lower()
    return int(text, 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a config file, for editors: types, choices, ranges, and old names as deprecated."""
    schema = Settings.model_json_schema()
    schema["title"] = "slds configuration"
    schema.pop("description", None)
    properties = schema["properties"]
    for key, (low, high) in RANGES.items():
        properties[key] |= {"minimum": low, "maximum": high}
    for key, (pattern, words) in FORMS.items():
        properties[key] |= {"pattern": f"^({pattern.removeprefix('(?s)')})$", "description": words}
    properties["lora_target_modules"]["minItems"] = 1
    for old, new in RENAMED.items():
        properties[old] = properties[new] | {"deprecated": True, "description": f"now `{new}`"}
    del properties["warmup_ratio"]["maximum"]
    properties["warmup_ratio"]["exclusiveMaximum"] = 1
    for old, (_, reason) in GONE.items():
        properties[old] = {"deprecated": True, "description": reason}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def default_config_path() -> Path:
    """`$SLDS_CONFIG`, else the workshop's file under the working directory, else the shipped one."""
    return Path(os.environ.get("SLDS_CONFIG") or DEFAULT_CONFIG)


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read, layer and check a configuration.

    Args:
        path: The YAML file; without it, see `default_config_path`.
        overrides: `key=value` and `key.sub=value`, the value in YAML.

    Raises:
        ConfigError: Unreadable files, and every key or value that cannot be used, all at once.
    """
    file = _find(path or default_config_path())
    problems = _Problems()
    notes: list[str] = []
    entries: dict[str, Entry] = {}
    for layer in _layers(file, problems):
        entries |= _translated(layer, problems, notes)
    entries = _with_overrides(entries, overrides, problems, notes)
    entries.pop("extends", None)
    settings = _checked(entries, problems)
    problems.raise_if_any()
    for key in _done_otherwise(settings):
        notes.append(f"{entries.pop(key).origin}: `{key}` is ignored: {DONE_OTHERWISE[key][1]}")
        settings = settings.model_copy(update={key: Settings.model_fields[key].get_default(call_default_factory=True)})
    return Config(file, settings, {key: entry.origin for key, entry in entries.items()}, tuple(notes))


def _done_otherwise(settings: Settings) -> list[str]:
    """The keys that were set to what slds does not do."""
    return [
        key
        for key, (harmless, _) in DONE_OTHERWISE.items()
        if key in settings.model_fields_set and getattr(settings, key) not in harmless
    ]


def _find(path: Path) -> Path:
    found = locate(str(path))
    if found is None or not found.is_file():
        shipped = sorted(str(p.relative_to(assets_root())) for p in (assets_root() / "configs").rglob("*.yaml"))
        kind = "is a folder, not a file" if found else "there is no such file"
        raise ConfigError(kind, str(path), f"shipped configs: {', '.join(shipped)}")
    return found


def _layers(file: Path, problems: _Problems, inside: tuple[Path, ...] = ()) -> Iterator[dict[str, Entry]]:
    """The entries of the files that `extends` names, the outermost file last."""
    chain = (*inside, file.resolve())
    entries = _read(file, problems)
    base = entries.get("extends")
    if base is not None and not isinstance(base.value, str):
        problems.add(base.origin, f"`extends: {_brief(base.value)}` is not the name of a file")
    elif base is not None:
        target = (
            locate(base.value, file.parent) if not (file.parent / base.value).exists() else file.parent / base.value
        )
        if target is None or not target.is_file():
            problems.add(base.origin, f"`extends`: there is no file {base.value}")
        elif target.resolve() in chain:
            problems.add(
                base.origin, f"`extends` goes round in a circle: {' → '.join(p.name for p in chain)} → {target.name}"
            )
        else:
            yield from _layers(target, problems, chain)
    yield entries


def _read(file: Path, problems: _Problems) -> dict[str, Entry]:
    """The top-level keys of one file, with their places."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read as UTF-8 text: {error}", str(file)) from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError("a config is a list of `key: value` lines", f"{file}:{node.start_mark.line + 1}")
        return _entries_of(loader, node, file, problems)
    except ConfigError:
        raise
    except Exception as error:  # a YAML constructor raises what it likes
        mark = getattr(error, "problem_mark", None)
        origin = Origin(str(file), mark.line + 1, mark.column + 1) if mark else Origin(str(file))
        raise ConfigError(f"not valid YAML: {getattr(error, 'problem', None) or error}", str(origin)) from error


def _entries_of(loader: _Loader, node: yaml.MappingNode, file: Path, problems: _Problems) -> dict[str, Entry]:
    for key_node, first in loader.repeated_keys(node):
        message = f"`{key_node.value}` is given twice, first in line {first}"
        problems.add(_place(file, key_node.start_mark), message)
    loader.flatten_mapping(node)
    entries: dict[str, Entry] = {}
    for key_node, value_node in node.value:
        try:
            value = _value_of(loader, value_node, key_node.value)
        except yaml.constructor.ConstructorError as error:
            mark = error.problem_mark or value_node.start_mark
            problems.add(_place(file, mark), error.problem or str(error))
        else:
            entries[key_node.value] = Entry(value, _place(file, key_node.start_mark))
    return entries


def _value_of(loader: _Loader, node: yaml.Node, key: str) -> Any:
    """What a key is given; where it takes text, the text as written: the commit 7e44914 is not a number."""
    value = loader.construct_object(node, deep=True)
    if not _takes_text(RENAMED.get(key, key)):
        return value
    if isinstance(node, yaml.SequenceNode):
        return [_spelling(inner, one) for inner, one in zip(node.value, value, strict=True)]
    return _spelling(node, value)


def _spelling(node: yaml.Node, value: Any) -> Any:
    """A scalar as it is written; null stays null."""
    return node.value if isinstance(node, yaml.ScalarNode) and value is not None else value


def _takes_text(key: str) -> bool:
    """Whether a key takes text or a list of texts and nothing else, or null."""
    info = Settings.model_fields.get(key)
    kinds = get_args(info.annotation) or (info.annotation,) if info else (None,)
    return set(kinds) <= {str, list[str], NoneType}


def _place(file: Path, mark: yaml.Mark) -> Origin:
    return Origin(str(file), mark.line + 1, mark.column + 1)


def _translated(entries: dict[str, Entry], problems: _Problems, notes: list[str]) -> dict[str, Entry]:
    """The entries under today's names, with a note for each old one."""
    result: dict[str, Entry] = {}
    for key, entry in entries.items():
        new, value = RENAMED.get(key), entry.value
        if isinstance(value, str | bool) and (key, value) in TRANSLATED:
            new, value = TRANSLATED[key, value]
        if new is not None and new in entries:
            problems.add(entry.origin, f"`{key}` is the old name of `{new}`, and both are given")
        elif key == "warmup_ratio" and not _is_share(value):
            hint = "for a number of steps write `warmup_steps`"
            problems.add(entry.origin, f"`{key}: {_brief(value)}` is not a share from 0 to below 1; {hint}")
        elif new is not None:
            result[new] = Entry(value, entry.origin)
            notes.append(f"{entry.origin}: `{key}` is now `{new}`")
        elif key in GONE:
            harmless, reason = GONE[key]
            if ANY in harmless or any(value is one or (value == one and type(value) is type(one)) for one in harmless):
                notes.append(f"{entry.origin}: `{key}` is ignored: {reason}")
            else:
                problems.add(entry.origin, f"`{key}: {_brief(value)}` is gone: {reason}")
        else:
            result[key] = entry
    mode = result.get("mode")
    if mode is not None and mode.value is not None:
        notes.append(f"{mode.origin}: `mode` is ignored: the sub-command decides")
    for key in (key for key in result if key.startswith("evaluate_vllm_")):
        notes.append(f"{result[key].origin}: `{key}` is ignored: `slds generate` has --endpoint and --max-new-tokens")
    return result


def _is_share(value: object) -> bool:
    """Whether `warmup_steps` would mean the same: from 1 on it counts steps."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _with_overrides(
    entries: dict[str, Entry], overrides: Sequence[str], problems: _Problems, notes: list[str]
) -> dict[str, Entry]:
    for text in overrides:
        name, equals, written = text.partition("=")
        origin = Origin(f"--set {name}")
        if not equals or not name:
            raise UsageError(f"--set {text}: write --set key=value")
        try:
            loader = _Loader(written)
            node = loader.get_single_node()
            value = None if node is None else _value_of(loader, node, name)
        except Exception as error:  # a YAML constructor raises what it likes
            reason = getattr(error, "problem", None) or error
            problems.add(origin, f"not valid YAML: {_brief(written)}: {_brief(str(reason))}")
            continue
        key, *subs = name.split(".")
        if key == "extends":
            problems.add(origin, "`extends` belongs into a file")
            continue
        given = dict(entries)
        if subs:
            outer = given.pop(key, Entry(None, origin)).value
            value = _nested(outer if isinstance(outer, dict) else {}, subs, value)
        entries = given | _translated({key: Entry(value, origin)}, problems, notes)
    return entries


def _nested(mapping: dict[str, Any], subs: list[str], value: object) -> dict[str, Any]:
    first, *rest = subs
    inner = mapping.get(first)
    return mapping | {first: _nested(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


def _checked(entries: dict[str, Entry], problems: _Problems) -> Settings:
    """The settings, with every fault of keys and values noted; faulty keys are left at their defaults."""
    values = {key: _yaml_1_1(key, entry.value) for key, entry in entries.items()}
    faults: dict[str, str] = {}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        faults = dict(_validation_messages(error))
        settings = Settings.model_validate({key: value for key, value in values.items() if key not in faults})
    sound = [key for key in entries if key not in faults]
    faults |= {key: fault for key in sound if (fault := _value_fault(key, getattr(settings, key)))}
    faults |= {key: fault for key in entries if (fault := version_fault(key))}
    for key, message in faults.items():
        problems.add(entries[key].origin, message)
    doubtful = faults.keys() | {_nearest(key) for key in faults}
    for keys, message in _contradictions(settings):
        if not doubtful & set(keys):
            problems.add(entries[keys[0]].origin if keys[0] in entries else Origin("configuration"), message)
    return settings


def _value_fault(key: str, value: Any) -> str | None:
    """What is wrong with a value of the right type, None if nothing is."""
    if isinstance(value, int | float) and key in RANGES:
        low, high = RANGES[key]
        if not low <= value <= high:
            return f"`{key}: {value}` is out of range: {low:g} to {high:g}"
        if key in SHARE_OR_STEPS and value > 1 and value != int(value):
            return f"`{key}: {value}` is neither a share of the steps below 1 nor a whole number of steps"
    if isinstance(value, str) and key in FORMS and not re.fullmatch(FORMS[key][0], value):
        return f"`{key}: {_brief(value)}` is not {FORMS[key][1]}"
    if value == [] and key == "lora_target_modules":
        return f"`{key}: []` names no module; leave the key out for the model's default"
    return None


def _yaml_1_1(key: str, value: object) -> object:
    """`yes`, `on`, `no` and `off` where a key takes nothing but a boolean."""
    info = Settings.model_fields.get(key)
    if isinstance(value, str) and info is not None and info.annotation in (bool, bool | None):
        return YAML_1_1_BOOLEANS.get(value.lower(), value)
    return value


def _validation_messages(error: ValidationError) -> Iterator[tuple[str, str]]:
    """One message a key, in the file's order."""
    seen: set[str] = set()
    for fault in error.errors(include_url=False):
        key = str(fault["loc"][0])
        if key in seen:
            continue
        seen.add(key)
        if fault["type"] == "extra_forbidden":
            yield key, f"unknown key `{key}`{_suggestion(key)}"
        else:
            yield key, f"`{key}: {_brief(fault['input'])}` is not {_allowed(key, fault['input'])}"


def _suggestion(key: str) -> str:
    near = _nearest(key)
    return f"; did you mean `{near}`?" if near else ""


def _nearest(key: str) -> str | None:
    """The known key that a misspelt one is nearest to."""
    return next(iter(difflib.get_close_matches(key, [*Settings.model_fields, *RENAMED], n=1, cutoff=0.6)), None)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _allowed(key: str, given: object) -> str:
    """What a key takes, in words; of a long list of choices, those near to what was given."""
    annotation = str(Settings.model_fields[key].annotation)
    literals = [
        choice.strip("'") for group in re.findall(r"Literal\[([^\]]*)\]", annotation) for choice in group.split(", ")
    ]
    if len(literals) > 12:
        near = difflib.get_close_matches(str(given), literals, n=5, cutoff=0.3) or literals[:5]
        literals = [*near, f"… ({len(literals)} in all)"]
    plain = re.sub(r"(typing\.)?Literal\[[^\]]*\]", "", annotation)
    words = {
        "str": "text",
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "dict": "a mapping",
        "list": "a list",
    }
    names = [word for name, word in words.items() if re.search(rf"\b{name}\b", re.sub(r"\[.*?\]", "", plain) or plain)]
    if "None" in annotation:
        names.append("null")
    return " or ".join(([f"one of {', '.join(literals)}"] if literals else []) + names)


def _contradictions(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Keys that cannot hold together, the one to name first."""
    if settings.load_in_4bit and settings.load_in_8bit:
        yield ("load_in_8bit", "load_in_4bit"), "`load_in_4bit` and `load_in_8bit` exclude each other"
    if (settings.load_in_4bit or settings.load_in_8bit) and not settings.use_peft:
        key = "load_in_4bit" if settings.load_in_4bit else "load_in_8bit"
        yield (key, "use_peft"), f"`{key}` needs `use_peft: true`: quantized weights cannot be trained"
    if settings.bf16 and settings.fp16:
        yield ("fp16", "bf16"), "`bf16` and `fp16` exclude each other"
    if settings.completion_only_loss is False:
        yield ("completion_only_loss",), "`completion_only_loss: false`: the loss is taken on the headnote alone"
    if settings.early_stopping and settings.eval_strategy == "no":
        message = "`early_stopping` needs evaluations: set `eval_strategy: steps` or `epoch`"
        yield ("early_stopping", "eval_strategy"), message
    if settings.save_strategy == "best" and settings.eval_strategy == "no":
        message = "`save_strategy: best` needs evaluations: set `eval_strategy: steps` or `epoch`"
        yield ("save_strategy", "eval_strategy"), message
    if isinstance(settings.resume_from_checkpoint, str):
        message = "a run goes on from its newest whole checkpoint by itself; leave the key out"
        yield ("resume_from_checkpoint",), message
    if settings.model_init_kwargs is not None:
        yield ("model_init_kwargs",), "write its keys at the top level: `dtype`, `attn_implementation` …"
    if settings.parallelism_config is not None:
        yield ("parallelism_config",), "`parallelism_config` is set through accelerate's config file, not here"
