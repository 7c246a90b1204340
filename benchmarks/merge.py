"""Merging a Gemma-shaped model: a plain copy of the folder, PEFT's recipe, `slds merge`, in turn.

    python benchmarks/merge.py [--gigabytes 2] [--rounds 3]

Prints wall time and peak memory (resident set) of each, where slds's time went, and the bound: the copy with its
flush to the disk, and the products at this machine's own measured rate.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEFT = "PEFT's recipe"
RANK = 16
SHARDS = 4
# Gemma 3's text models: hidden size, layers, MLP, heads, key-value heads, size of a head.
SHAPES = {2: (1152, 26, 6912, 4, 1, 256), 8: (2560, 34, 10240, 8, 4, 256)}
PEFT_RECIPE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3])
"""
IMPORTS = """
import time
for what, module in (
    ("torch", "torch"),
    ("transformers' tables of names", "transformers.conversion_mapping"),
    ("the model's class", "transformers.models.gemma3.modeling_gemma3"),
):
    began = time.perf_counter()
    __import__(module)
    print(f"{what} {time.perf_counter() - began:.1f} s")
"""
COPY = """
import os, shutil, sys
shutil.copytree(sys.argv[1], sys.argv[3])
for name in os.listdir(sys.argv[3]):
    descriptor = os.open(os.path.join(sys.argv[3], name), os.O_RDONLY)
    os.fsync(descriptor)
"""


def build(folder: Path, gigabytes: int) -> tuple[Path, Path, int]:
    """A random base in several bfloat16 shards and an adapter on all its linear layers; the adapted parameters."""
    import torch
    from safetensors.torch import save_file
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    hidden, layers, mlp, heads, kv, head = SHAPES[gigabytes]
    config = Gemma3TextConfig(
        vocab_size=262144, hidden_size=hidden, num_hidden_layers=layers, intermediate_size=mlp,
        num_attention_heads=heads, num_key_value_heads=kv, head_dim=head, dtype="bfloat16",
    )  # fmt: skip
    config.architectures = ["Gemma3ForCausalLM"]
    with torch.device("meta"):
        model = Gemma3ForCausalLM(config)
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir()
    adapter.mkdir()
    config.save_pretrained(base)
    tokenizer_into(base)
    tensors = {name: tuple(value.shape) for name, value in model.named_parameters()}
    names, placed = list(tensors), {}
    for index in range(SHARDS):
        file = f"model-{index + 1:05}-of-{SHARDS:05}.safetensors"
        part = names[index::SHARDS]
        save_file({name: torch.randn(tensors[name]).bfloat16() for name in part}, base / file, {"format": "pt"})
        placed |= dict.fromkeys(part, file)
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    linear = {name: shape for name, shape in tensors.items() if ".layers." in name and len(shape) == 2}
    low_rank = {}
    for name, (rows, columns) in linear.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        low_rank[f"{prefix}.lora_A.weight"] = torch.randn(RANK, columns) / columns**0.5
        low_rank[f"{prefix}.lora_B.weight"] = torch.randn(rows, RANK) * 0.01
    save_file(low_rank, adapter / "adapter_model.safetensors", {"format": "pt"})
    targets = sorted({name.split(".")[-2] for name in linear})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32, "target_modules": targets}
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))
    return base, adapter, sum(rows * columns for rows, columns in linear.values())


def tokenizer_into(folder: Path) -> None:
    """A tokenizer of two words: a merge needs one in the folder, whatever it says."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1}, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)


def run(command: list[str], output: Path) -> tuple[float, int, str]:
    """Wall seconds, peak resident bytes and standard output of a command that writes `output`."""
    shutil.rmtree(output, ignore_errors=True)
    os.sync()
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"{command[:4]} failed with {status}: {told}")
    return seconds, usage.ru_maxrss * 1024, told


def matmul_rate() -> float:
    """Floating-point operations a second of this machine on float32 matrices."""
    import torch

    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        a @ b
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began))
    return best


def built(folder: Path, gigabytes: int) -> tuple[Path, Path, int]:
    """As `build`, in a process of its own: the peak of a child counts what its parent held when it was born."""
    code = "import sys; from benchmarks.merge import *; print(build(Path(sys.argv[1]), int(sys.argv[2]))[2])"
    command = [sys.executable, "-c", code, str(folder), str(gigabytes)]
    root = Path(__file__).resolve().parents[1]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout
    return folder / "base", folder / "adapter", int(told)


def imports() -> str:
    """Seconds of what has to be imported before a plan can be made, in a process of its own."""
    told = subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True).stdout
    return ", ".join(told.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=int, choices=sorted(SHAPES), default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-peft", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        folder = Path(place)
        base, adapter, adapted = built(folder, options.gigabytes)
        config = folder / "config.yaml"
        config.write_text(f"model_name_or_path: {base}\nmodel_class: AutoModelForCausalLM\n")
        output = folder / "out"
        merge = [sys.executable, "-m", "headnote_cli", "merge", "--checkpoint", str(adapter), "--config", str(config),
                 "--output", str(output), "--json", "--no-verify"]  # fmt: skip
        paths = [str(base), str(adapter), str(output)]
        sides = {
            "cp -r with fsync": [sys.executable, "-c", COPY, *paths],
            PEFT: [sys.executable, "-c", PEFT_RECIPE, *paths],
            "slds merge": merge,
        }
        if options.without_peft:
            del sides[PEFT]
        results: dict[str, list[tuple[float, int]]] = {name: [] for name in sides}
        parts: dict[str, float] = {}
        for _ in range(options.rounds):
            for name, command in sides.items():
                seconds, peak, told = run(command, output)
                results[name].append((seconds, peak))
                if name == "slds merge":
                    parts = json.loads(told)["seconds"]
        rate = matmul_rate()
        report(results, parts, 2 * RANK * adapted / rate, rate)


def report(results: dict[str, list[tuple[float, int]]], parts: dict[str, float], matmul: float, rate: float) -> None:
    medians = {name: statistics.median(seconds for seconds, _ in runs) for name, runs in results.items()}
    for name, runs in results.items():
        print(f"{name:20} {medians[name]:6.1f} s  peak {max(peak for _, peak in runs) / 2**20:7.0f} MiB")
    print(f"slds, seconds of all threads: {', '.join(f'{name} {spent:.1f}' for name, spent in sorted(parts.items()))}")
    bound = medians["cp -r with fsync"] + matmul
    inside = parts["writing all"]
    print(f"imported before the plan: {imports()}")
    print(f"the machine's matmul rate: {rate / 1e9:.0f} GFLOPS; the products take {matmul:.2f} s of it")
    print(f"slds without imports and checks: {inside:.1f} s, {inside / bound:.2f} × (copy with fsync + products)")
    if PEFT in medians:
        print(f"slds merge / PEFT's recipe: {medians['slds merge'] / medians[PEFT]:.2f}")


if __name__ == "__main__":
    main()
