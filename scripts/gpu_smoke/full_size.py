"""Gemma 3 4B at full size with random weights: QLoRA by the shipped config, plain TRL beside it, and a merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headnote_cli.config.assets import assets_root
from scripts.gpu_smoke.models import Sizes, write_long_rows
from scripts.gpu_smoke.processes import Done, Work, gib, losses_of, record_of

STEPS = 4  # the first one compiles and is not timed
OUT_OF_MEMORY = "out of memory"


def config_of(work: Work, batch: int, sizes: Sizes, keys: dict[str, Any]) -> Path:
    """The shipped QLoRA config on long rows; the run with one row a step keeps its checkpoint, for the merge."""
    shipped = {
        "extends": str(assets_root() / "configs/ipst/slds/sft_liger_peft.yaml"), "max_length": sizes.length,
        "per_device_train_batch_size": batch, "gradient_accumulation_steps": 1, "max_steps": STEPS, "logging_steps": 1,
        "eval_strategy": "no", "dataset_subset": None, "save_strategy": "steps" if batch == 1 else "no",
        "save_steps": STEPS, "train_sampling_strategy": "sequential",
    }  # fmt: skip
    data = work.folder / "long-rows"
    if not data.is_dir():
        write_long_rows(data, sizes.length)
    return work.config(f"full-{batch}", work.folder / "full-size", data, **(shipped | keys))


def train_full_size(work: Work, sizes: Sizes, keys: dict[str, Any]) -> tuple[list[str], bool]:
    """`slds train` and plain TRL on the same rows with the same settings.

    Returns:
        The report's lines, and whether nothing failed: too little memory is no failure.
    """
    lines = [
        "| rows × tokens | | tokens/s | peak allocated | reserved | estimated allocated | losses |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    is_fine = True
    for batch in sizes.batches:
        config = config_of(work, batch, sizes, keys)
        run = work.folder / f"full-{batch}"
        ours = work.slds("train", "--config", config, "--ignore-memory", watched=run)
        theirs = work.module("plain_trl", config)
        for side, done, facts in (("slds", ours, _facts(ours, run)), ("plain TRL", theirs, _printed(theirs))):
            lines.append(f"| {batch} × {sizes.length:,} | {side} | {_row(done, facts)} |")
            is_fine &= not done.error or OUT_OF_MEMORY in done.error
    return lines, is_fine


def _facts(done: Done, run: Path) -> dict[str, Any]:
    """What a run of `slds train` came to."""
    if done.error:
        return {}
    record = record_of(run)
    tokens, seconds = record["metrics"]["tokens"] / STEPS, done.steps[-1] - done.steps[0]
    return {
        "tokens_per_second": tokens * (len(done.steps) - 1) / seconds,
        "estimated": (record.get("estimated_memory") or {}).get("allocated"),
        "losses": losses_of(run),
        **record["measured_memory"],
    }


def _printed(done: Done) -> dict[str, Any]:
    facts: dict[str, Any] = {} if done.error else json.loads(done.output.splitlines()[-1])
    return facts


def _row(done: Done, facts: dict[str, Any]) -> str:
    if done.error:
        return f"– | – | – | – | {OUT_OF_MEMORY if OUT_OF_MEMORY in done.error else f'failed: {done.error}'}"
    sizes = " | ".join(gib(facts.get(name)) for name in ("allocated", "reserved", "estimated"))
    losses = ", ".join(f"{loss:.3f}" for loss in facts["losses"])
    return f"{facts['tokens_per_second']:,.0f} | {sizes} | {losses}"


def merge_full_size(work: Work) -> tuple[list[str], bool]:
    """`slds merge` of the run with one row a step; without verification, which `take_the_road` has."""
    run = work.folder / "full-1"
    done = work.slds("merge", "--checkpoint", f"checkpoint-{STEPS}", "--config", f"{run}.yaml", "--no-verify")
    if done.error:
        return [f"failed: {done.error}"], False
    merged = run / f"checkpoint-{STEPS}-merged"
    size = sum(file.stat().st_size for file in merged.glob("*.safetensors"))
    return [f"{gib(size)} written in {done.seconds:.0f} s, peak of main memory {gib(done.peak_rss)}"], True
