"""The config's training keys as TRL arguments, checked by the libraries."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, get_scheduler
from trl import SFTConfig

from headnote_cli.config.keys import Settings, own_defaults
from headnote_cli.errors import ConfigError
from headnote_cli.machine.plan import Plan
from headnote_cli.machine.reporters import offline_environment
from headnote_cli.upstream import train_on_one_gpu


def check_arguments(settings: Settings, plan: Plan, output_dir: Path) -> dict[str, Any]:
    """Let the libraries check their keys before anything is loaded; returns all effective values.

    Raises:
        ConfigError: Keys conflict, or need something that is missing; in the library's words.
    """
    arguments = training_arguments(settings, plan, output_dir)
    if arguments.activation_offloading and arguments.use_cpu:
        raise ConfigError("`activation_offloading: true` needs a GPU, whose activations would wait in main memory")
    with _in_our_words("optim", arguments.optim):
        Trainer.get_optimizer_cls_and_kwargs(arguments)
    with _in_our_words("lr_scheduler_type", arguments.lr_scheduler_type):
        some = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
        get_scheduler(arguments.lr_scheduler_type, some, 1, 10, arguments.lr_scheduler_kwargs)
    effective: dict[str, Any] = arguments.to_dict()
    return effective


@contextmanager
def _in_our_words(key: str, value: Any) -> Iterator[None]:
    """Report errors that the Trainer would raise only after loading the model."""
    try:
        yield
    except (ImportError, ValueError, TypeError, KeyError) as error:
        name = getattr(value, "value", value)
        raise ConfigError(f"`{key}: {name}` cannot be used: {str(error).strip().splitlines()[0]}") from error


def training_arguments(settings: Settings, plan: Plan, output_dir: Path) -> SFTConfig:
    """The config's training keys for TRL, with the plan's values."""
    names = {field.name for field in dataclasses.fields(SFTConfig)}
    values = {name: getattr(settings, name) for name in settings.model_fields_set & names}
    values.pop("hub_token", None)  # the Trainer writes its arguments into each checkpoint
    checkpointing = values.pop("gradient_checkpointing", settings.gradient_checkpointing)
    checkpointing_options = values.pop("gradient_checkpointing_kwargs", None)
    values.setdefault("activation_checkpointing", checkpointing)
    values.setdefault("activation_checkpointing_kwargs", checkpointing_options)
    values |= own_defaults(settings)
    if not plan.tf32:
        values.pop("tf32", None)
    if plan.padding_free and not settings.packing:
        values["max_length"] = None  # TRL requires rows that are already cut
    os.environ.update(offline_environment(plan.reporters))
    # Otherwise FlashAttention-2's backward sums in any order, and a resumed run would differ.
    os.environ.setdefault("FLASH_ATTENTION_DETERMINISTIC", "1")
    values.update(
        bf16=plan.bf16,
        fp16=plan.fp16,
        padding_free=plan.padding_free,
        use_liger_kernel=plan.liger,
        torch_compile=plan.compiles,
        trust_remote_code=plan.remote_code,
        output_dir=str(output_dir),
        resume_from_checkpoint=None,
        save_total_limit=None,  # see `Checkpoints`
        optim=plan.optimizer,
        report_to=[tracker.name for tracker in plan.reporters] or ["none"],
        use_cpu=plan.device == "cpu",
        dataset_num_proc=None,  # rows are already encoded
        completion_only_loss=True,
        chat_template_path=None,  # already in the tokenizer
        prediction_loss_only=True,
        disable_tqdm=True,
        dataloader_pin_memory=plan.device == "cuda" and settings.dataloader_pin_memory,
    )
    try:
        arguments = SFTConfig(**values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the training keys do not go together: {error}") from error
    train_on_one_gpu(arguments)  # within one process: a 4-bit model cannot be copied to other GPUs
    return arguments
