"""What would help: the estimate repeated for single changes, and the largest batch and length that fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from headnote_cli.config.keys import Settings
from headnote_cli.memory.estimate import estimate
from headnote_cli.memory.setup import ALL_LINEAR, DEFAULT_LENGTH, Setup, checkpoints_activations, load_dtype
from headnote_cli.memory.shapes import Shapes

SetupFor = Callable[[Settings], Setup]  # for the requested stack and devices
Peak = Callable[[int, int], int]  # bytes for a batch and a length
WORTH_SAYING = 0.001  # share of the peak
MOST_ROWS, LONGEST = 1024, 131_072
GRID_BATCHES = (1, 2, 4, 8, 16)
GRID_LENGTHS = (1024, 2048, 4096, 8192, 16_384)


@dataclass(frozen=True)
class Advice:
    """One config change, its lines, and the peak with it."""

    what: str
    lines: tuple[str, ...]
    total: int
    saved: int


def advice(shapes: Shapes, settings: Settings, setup_for: SetupFor) -> list[Advice]:
    """Changes that lower the peak, largest saving first."""
    setup = setup_for(settings)
    now = estimate(shapes, setup).total
    changes = []
    for what, keys in _candidates(shapes, settings, setup):
        total = estimate(shapes, setup_for(settings.model_copy(update=keys))).total
        if now - total > WORTH_SAYING * now:
            lines = tuple(f"{key}: {_yaml(value)}" for key, value in keys.items())
            changes.append(Advice(what, lines, total, now - total))
    return sorted(changes, key=lambda change: -change.saved)


def _candidates(shapes: Shapes, settings: Settings, setup: Setup) -> Iterator[tuple[str, dict[str, Any]]]:
    """Changes that this setup does not have yet."""
    batch, length = settings.per_device_train_batch_size, settings.max_length or DEFAULT_LENGTH
    accumulation = settings.gradient_accumulation_steps
    on_gpu = not settings.use_cpu
    if not settings.use_peft:
        adapters = {"use_peft": True, "lora_r": 32, "lora_target_modules": "all-linear"}
        yield "LoRA adapters instead of all weights", adapters
        yield "QLoRA: adapters on a 4-bit base", adapters | {"load_in_4bit": True, "use_bnb_nested_quant": True}
    elif not settings.load_in_4bit:
        yield "a 4-bit base", {"load_in_8bit": False, "load_in_4bit": True, "use_bnb_nested_quant": True}
    elif not settings.use_bnb_nested_quant:
        yield "double quantization", {"use_bnb_nested_quant": True}
    if batch > 1:
        keys = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": batch * accumulation}
        yield "one row at a time, as many a step", keys
    if not checkpoints_activations(settings):
        yield "activation checkpointing", {"activation_checkpointing": True}
    if on_gpu and load_dtype(settings) == "float32":
        yield "16-bit weights", {"dtype": "bfloat16"}
    if on_gpu and settings.attn_implementation != "flash_attention_2":
        yield "FlashAttention-2", {"attn_implementation": "flash_attention_2"}
    if settings.attn_implementation == "eager":
        yield "SDPA attention", {"attn_implementation": "sdpa"}
    if on_gpu and not settings.use_liger_kernel:
        yield "Liger's kernels", {"use_liger_kernel": True}
    if settings.optim != "adamw_torch_4bit":
        yield "a 4-bit optimizer", {"optim": "adamw_torch_4bit"}
        if settings.optim != "adamw_bnb_8bit":
            yield "an 8-bit optimizer", {"optim": "adamw_bnb_8bit"}
    if settings.use_peft and settings.lora_dropout:
        yield "no dropout before the adapters", {"lora_dropout": 0.0}
    if settings.label_smoothing_factor:
        yield "no label smoothing, which needs all logits", {"label_smoothing_factor": 0.0}
    if setup.vision_adapted and shapes.vision_layers and setup.targets == ALL_LINEAR:
        ends = "|".join(name for name, _, _ in shapes.linear_modules())
        yield "no adapters in the unused vision tower", {"lora_target_modules": rf".*language_model.*\.({ends})"}
    for shorter in (length // 2, length // 4):
        if shorter >= 512:
            yield f"rows of at most {shorter:,} tokens", {"max_length": shorter}


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) and not value[:1].isalnum() else str(value)


def largest(fits: Callable[[int], bool], highest: int) -> int:
    """The largest number up to `highest` that fits, or 0. If a number fits, so must all smaller ones."""
    return bisect_left(range(1, highest + 1), True, key=lambda number: not fits(number))


def largest_batch(peak: Peak, length: int, budget: int) -> int:
    """The most rows per step that fit in `budget` bytes, or 0."""
    return largest(lambda batch: peak(batch, length) <= budget, MOST_ROWS)


def longest(peak: Peak, batch: int, budget: int) -> int:
    """The most tokens per row, in steps of 128, that fit in `budget` bytes."""
    return 128 * largest(lambda steps: peak(batch, 128 * steps) <= budget, LONGEST // 128)


def grid(peak: Peak) -> dict[int, dict[int, int]]:
    """Peaks by length and batch."""
    return {length: {batch: peak(batch, length) for batch in GRID_BATCHES} for length in GRID_LENGTHS}
