"""The keys that a config may hold: their types, ranges and forms, and what slds sets where a file does not."""

from __future__ import annotations

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict

from headnote_cli.config.upstream_keys import ModelKeys, TrainingKeys

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


class Settings(DataKeys, ModelKeys, TrainingKeys):
    """Every key that a config may hold, typed. Unknown keys and other types are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, defer_build=False, frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


def kinds(key: str) -> set[Any]:
    """The types that a key takes (`str`, `list[str]`, `Literal[…]`, `NoneType` …); none where there is no such key."""
    info = Settings.model_fields.get(key)
    if info is None:
        return set()
    is_union = get_origin(info.annotation) in (Union, UnionType)
    return set(get_args(info.annotation)) if is_union else {info.annotation}


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
