"""The recipe's `SFTTrainer` call with a config's settings, on the rows that `slds train` has prepared from it.

python -m scripts.gpu_smoke.plain_trl CONFIG
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import TrainerCallback
from trl import ModelConfig, SFTTrainer, get_quantization_config

import headnote_cli.models  # noqa: F401 (quietens the libraries before they are imported)
from headnote_cli.config.layers import Config, load_config
from headnote_cli.data.encoding import IGNORED, encoder_for
from headnote_cli.data.preparation import prepare
from headnote_cli.data.prompts import PromptTemplates
from headnote_cli.data.sources import load_split
from headnote_cli.machine.plan import Plan, resolve
from headnote_cli.models.base import base_model, load_model_config, load_tokenizer
from headnote_cli.models.loading import lora_config, this_machine
from headnote_cli.training.arguments import training_arguments


class Timer(TrainerCallback):  # type: ignore[misc]
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.monotonic())


def load(config: Config, plan: Plan) -> Any:
    """The base as TRL's own scripts load it."""
    settings = config.settings
    model_config = ModelConfig(
        load_in_4bit=settings.load_in_4bit, bnb_4bit_quant_type=settings.bnb_4bit_quant_type,
        use_bnb_nested_quant=settings.use_bnb_nested_quant, dtype=plan.dtype,
    )  # fmt: skip
    options: dict[str, Any] = {"dtype": getattr(torch, plan.dtype), "attn_implementation": plan.attention}
    quantization = get_quantization_config(model_config)
    if quantization is not None:
        options |= {"quantization_config": quantization, "device_map": {"": plan.device}}
    return getattr(transformers, settings.model_class).from_pretrained(settings.model_name_or_path, **options)


def rows_of(config: Config, tokenizer: Any) -> Dataset:
    """The prepared rows in the columns that TRL takes."""
    encoder = encoder_for(config, PromptTemplates(Path(str(config.settings.prompts_path))), tokenizer)
    prepared = prepare(load_split(config, "train"), encoder, workers=1).dataset
    masks = [[int(label != IGNORED) for label in row] for row in prepared["labels"]]
    return Dataset.from_dict({"input_ids": list(prepared["input_ids"]), "completion_mask": masks})


def main() -> None:
    config = load_config(Path(sys.argv[1]))
    base = base_model(config)
    tokenizer = load_tokenizer(base)
    plan = resolve(config.settings, this_machine(), load_model_config(base).model_type)
    arguments = training_arguments(config.settings, plan, Path(f"{sys.argv[1]}-trl"))
    arguments.save_strategy = "no"
    timer = Timer()
    trainer = SFTTrainer(
        load(config, plan),
        args=arguments,
        train_dataset=rows_of(config, tokenizer),
        processing_class=tokenizer,
        peft_config=lora_config(config.settings, plan),
        callbacks=[timer],
    )
    try:
        trainer.train()
    except torch.OutOfMemoryError as error:
        sys.exit(f"error: out of memory: {error}")
    steps, state = len(timer.ends), trainer.state
    tokens = max(entry.get("num_tokens", 0) for entry in state.log_history) / steps
    facts = {
        "tokens_per_second": tokens * (steps - 1) / (timer.ends[-1] - timer.ends[0]),
        "losses": [entry["loss"] for entry in state.log_history if "loss" in entry],
    }
    if torch.cuda.is_available():
        facts |= {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    sys.stdout.write(json.dumps(facts))


if __name__ == "__main__":
    main()
