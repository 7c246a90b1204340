"""Rows a second of preparing rows for training: slds against TRL's own preparation, same rows, same tokenizer.

The sides alternate. TRL runs as the recipe calls it (`dataset_num_proc` processes), and cuts what is too long; slds
shortens it. A second start of slds takes its cache. Rows are the shipped samples, or those of a folder.

    python benchmarks/prepare.py [--model FOLDER] [--data FOLDER] [--rows N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig
from trl import SFTConfig, SFTTrainer

import headnote_cli.models  # noqa: F401 (quietens the libraries before they are imported)
from headnote_cli.config.layers import load_config
from headnote_cli.data.encoding import Encoder
from headnote_cli.data.preparation import prepare
from headnote_cli.data.prompts import PromptTemplates
from headnote_cli.data.row_files import stream_rows
from headnote_cli.data.sources import load_split

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "bge"
MAX_LENGTH = 8192


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / ".cache/demo/SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, default=REAL if REAL.is_dir() else ROOT / "samples" / "slds")
    parser.add_argument("--rows", type=int, default=174)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    templates = PromptTemplates(ROOT / "prompts" / "ipst" / "slds")
    rows = [row for _, row in islice(stream_rows(options.data / "train.jsonl"), options.rows)]
    encoder = Encoder(tokenizer, templates, MAX_LENGTH)
    config = Gemma3TextConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                              num_attention_heads=1, num_key_value_heads=1, head_dim=8)  # fmt: skip
    model = Gemma3ForCausalLM(config)
    parallel = f"trl, {options.processes} processes"
    # Encoding is what is measured: TRL is given conversations that are rendered already.
    times: dict[str, list[float]] = {"slds": [], "slds, second start": [], "trl": [], parallel: []}

    def run_slds(folder: str) -> None:
        config = load_config(ROOT / "configs" / "demo.yaml", [f"dataset_name={folder}"])
        prepare(load_split(config, "train"), encoder, options.processes)

    def run_trl(processes: int | None, folder: str, salt: str) -> None:
        conversations = (vars(templates.conversation(row)) for row in rows)
        data = Dataset.from_list([conversation | {"salt": salt} for conversation in conversations])
        arguments = SFTConfig(folder, max_length=MAX_LENGTH, dataset_num_proc=processes, use_cpu=True, bf16=False,
                              activation_checkpointing=False)  # fmt: skip
        SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)

    for repeat in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SLDS_CACHE"] = f"{folder}/cache"
            lines = (json.dumps(row | {"repeat": repeat}, ensure_ascii=False) for row in rows)
            (Path(folder) / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
            times["slds"].append(seconds(lambda f=folder: run_slds(f)))
            times["slds, second start"].append(seconds(lambda f=folder: run_slds(f)))
            times["trl"].append(seconds(lambda f=folder, s=f"{repeat}": run_trl(None, f, s)))
            times[parallel].append(seconds(lambda f=folder, s=f"{repeat} parallel": run_trl(options.processes, f, s)))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{len(rows)} rows of {options.data}, max_length {MAX_LENGTH}")
    for name, value in medians.items():
        print(f"{name:22} {len(rows) / value:10.1f} rows/s   {medians['trl'] / value:8.2f} × trl's rate")
    print(f"second start: {medians['slds'] / medians['slds, second start']:.0f} × the rate of the first")


if __name__ == "__main__":
    main()
