"""Headnotes for many decisions: `slds generate`'s decoder and a plain loop of transformers' `generate`, in turn.

    python benchmarks/generate.py [--decisions 40] [--written 200] [--short] [--others] [--data FOLDER]
    python benchmarks/generate.py --without NAME [--decisions 4] [--written 100]

The demo's SmolLM2-135M in float32, greedy; the same prompts and as many new tokens on both sides, whose tokens are
compared. Prompts are as long as those of real decisions (read from the test, validation and train split in `--data
FOLDER`, else the quantiles below). `--short`: 40 prompts of 64 to 256 tokens with long answers. `--others`:
transformers' pipeline with a fixed batch, and its continuous batching.

`--without NAME`: one of the tricks of `generation/cpu.py` and `generation/decoder.py` is left out; both sides run in
processes of their own, alternating, and the ratio is printed.

The bound: reading at the matmul rate that this machine shows on the model's own shapes, and one pass over the weights
for each step of all rows, with their keys and values, at the rate at which it reads memory. It is printed twice: at the
rates of PyTorch's own products, which the plain loop has, and at the fastest that were seen (the better of these and of
oneDNN's product and a sum).
A shared machine is not equally fast for half an hour: the rates are taken before and after each reading, for seconds
that do not count.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rates import times_a_second
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline
from transformers.utils import logging

from headnote_cli.generation import cpu
from headnote_cli.generation import decoder as decoding
from headnote_cli.generation.cpu import product
from headnote_cli.generation.decoder import MOST_ROWS, Decoder, Prefill, RowState
from headnote_cli.generation.sampling import Sampling

DEMO_MODEL = Path(__file__).resolve().parents[1] / ".cache" / "demo" / "SmolLM2-135M-Instruct"
# Tokens (Gemma's tokenizer) of real decisions at every tenth quantile.
QUANTILES = (1200, 2800, 3600, 4500, 5400, 6307, 7300, 7680, 7680, 7680, 7680)
LONGEST = 7680  # SmolLM2 reads 8,192 tokens, the answer among them
SLOTS = MOST_ROWS["cpu"]

# What leaves a trick out.
TRICKS: dict[str, Callable[[], object]] = {
    "products": lambda: setattr(cpu, "ONEDNN", False),
    "attention": lambda: setattr(cpu, "attention_of", lambda model: "another"),
    "rows": lambda: setattr(decoding, "MOST_ROWS", {"cpu": 1}),
}

Prompts = list[list[int]]
Rates = tuple[float, float]  # floating-point operations and bytes a second


def real_prompts(folder: Path, count: int) -> Prompts:
    """The first decisions of a folder's splits, each once, as long as they are; the longest are cut."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL)
    files = (folder / f"{split}.jsonl" for split in ("test", "validation", "train"))
    lines = (line for file in files for line in file.read_text(encoding="utf-8").splitlines())
    texts = dict.fromkeys(json.loads(line)["decision"] for line in lines)
    return [tokenizer(text).input_ids[:LONGEST] for text in list(texts)[:count]]


def random_prompts(count: int, short: bool) -> Prompts:
    """Random ids as long as real decisions, or short ones."""
    dice = random.Random(1)

    def length() -> int:
        if short:
            return dice.randint(64, 256)
        place = dice.random() * (len(QUANTILES) - 1)
        low = QUANTILES[int(place)]
        return int(low + (QUANTILES[int(place) + 1] - low) * (place % 1))

    return [[dice.randrange(10, 40_000) for _ in range(length())] for _ in range(count)]


def plain_loop(model: Any, prompts: Prompts, new: int) -> Prompts:
    """What one would write without a tool."""
    written = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False,
                eos_token_id=[], pad_token_id=0,
            )  # fmt: skip
            written.append(out[0, len(prompt) :].tolist())
    return written


class Watched(Decoder):
    """The command's own decoder, with the machine's rates around each reading."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, [])
        self.rates: list[dict[str, Rates]] = []
        self.aside = 0.0  # seconds that this took

    def _read(self, row: RowState) -> Prefill:
        self._measure()
        read = super()._read(row)
        self._measure()
        return read

    def _measure(self) -> None:
        began = time.perf_counter()
        self.rates.append(machine_rates(self.model))
        self.aside += time.perf_counter() - began


def slds(model: Any, prompts: Prompts, new: int) -> tuple[Prompts, float]:
    """What is written and the seconds it takes, longest prompts first as the command sorts them."""
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    rows = [RowState(place, prompts[place], 0) for place in order]
    began, decoder = time.perf_counter(), Watched(model)
    done = {row.name: row.written for row in decoder.write(rows, Sampling(max_new_tokens=new))}
    taken = time.perf_counter() - began - decoder.aside
    tell_bound(model, prompts, new, decoder.rates, taken)
    return [done[place] for place in range(len(prompts))], taken


def seconds_of(prompts: Prompts, new: int, without: str | None) -> float:
    """Seconds that the command's decoder takes, with a trick left out or with all of them."""
    if without is not None:
        TRICKS[without]()
    model = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()
    decoder = Decoder(model, [])
    rows = [RowState(place, prompt, 0) for place, prompt in enumerate(sorted(prompts, key=len, reverse=True))]
    began = time.perf_counter()
    written = sum(len(row.written) for row in decoder.write(rows, Sampling(max_new_tokens=new)))
    assert written == new * len(prompts)
    return time.perf_counter() - began


def compare_without(name: str, asked: list[str], repeats: int) -> None:
    """Alternate processes with and without a trick, and print the ratio of their medians."""
    times: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(repeats):
        for side, values in times.items():
            command = [sys.executable, __file__, *asked, "--alone", name if side == "without" else "nothing"]
            values.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    medians = {side: statistics.median(values) for side, values in times.items()}
    ratio = medians["without"] / medians["with"]
    print(f"{name:10} {medians['with']:6.1f} s with, {medians['without']:6.1f} s without: {ratio:.2f} x", flush=True)


def fixed_batch(model: Any, prompts: Prompts, new: int) -> Prompts:
    """transformers' pipeline, as many at a time, padded on the left."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL, padding_side="left")
    writer = pipeline("text-generation", model=model, tokenizer=tokenizer)
    texts = [tokenizer.decode(prompt) for prompt in prompts]
    writer(texts, batch_size=SLOTS, max_new_tokens=new, min_new_tokens=new, do_sample=False, return_full_text=False)
    return []


def continuous_batching(model: Any, prompts: Prompts, new: int) -> Prompts:
    """transformers' `generate_batch`."""
    config = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0)
    model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
    return []


def machine_rates(model: Any) -> dict[str, Rates]:
    """Floating-point operations a second on the MLP's shapes with 2,048 tokens; bytes a second that are read, of a
    matrix that fits no cache."""
    width, inner = model.config.hidden_size, model.config.intermediate_size
    left, right = torch.randn(2048, width), torch.randn(inner, width)
    matrix, vector = torch.randn(8192, 8192), torch.randn(8192)

    operations, size = 2 * 2048 * width * inner, matrix.numel() * 4
    multiply = [lambda: torch.nn.functional.linear(left, right), lambda: product(left, right)]
    read = [lambda: matrix @ vector, matrix.sum]
    matmul, memory = ([times_a_second(one, 1) for one in both] for both in (multiply, read))
    return {
        "PyTorch's products": (operations * matmul[0], size * memory[0]),
        "the fastest seen": (operations * max(matmul), size * max(memory)),
    }


def needed(model: Any, prompts: Prompts, new: int) -> tuple[float, float]:
    """Floating-point operations of reading, and bytes of writing."""
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    linear = sum(layer.weight.numel() for layer in model.model.modules() if isinstance(layer, torch.nn.Linear))
    head = model.lm_head.weight.numel()
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * head_dim  # QKᵀ and AV, causal half
    operations = sum(2 * linear * len(prompt) + attention * len(prompt) ** 2 + 2 * head for prompt in prompts)
    states = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * 4  # bytes a token
    rows = sum(states * (len(prompt) + new / 2) * new for prompt in prompts)
    passes = -(-len(prompts) // SLOTS) * new * (linear + head) * 4
    return operations, rows + passes


def tell_bound(model: Any, prompts: Prompts, new: int, measured: list[dict[str, Rates]], taken: float) -> None:
    """Print the bounds at the means of these rates, and the share of each that so many seconds are."""
    operations, read = needed(model, prompts, new)
    for name in measured[0]:
        matmul, memory = (statistics.mean(rates) for rates in zip(*(rates[name] for rates in measured), strict=True))
        reading, writing = operations / matmul, read / memory
        share = (reading + writing) / taken
        print(f"  bound by {name}: {reading:.1f} s of reading at {matmul / 1e9:.0f} GFLOPS")
        print(f"    + {writing:.1f} s of writing at {memory / 1e9:.1f} GB/s; slds reaches {share:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=40)
    parser.add_argument("--written", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--without", choices=[*TRICKS, "each"])
    parser.add_argument("--alone", choices=[*TRICKS, "nothing"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.set_verbosity_error()
    if options.without:
        asked = ["--decisions", str(options.decisions), "--written", str(options.written)]
        asked += ["--data", str(options.data)] if options.data else []
        for name in TRICKS if options.without == "each" else [options.without]:
            compare_without(name, asked, options.repeats)
        return
    if options.data:
        prompts = real_prompts(options.data, options.decisions)
    else:
        prompts = random_prompts(options.decisions, options.short)
    if options.alone:
        print(seconds_of(prompts, options.written, None if options.alone == "nothing" else options.alone))
        return
    tokens = sum(map(len, prompts))
    print(f"{len(prompts)} prompts, {tokens:,} tokens (longest {max(map(len, prompts)):,}); {options.written} new each")
    model, ours = (AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval() for _ in range(2))
    sides: dict[str, Callable[..., Prompts]] = {"plain loop": plain_loop}
    if options.others:
        sides |= {f"pipeline, batch of {SLOTS}": fixed_batch, "continuous batching": continuous_batching}
    times: dict[str, list[float]] = {name: [] for name in ("slds", *sides)}
    written: dict[str, Prompts] = {}
    for _ in range(options.repeats):
        written["slds"], taken = slds(ours, prompts, options.written)
        times["slds"].append(taken)
        print(f"  slds: {taken:.1f} s", flush=True)
        for name, side in sides.items():
            began = time.perf_counter()
            written[name] = side(model, prompts, options.written)
            times[name].append(time.perf_counter() - began)
            print(f"  {name}: {times[name][-1]:.1f} s", flush=True)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    same = sum(mine == theirs for mine, theirs in zip(written["slds"], written["plain loop"], strict=True))
    print(f"the same tokens for {same} of {len(prompts)} prompts")
    for name in sides:
        print(f"slds against {name}: {medians[name] / medians['slds']:.2f} x")


if __name__ == "__main__":
    main()
