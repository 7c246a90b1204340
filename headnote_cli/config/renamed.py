"""Old names and values of keys, and keys that slds handles in another way."""

from __future__ import annotations

from headnote_cli.config.keys import Settings
from headnote_cli.config.problems import Entry, Problems, brief

# Old upstream names and their new names.
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
# Values of old keys that are now values of other keys.
TRANSLATED: dict[tuple[str, object], tuple[str, object]] = {
    ("adafactor", True): ("optim", "adafactor"),
    ("group_by_length", True): ("train_sampling_strategy", "group_by_length"),
}
# Removed keys: values that change nothing and are ignored (ANY: every value), and why others are rejected.
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
# Library keys that slds does not use: values that change nothing, and why other values are ignored.
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
    "truncation_mode": (("keep_start",), "`overflow` says what is removed from a long row"),
}


def done_otherwise(settings: Settings) -> list[str]:
    """The keys set to values that slds ignores."""
    return [
        key
        for key, (harmless, _) in DONE_OTHERWISE.items()
        if key in settings.model_fields_set and getattr(settings, key) not in harmless
    ]


def translated(entries: dict[str, Entry], problems: Problems, notes: list[str]) -> dict[str, Entry]:
    """The entries under their current names, with a note for each old one."""
    result: dict[str, Entry] = {}
    for key, entry in entries.items():
        new, value = RENAMED.get(key), entry.value
        if isinstance(value, str | bool) and (key, value) in TRANSLATED:
            new, value = TRANSLATED[key, value]
        if new is not None and new in entries:
            problems.add(entry.origin, f"`{key}` is the old name of `{new}`, and both are given")
        elif key == "warmup_ratio" and not _is_share(value):
            hint = "for a number of steps write `warmup_steps`"
            problems.add(entry.origin, f"`{key}: {brief(value)}` is not a share from 0 to below 1; {hint}")
        elif new is not None:
            result[new] = Entry(value, entry.origin)
            notes.append(f"{entry.origin}: `{key}` is now `{new}`")
        elif key in GONE:
            harmless, reason = GONE[key]
            if ANY in harmless or any(value == same and type(value) is type(same) for same in harmless):
                notes.append(f"{entry.origin}: `{key}` is ignored: {reason}")
            else:
                problems.add(entry.origin, f"`{key}: {brief(value)}` is gone: {reason}")
        else:
            result[key] = entry
    mode = result.get("mode")
    if mode is not None and mode.value is not None:
        notes.append(f"{mode.origin}: `mode` is ignored: the sub-command decides")
    for key in (key for key in result if key.startswith("evaluate_vllm_")):
        notes.append(f"{result[key].origin}: `{key}` is ignored: `slds generate` has --endpoint and --max-new-tokens")
    return result


def _is_share(value: object) -> bool:
    """Whether the value means the same as `warmup_steps`, where 1 and more count steps."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
