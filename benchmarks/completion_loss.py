"""One loss and its gradients: scoring label positions alone against TRL's own path, alternating, on this CPU.

Prints the machine's measured float32 matmul rate, seconds of each side, and the ratio. The model is random, with
Gemma 3's vocabulary and a narrow decoder, so that the output layer's share is that of the real model.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

import headnote_cli.models  # noqa: F401 (quietens the libraries before they are imported)
from headnote_cli.training.job import CompletionTrainer

VOCABULARY, TOKENS, LABELS, ROWS = 262_208, 512, 64, 2


def trainer(folder: str) -> Any:
    """A CompletionTrainer on random rows of which the last positions are labels."""
    from tokenizers import Tokenizer, models

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0})), pad_token="<pad>")
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=640, intermediate_size=2048, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, pad_token_id=0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCABULARY, (ROWS, TOKENS), generator=generator).tolist()
    labels = [[-100] * (TOKENS - LABELS) + row[-LABELS:] for row in ids]
    options = SFTConfig(folder, use_cpu=True, bf16=False, activation_checkpointing=False, completion_only_loss=True)
    return CompletionTrainer(
        Gemma3ForCausalLM(config),
        args=options,
        train_dataset=Dataset.from_dict({"input_ids": ids, "labels": labels}),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def seconds(step: Callable[[], Any]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def matmul_rate(size: int = 2048, repeats: int = 5) -> float:
    """Measured float32 GFLOPS."""
    matrix = torch.randn(size, size)
    matrix @ matrix
    return 2 * size**3 * repeats / seconds(lambda: [matrix @ matrix for _ in range(repeats)]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        built = trainer(folder)
        batch = built.data_collator(list(built.train_dataset))
        sides = {
            "slds": lambda: built.compute_loss(built.model, dict(batch)).backward(),
            "trl": lambda: SFTTrainer.compute_loss(built, built.model, dict(batch)).backward(),
        }
        for step in sides.values():  # once to warm up
            step()
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(repeats):
            for name, step in sides.items():
                times[name].append(seconds(step))
    medians = {name: statistics.median(values) for name, values in times.items()}
    shape = f"vocabulary {VOCABULARY:,} · {ROWS} × {TOKENS} tokens, {LABELS} labels a row"
    print(f"matmul {matmul_rate():.0f} GFLOPS float32 · {shape}")
    print(f"slds {medians['slds']:.2f} s · trl {medians['trl']:.2f} s · ratio {medians['trl'] / medians['slds']:.1f}×")


if __name__ == "__main__":
    main()
