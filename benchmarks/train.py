"""One epoch by plain TRL (the recipe's `SFTTrainer` call) and by slds' trainer, alternating, on this CPU in float32.

64 rows of random ids whose lengths are those of real decisions (90 real ones give the quantiles below), divided by
`--shrink` so that an epoch takes minutes; the share of labels is the real one. (a) a narrow Gemma 3 with its
vocabulary of 262,208, (b) the demo's SmolLM2-135M. Prints tokens a second of both, the ratio, the largest difference
of the loss over three steps on the same batches, and the share of the machine's own matmul rate.

    python benchmarks/train.py [--shrink 16] [--repeats 1] [--only a|b]
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    PrinterCallback,
    ProgressCallback,
)
from trl import SFTConfig, SFTTrainer

import headnote_cli.engine  # noqa: F401 (quietens the libraries before they are imported)
from headnote_cli.engine.trainer import CompletionTrainer

ROOT = Path(__file__).resolve().parents[1]
DEMO_MODEL = ROOT / ".cache" / "demo" / "SmolLM2-135M-Instruct"
# Tokens (Gemma's tokenizer) of real decisions at every tenth quantile, at most 8,192, and of a headnote.
QUANTILES, HEADNOTE, LONGEST = (1200, 2800, 3600, 4500, 5400, 6307, 7300, 8192, 8192, 8192, 8192), 210, 8192
ROWS, BATCH, VOCABULARY = 64, 4, 262_208


def rows(vocabulary: int, shrink: int) -> Dataset:
    """Random ids; the last positions are the completion."""
    dice = random.Random(0)
    ids, masks = [], []
    for _ in range(ROWS):
        low = dice.randrange(10)
        length = round(dice.uniform(QUANTILES[low], QUANTILES[low + 1]) / shrink)
        labelled = max(4, round(HEADNOTE / shrink))
        ids.append([dice.randrange(1, vocabulary) for _ in range(length)])
        masks.append([0] * (length - labelled) + [1] * labelled)
    return Dataset.from_dict({"input_ids": ids, "completion_mask": masks})


def labelled(data: Dataset) -> Dataset:
    """The same rows as slds prepares them."""
    labels = [
        [token if kept else -100 for token, kept in zip(row["input_ids"], row["completion_mask"], strict=True)]
        for row in data
    ]
    return Dataset.from_dict({"input_ids": data["input_ids"], "labels": labels})


def gemma() -> tuple[Any, Any]:
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"<pad>": 0}))
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=320, intermediate_size=1280, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=1, head_dim=128, pad_token_id=0,
    )  # fmt: skip
    return Gemma3ForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")


def demo() -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(DEMO_MODEL)


def trainer(side: str, model: Any, tokenizer: Any, data: Dataset, folder: str, **keys: Any) -> Any:
    """The recipe's call, or ours, with the same model, adapters and rows."""
    options = {"use_cpu": True, "bf16": False, "activation_checkpointing": False, "completion_only_loss": True,
               "per_device_train_batch_size": BATCH, "num_train_epochs": 1, "save_strategy": "no", "logging_steps": 1,
               "learning_rate": 2e-4, "max_length": LONGEST, "report_to": "none", "disable_tqdm": True}  # fmt: skip
    ours = side == "slds"
    grouped = {"train_sampling_strategy": "group_by_length"} if ours else {}
    built = (CompletionTrainer if ours else SFTTrainer)(
        model,
        args=SFTConfig(folder, **(options | grouped | keys)),
        train_dataset=labelled(data) if ours else data,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for noisy in (ProgressCallback, PrinterCallback):
        built.remove_callback(noisy)
    return built


def epoch(side: str, make: Any, data: Dataset, **keys: Any) -> tuple[float, list[float]]:
    """Seconds of training, and the logged losses."""
    with tempfile.TemporaryDirectory() as folder:
        built = trainer(side, *make(), data, folder, **keys)
        started = time.perf_counter()
        built.train()
        seconds = time.perf_counter() - started
        losses = [line["loss"] for line in built.state.log_history if "loss" in line]
    del built
    gc.collect()
    return seconds, losses


def matmul_rate(size: int = 2048, repeats: int = 8) -> float:
    """Measured float32 FLOPS."""
    matrix = torch.randn(size, size)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(repeats):
        matrix @ matrix
    return 2 * size**3 * repeats / (time.perf_counter() - started)


def needed_flops(model: Any, data: Dataset) -> float:
    """Multiplications that LoRA cannot do without: linear layers forward and back, the output layer on labels."""
    tokens = sum(len(row) for row in data["input_ids"])
    labels = sum(sum(row) for row in data["completion_mask"])
    head = model.get_output_embeddings()
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    attention = 0
    config = model.config
    for row in data["input_ids"]:  # scores and their product with values, forward and twice back, causal half
        attention += 3 * 2 * len(row) ** 2 * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    return 4.0 * linear * tokens + 4.0 * head.weight.numel() * labels + attention


def compare(name: str, make: Any, shrink: int, repeats: int) -> None:
    model, _ = make()
    vocabulary = model.get_input_embeddings().num_embeddings
    if not getattr(model.config, "head_dim", None):
        model.config.head_dim = model.config.hidden_size // model.config.num_attention_heads
    data = rows(vocabulary, shrink)
    flops, tokens = needed_flops(model, data), sum(len(row) for row in data["input_ids"])
    del model
    same = {"train_sampling_strategy": "sequential", "max_steps": 3, "seed": 1}
    curves = [epoch(side, make, data, **same)[1] for side in ("slds", "trl")]
    difference = max(abs(mine - theirs) for mine, theirs in zip(*curves, strict=True))
    times: dict[str, list[float]] = {"trl": [], "slds": []}
    rates = []
    for _ in range(repeats):
        for side, values in times.items():
            rates.append(matmul_rate())
            values.append(epoch(side, make, data)[0])
    medians = {side: statistics.median(values) for side, values in times.items()}
    rate = statistics.median(rates)
    print(f"{name}: {ROWS} rows, {tokens:,} tokens, vocabulary {vocabulary:,}; matmul {rate / 1e9:.0f} GFLOPS float32")
    for side, seconds in medians.items():
        share = flops / seconds / rate
        print(f"  {side:5} {seconds:7.1f} s  {tokens / seconds:7.0f} tokens/s  {share:4.0%} of the matmul rate")
    print(
        f"  ratio {medians['trl'] / medians['slds']:.1f}×; largest difference of the loss {difference:.1e}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shrink", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=["a", "b"])
    options = parser.parse_args()
    sides = {"a": ("(a) a narrow Gemma 3", gemma), "b": ("(b) SmolLM2-135M", demo)}
    for key, (name, make) in sides.items():
        if options.only in (None, key):
            compare(name, make, options.shrink, options.repeats)


if __name__ == "__main__":
    main()
