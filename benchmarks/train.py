"""One epoch by plain TRL (the recipe's `SFTTrainer` call) and by `slds train`, alternating, on this CPU in float32.

64 rows of random ids whose lengths are those of real decisions (90 real ones give the quantiles below), divided by
`--shrink` so that an epoch takes minutes; the share of labels is the real one. (a) a narrow Gemma 3 with its
vocabulary of 262,208, (b) the demo's SmolLM2-135M. The side of slds is the command's own: a config, its plan, and the
engine's `train` with every callback. Model, adapters, rows and precision are the same; neither saves checkpoints.

Prints tokens a second of both, the ratio, the largest difference of the loss curves on the same batches, the share of
the machine's own matmul rate, and where a step's time goes.

    python benchmarks/train.py [--shrink 16] [--repeats 1] [--only a|b] [--profile-only]
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from rates import times_a_second
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from headnote_cli.config.layers import load_config
from headnote_cli.events import Event, TrainingStarted
from headnote_cli.machine.plan import resolve
from headnote_cli.models.base import base_model, load_model_config, load_tokenizer
from headnote_cli.models.loading import this_machine
from headnote_cli.runs.folders import Run
from headnote_cli.training.job import TrainingJob
from headnote_cli.training.job import train as slds_train

ROOT = Path(__file__).resolve().parents[1]
DEMO_MODEL = ROOT / ".cache" / "demo" / "SmolLM2-135M-Instruct"
# Tokens (Gemma's tokenizer) of real decisions at every tenth quantile, at most 8,192, and of a headnote.
QUANTILES, HEADNOTE, LONGEST = (1200, 2800, 3600, 4500, 5400, 6307, 7300, 8192, 8192, 8192, 8192), 210, 8192
ROWS, BATCH, VOCABULARY = 64, 4, 262_208
LORA: dict[str, Any] = {
    "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM",
}  # fmt: skip
# Keys of both sides.
COMMON: dict[str, Any] = {
    "use_cpu": True, "bf16": False, "per_device_train_batch_size": BATCH, "num_train_epochs": 1, "save_strategy": "no",
    "logging_steps": 1, "learning_rate": 2e-4, "max_length": LONGEST, "report_to": "none", "seed": 1,
    "optim": "adamw_torch",
}  # fmt: skip
SAME_BATCHES = {"train_sampling_strategy": "sequential", "max_steps": 4}
# Parts of a step by the operators they are made of; the first that fits counts.
OPERATORS = {
    "attention": ("scaled_dot_product", "flash_attention"),
    "matmul": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "loss": ("log_softmax", "nll_loss", "cross_entropy"),
    "embedding": ("aten::embedding", "aten::index"),
}


@dataclass(frozen=True)
class Epoch:
    """One training call, from its first step to its last."""

    seconds: float
    losses: list[float]


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
    names = [str(number) for number in range(len(data))]
    return Dataset.from_dict({"input_ids": data["input_ids"], "labels": labels, "name": names})


def narrow_gemma(folder: Path) -> Path:
    """A random Gemma 3 decoder with its own vocabulary, saved."""
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=320, intermediate_size=1280, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=1, head_dim=128, pad_token_id=0,
    )  # fmt: skip
    Gemma3ForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    return folder


def trl(model: Path, data: Dataset, folder: Path, keys: dict[str, Any], begin: Callable[[], object]) -> Epoch:
    """The recipe's call."""

    class Begin(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            begin()

    set_seed(COMMON["seed"])
    options = {"activation_checkpointing": False, "completion_only_loss": True, "disable_tqdm": True}
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=SFTConfig(str(folder), **(COMMON | options | keys)),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(**LORA),
        callbacks=[Begin()],
    )
    for noisy in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(noisy)
    seconds = trainer.train().metrics["train_runtime"]
    return Epoch(seconds, [line["loss"] for line in trainer.state.log_history if "loss" in line])


def slds(model: Path, data: Dataset, folder: Path, keys: dict[str, Any], begin: Callable[[], object]) -> Epoch:
    """What the command does, after it has prepared the rows."""
    config_keys = {
        "model_class": "AutoModelForCausalLM", "model_name_or_path": str(model), "output_dir": str(folder / "run"),
        "dtype": "float32", "gradient_checkpointing": False, "use_peft": True, "lora_r": LORA["r"],
        "lora_alpha": LORA["lora_alpha"], "lora_dropout": LORA["lora_dropout"], "lora_task_type": LORA["task_type"],
        "lora_target_modules": LORA["target_modules"],
    }  # fmt: skip
    file = folder / "config.yaml"
    file.write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in (COMMON | config_keys | keys).items()))
    config = load_config(file)
    base = base_model(config)
    plan = resolve(config.settings, this_machine(), load_model_config(base).model_type)
    set_seed(config.settings.seed)
    job = TrainingJob(
        base, config.settings, plan, load_tokenizer(base), labelled(data), eval_rows=None, output_dir=folder / "run"
    )

    def listen(event: Event) -> None:
        if isinstance(event, TrainingStarted):
            begin()

    seconds = slds_train(job, listen).seconds
    return Epoch(seconds, [line["loss"] for line in Run(folder / "run").metrics() if "loss" in line])


SIDES = {"trl": trl, "slds": slds}


def epoch(
    side: str, model: Path, data: Dataset, keys: dict[str, Any] | None = None, begin: Any = lambda: None
) -> Epoch:
    with tempfile.TemporaryDirectory() as folder:
        done = SIDES[side](model, data, Path(folder), keys or {}, begin)
    gc.collect()
    return done


def matmul_rate(size: int = 2048) -> float:
    """Float32 FLOPS of a product of two square matrices."""
    matrix = torch.randn(size, size)
    return 2 * size**3 * times_a_second(lambda: matrix @ matrix)


def needed_flops(folder: Path, data: Dataset) -> float:
    """Operations that LoRA cannot do without: linear layers forward and back, its adapters forward, back and for
    their own gradients, the output layer on labels, attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = sum(len(row) for row in data["input_ids"])
    labels = sum(sum(row) for row in data["completion_mask"])
    head, config = model.get_output_embeddings(), model.config
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    linear = sum(layer.weight.numel() for layer in layers)
    adapters = sum(LORA["r"] * (layer.in_features + layer.out_features) for layer in layers)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    # Scores and their product with values, forward and twice back, the causal half.
    attention = sum(3 * 2 * len(row) ** 2 * width * config.num_hidden_layers for row in data["input_ids"])
    return (4.0 * linear + 6.0 * adapters) * tokens + 4.0 * head.weight.numel() * labels + attention


def parts(side: str, model: Path, data: Dataset, steps: int = 3) -> dict[str, float]:
    """Seconds of a few steps by part, largest first, from torch's profiler (which itself slows small operators)."""
    profiler = profile(activities=[ProfilerActivity.CPU])
    epoch(side, model, data, {"max_steps": steps, "train_sampling_strategy": "sequential"}, begin=profiler.start)
    profiler.stop()
    seconds: Counter[str] = Counter()
    for event in profiler.events():
        seconds[_part(event)] += event.self_cpu_time_total / 1e6
    return dict(seconds.most_common())


def _part(event: Any) -> str:
    """The part of a step that an operator belongs to, by its name and by what it is called from."""
    above, callers = event.cpu_parent, []
    while above is not None:
        callers.append(above.name)
        above = above.cpu_parent
    chain = [event.name, *callers]
    if any("Optimizer." in name for name in chain):
        return "optimizer"
    if any("DataLoader" in name for name in chain):
        return "data"
    way = "backward" if any("evaluate_function" in name for name in chain) else "forward"
    for part, names in OPERATORS.items():
        if any(name.startswith(known) or known in name for name in chain for known in names):
            return f"{part}, {way}"
    return f"norm, rope, activation and other, {way}"


def show_parts(name: str, side: str, model: Path, data: Dataset) -> None:
    found = parts(side, model, data)
    whole = sum(found.values())
    print(f"  where {side}'s time goes, {name}:")
    for part, seconds in found.items():
        print(f"    {part:42} {seconds:7.2f} s  {seconds / whole:4.0%}")


def compare(name: str, model: Path, data: Dataset, repeats: int) -> None:
    """Both sides in turn; the machine's own rate is measured before and after each."""
    flops, tokens = needed_flops(model, data), sum(len(row) for row in data["input_ids"])
    curves = [epoch(side, model, data, SAME_BATCHES).losses for side in SIDES]
    difference = max(abs(mine - theirs) for mine, theirs in zip(*curves, strict=True))
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    rates = []
    for _ in range(repeats):
        for side, values in times.items():
            rates.append(matmul_rate())
            values.append(epoch(side, model, data).seconds)
            rates.append(matmul_rate())
    medians = {side: statistics.median(values) for side, values in times.items()}
    rate = statistics.median(rates)
    print(f"{name}: {ROWS} rows, {tokens:,} tokens; matmul {rate / 1e9:.0f} GFLOPS float32")
    for side, seconds in medians.items():
        share = flops / seconds / rate
        print(f"  {side:5} {seconds:7.1f} s  {tokens / seconds:7.0f} tokens/s  {share:4.0%} of the matmul rate")
    print(f"  ratio {medians['trl'] / medians['slds']:.1f}×; largest difference of the loss {difference:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shrink", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=["a", "b"])
    parser.add_argument("--profile-only", action="store_true", help="where slds' time goes, and nothing else")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "a": ("(a) a narrow Gemma 3", lambda: narrow_gemma(Path(folder)), VOCABULARY),
            "b": ("(b) SmolLM2-135M", lambda: DEMO_MODEL, 49_152),
        }
        for key, (name, model_of, vocabulary) in sides.items():
            if options.only not in (None, key):
                continue
            model, data = model_of(), rows(vocabulary, options.shrink)
            if not options.profile_only:
                compare(name, model, data, options.repeats)
            show_parts(name, "slds", model, data)


if __name__ == "__main__":
    main()
