"""A trainer as `slds train` builds it, with adapters that are not zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from headnote_cli.config.layers import Config
from headnote_cli.machine.plan import Plan
from headnote_cli.models.base import base_model
from headnote_cli.models.loading import load_for_training, lora_config
from headnote_cli.training import job


def completion_trainer(config: Config, plan: Plan, rows: Any, tokenizer: Any) -> Any:
    """A CompletionTrainer on encoded rows. B starts at zero, which would hide A's gradients: adapters are random."""
    built = job.CompletionTrainer(
        model=load_for_training(base_model(config), config.settings, plan),
        args=job.training_arguments(config.settings, plan, Path(str(config.settings.output_dir))),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora_config(config.settings, plan),
    )
    job._adapters_in_float32(built.model, autocast=plan.dtype == "bfloat16")
    torch.manual_seed(1)
    for parameter in built.model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.02)
    return built
