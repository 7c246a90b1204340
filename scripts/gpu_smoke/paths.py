"""Each path's losses beside those of the CPU in float32, and the whole road through the one that does most."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headnote_cli.config.assets import assets_root
from scripts.gpu_smoke.models import sample_rows
from scripts.gpu_smoke.processes import Done, Failed, Work, gib, losses_of, record_of

STEPS = 3
# Loss beside the CPU's float32: bfloat16 keeps 8 bits, 4-bit weights are other weights.
CLOSE, CLOSE_IN_4_BITS = 0.05, 0.3
COMMON: dict[str, Any] = {
    "model_class": "AutoModelForImageTextToText", "use_peft": True, "lora_r": 8, "lora_target_modules": "all-linear",
    "lora_task_type": "CAUSAL_LM", "lora_dropout": 0.0, "max_length": 1024, "max_steps": STEPS, "logging_steps": 1,
    "per_device_train_batch_size": 2, "save_strategy": "no", "train_sampling_strategy": "sequential",
    "learning_rate": 1e-4, "seed": 1, "optim": "adamw_torch",
}  # fmt: skip
ON_CPU = {"use_cpu": True, "bf16": False, "dtype": "float32", "attn_implementation": "sdpa"}
ON_GPU = {"bf16": True, "dtype": "bfloat16", "attn_implementation": "sdpa"}
FLASH = {"attn_implementation": "flash_attention_2"}
NF4 = {"load_in_4bit": True, "use_bnb_nested_quant": True}
LIGER = {"use_liger_kernel": True}
ADAMW_4BIT = {"optim": "adamw_torch_4bit"}
ALL_OF_IT = ON_GPU | NF4 | LIGER | ADAMW_4BIT  # what the shipped config asks for, but for FlashAttention-2


@dataclass(frozen=True)
class Way:
    """A way to train: keys of the config, and the processes that it takes."""

    keys: dict[str, Any]
    processes: int = 1

    @property
    def tolerance(self) -> float:
        return CLOSE_IN_4_BITS if "load_in_4bit" in self.keys else CLOSE


def paths(gpus: int) -> dict[str, Way]:
    """The paths of this machine by name; the CPU's plain one is the measure of the others."""
    cpu = {"CPU, float32": Way(ON_CPU), "CPU, NF4": Way(ON_CPU | NF4)}
    if not gpus:
        return cpu | {"CPU, 4-bit AdamW": Way(ON_CPU | ADAMW_4BIT)}
    gpu = {
        "GPU, float32": Way(ON_GPU | {"bf16": False, "dtype": "float32"}),
        "GPU, bf16": Way(ON_GPU),
        "GPU, bf16, FlashAttention-2": Way(ON_GPU | FLASH),
        "GPU, bf16, FlashAttention-2, padding-free": Way(ON_GPU | FLASH | {"padding_free": True}),
        "GPU, bf16, Liger": Way(ON_GPU | LIGER),
        "GPU, bf16, NF4": Way(ON_GPU | NF4),
        "GPU, bf16, 4-bit AdamW": Way(ON_GPU | ADAMW_4BIT),
        "GPU, all of it, SDPA": Way(ALL_OF_IT),
        "GPU, all of it, FlashAttention-2": Way(ALL_OF_IT | FLASH),
    }
    # The CPU's two rows a step, one on each.
    two = {"2 GPUs, DDP, bf16": Way(ON_GPU | {"per_device_train_batch_size": 1}, processes=2)}
    return cpu | gpu | (two if gpus > 1 else {})


def compare_paths(work: Work, gpus: int) -> tuple[list[str], bool, bool]:
    """Train `STEPS` steps on each path.

    Returns:
        The report's lines; whether nothing failed; whether FlashAttention-2 can be had.
    """
    model = work.model("few-layers", "cuda" if gpus else "cpu")
    ways = paths(gpus)
    at_a_time = max(1, min(4, (os.cpu_count() or 1) // 4))  # losses and allocated bytes do not depend on it
    with ThreadPoolExecutor(at_a_time) as pool:
        done = dict(zip(ways, pool.map(lambda name: _train(work, model, name, ways[name]), ways), strict=True))
    lines = ["| path | losses | differ from the CPU's by at most | peak | estimated | |", "|---|---|--:|--:|--:|---|"]
    whole, reference = True, _losses(work, "CPU, float32")
    for name, way in ways.items():
        row, is_fine = _row(work, name, way, done[name], reference)
        lines.append(row)
        whole &= is_fine
    flash = bool(gpus) and not done["GPU, all of it, FlashAttention-2"].error
    return lines, whole, flash


def _train(work: Work, model: Path, name: str, way: Way) -> Done:
    config = work.config(_folder(name), model, assets_root() / "samples/slds", **(COMMON | way.keys))
    processes = ["--num-processes", way.processes] if way.processes > 1 else []
    return work.slds("train", "--config", config, "--strict", "--ignore-memory", *processes)


def _row(work: Work, name: str, way: Way, done: Done, reference: list[float]) -> tuple[str, bool]:
    if done.error:
        verdict = "not possible here" if done.is_impossible else "failed"
        return f"| {name} | – | – | – | – | {verdict}: {done.error} |", done.is_impossible
    losses, record = _losses(work, name), record_of(work.folder / _folder(name))
    apart = max(abs(mine - theirs) for mine, theirs in zip(losses, reference, strict=True))
    measured = record["measured_memory"].get("allocated")
    estimated = (record.get("estimated_memory") or {}).get("allocated") if measured else None
    shown = ", ".join(f"{loss:.4f}" for loss in losses)
    verdict = "good" if apart <= way.tolerance else f"off by more than {way.tolerance}"
    return (
        f"| {name} | {shown} | {apart:.4f} | {gib(measured)} | {gib(estimated)} | {verdict} |",
        apart <= way.tolerance,
    )


def _losses(work: Work, name: str) -> list[float]:
    folder = work.folder / _folder(name)
    return losses_of(folder) if (folder / "metrics.jsonl").is_file() else []


def _folder(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


class Road:
    """What a user does, with samples and a resume; each step's method says what came of it."""

    def __init__(self, work: Work, keys: dict[str, Any]) -> None:
        self.work = work
        self.run = work.folder / "road"
        every_two = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps",
                     "eval_steps": 2, "dataset_eval_split": "validation"}  # fmt: skip
        self.config = work.config(
            "road", work.folder / "few-layers", assets_root() / "samples/slds", **(COMMON | keys | every_two)
        )

    def train(self) -> str:
        self._train()
        samples = len(list((self.run / "samples").glob("*.jsonl")))
        return f"losses {', '.join(f'{loss:.4f}' for loss in losses_of(self.run))}; samples at {samples} evaluations"

    def resume(self) -> str:
        before = losses_of(self.run)
        shutil.rmtree(self.run / "checkpoint-4")
        self._train()
        apart = max(abs(mine - theirs) for mine, theirs in zip(losses_of(self.run), before, strict=True))
        return "the same losses bit for bit" if apart == 0 else f"losses differ by up to {apart:.2g}"

    def merge(self) -> str:
        self.work.slds("merge", "--checkpoint", "checkpoint-4", "--config", self.config, "--verify").require()
        return "verified"

    def generate(self) -> str:
        decision = self.work.folder / "decision.txt"
        decision.write_text(sample_rows()[0]["decision"], encoding="utf-8")
        merged = ("--model", self.run / "checkpoint-4-merged", "--max-new-tokens", 16)
        self.work.slds("generate", "--decision", decision, "--lang", "de", "--config", self.config, *merged).require()
        return "written"

    def _train(self) -> None:
        self.work.slds("train", "--config", self.config, "--strict", "--ignore-memory", "--sample", 1).require()


def take_the_road(work: Work, gpus: int, flash: bool) -> tuple[list[str], bool]:
    """Train, lose the last checkpoint, resume, merge with verification, generate; the report's lines, and whether
    nothing failed."""
    road = Road(work, ALL_OF_IT | (FLASH if flash else {}) if gpus else ON_CPU | NF4)
    lines = ["| step | |", "|---|---|"]
    steps: dict[str, Callable[[], str]] = {
        "train --sample 1": road.train, "train, resumed": road.resume, "merge --verify": road.merge,
        "generate": road.generate,
    }  # fmt: skip
    for name, step in steps.items():
        try:
            lines.append(f"| {name} | {step()} |")
        except (Failed, OSError, ValueError) as error:
            return [*lines, f"| {name} | failed: {error} |"], False
    return lines, True
