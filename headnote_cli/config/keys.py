"""The keys of a config: their types, ranges and formats, and slds's own defaults."""

from __future__ import annotations

from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict

from headnote_cli.config.upstream_keys import UpstreamKeys

Overflow = Literal["structure", "middle", "end", "drop", "error"]
# Never written to records, the screen or error messages.
SECRETS = frozenset({"hub_token"})


class Settings(UpstreamKeys):
    """Every key that a config may hold, typed. Unknown keys and other types are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, defer_build=False, frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

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
    early_stopping: int | None = None  # stop after this many evaluations without improvement


def kinds(key: str) -> set[Any]:
    """The types that a key accepts (`str`, `list[str]`, `Literal[…]`, `NoneType` …); empty for an unknown key."""
    info = Settings.model_fields.get(key)
    if info is None:
        return set()
    is_union = get_origin(info.annotation) in (Union, UnionType)
    return set(get_args(info.annotation)) if is_union else {info.annotation}


def own_defaults(settings: Settings) -> dict[str, object]:
    """slds's defaults, which replace those of the libraries, for keys that were not set."""
    values: dict[str, object] = {
        "train_sampling_strategy": "group_by_length",  # batches of similar lengths need little padding
        "per_device_eval_batch_size": settings.per_device_train_batch_size,
    }
    if settings.eval_strategy != "no":
        values["metric_for_best_model"] = "eval_loss"  # the best checkpoint is kept beside the last
    return {key: value for key, value in values.items() if key not in settings.model_fields_set}


def effective_values(settings: Settings) -> dict[str, object]:
    """The value of every key, whether from a file, a library or slds."""
    return settings.model_dump() | own_defaults(settings)


@dataclass(frozen=True)
class Rule:
    """What slds requires of a key's value besides its type, and whether a resumed run may change it."""

    range: tuple[float, float] | None = None  # smallest and largest allowed number, both included
    is_share_or_steps: bool = False  # below 1: a share of all steps; from 1: a number of steps
    form: tuple[str, str] | None = None  # a pattern for the whole text, and its description
    is_located: bool = False  # names a file or folder that `locate` searches for
    # "free": changes what is shown and kept, not what is learned. "evaluation": changes when a run is evaluated. A
    # change of any other key makes another run.
    resume: Literal["free", "evaluation"] | None = None


# Every numeric key has a range.
RULES = {
    "adam_beta1": Rule((0, 1)),
    "adam_beta2": Rule((0, 1)),
    "adam_epsilon": Rule((0, 1)),
    "attn_implementation": Rule(
        form=(
            r"eager|sdpa|flex_attention|flash_attention_[234]|paged\|\w+|[^/:]+/[^/:]+(@[^/:]+)?(:[^/:]+)?",
            "eager, sdpa, flex_attention, flash_attention_2, _3 or _4, or a kernel of the hub (owner/name)",
        )
    ),
    "bnb_4bit_quant_storage": Rule(
        form=("float16|float32|int8|uint8|float64|bfloat16", "one of float16, float32, int8, uint8, float64, bfloat16")
    ),
    "chat_template_path": Rule(is_located=True),
    "data_seed": Rule((0, 2**32 - 1)),
    "dataloader_num_workers": Rule((0, 1024)),
    "dataloader_prefetch_factor": Rule((1, 10**6)),
    "dataset_eval_split": Rule(resume="evaluation"),
    "dataset_name": Rule(is_located=True),
    "dataset_num_proc": Rule((1, 1024), resume="free"),
    "ddp_bucket_cap_mb": Rule((1, 10**6)),
    "ddp_timeout": Rule((1, 10**9)),
    "early_stopping": Rule((1, 10**6)),
    "eval_accumulation_steps": Rule((1, 10**9), resume="free"),
    "eval_delay": Rule((0, 10**9), resume="evaluation"),
    "eval_on_start": Rule(resume="evaluation"),
    "eval_steps": Rule((1e-6, 10**9), is_share_or_steps=True, resume="evaluation"),
    "eval_strategy": Rule(resume="evaluation"),
    "evaluate_vllm_sampling_params_max_tokens": Rule((1, 10**7), resume="free"),
    "evaluate_vllm_tensor_parallel_size": Rule((1, 1024), resume="free"),
    "gradient_accumulation_steps": Rule((1, 10**6)),
    "label_smoothing_factor": Rule((0, 1)),
    "learning_rate": Rule((0, 100)),
    "local_rank": Rule((-1, 10**6)),
    "logging_steps": Rule((1e-6, 10**9), is_share_or_steps=True, resume="free"),
    "lora_alpha": Rule((1, 10**6)),
    "lora_dropout": Rule((0, 1)),
    "lora_r": Rule((1, 10**5)),
    "lora_target_modules": Rule(form=(r"(?s).+", "a name or pattern of modules")),
    "max_grad_norm": Rule((0, 10**9)),
    "max_length": Rule((8, 10**8)),
    "max_steps": Rule((-1, 10**9)),
    "metric_for_best_model": Rule(resume="evaluation"),
    "model_name_or_path": Rule(is_located=True),
    "neftune_noise_alpha": Rule((0, 10**6)),
    "num_train_epochs": Rule((0, 10**6)),
    "pad_to_multiple_of": Rule(
        (1, 10**6), form=(r"auto|none|null|[1-9][0-9]{0,5}", "auto, none or a number of tokens")
    ),
    "peft_base_model_path": Rule(is_located=True, resume="free"),
    "peft_peft_model_path": Rule(is_located=True, resume="free"),
    "per_device_eval_batch_size": Rule((1, 10**6), resume="free"),
    "per_device_train_batch_size": Rule((1, 10**6)),
    "prompts_path": Rule(is_located=True),
    "router_aux_loss_coef": Rule((0, 10**3)),
    "save_steps": Rule((1e-6, 10**9), is_share_or_steps=True, resume="free"),
    "save_total_limit": Rule((1, 10**6), resume="free"),
    "seed": Rule((0, 2**32 - 1)),
    "torch_empty_cache_steps": Rule((1, 10**9)),
    "warmup_steps": Rule((0, 10**9), is_share_or_steps=True),
    "weight_decay": Rule((0, 10**3)),
    **dict.fromkeys(
        "dataloader_pin_memory dataset_test_split disable_tqdm evaluate_vllm_model_name_or_path extends "
        "hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy log_level "
        "log_level_replica logging_first_step logging_strategy mode output_dir peft_output_model_path "
        "prediction_loss_only project push_to_hub report_to resume_from_checkpoint run_name save_strategy "
        "trackio_bucket_id trackio_space_id trackio_static_space_id trust_remote_code".split(),
        Rule(resume="free"),
    ),
}
