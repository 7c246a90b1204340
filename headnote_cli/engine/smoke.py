"""For the first GPU that slds meets: a few steps through each path, one report to paste into a bug report.

    python -m headnote_cli.engine.smoke [--report smoke_report.md] [--layers 2] [--small]

A random model with the layer shapes of Gemma 3 4B is trained by `slds train` itself, once on the CPU and once a path:
FlashAttention-2, SDPA, Liger, NF4, 4-bit AdamW, DDP. The losses are set beside the CPU's, the measured peak beside the
estimate. Without CUDA the paths that a CPU has are run, with small layers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from headnote_cli.assets import assets_root
from headnote_cli.hardware import detect

STEPS = 3
IMPOSSIBLE = "--strict: this machine cannot do what the config asks"  # how such an error begins
# Loss beside the CPU's float32: bfloat16 keeps 8 bits, 4-bit weights are other weights.
CLOSE = {"bf16": 0.05, "4-bit": 0.3}
COMMON: dict[str, Any] = {
    "model_class": "AutoModelForCausalLM", "use_peft": True, "lora_r": 8, "lora_target_modules": "all-linear",
    "lora_task_type": "CAUSAL_LM", "lora_dropout": 0.0, "max_length": 1024, "max_steps": STEPS, "logging_steps": 1,
    "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": STEPS, "report_to": "none",
    "train_sampling_strategy": "sequential", "learning_rate": 1e-4, "seed": 1, "optim": "adamw_torch",
}  # fmt: skip
ON_CPU = {"use_cpu": True, "bf16": False, "dtype": "float32", "attn_implementation": "sdpa"}
ON_GPU = {"bf16": True, "dtype": "bfloat16", "attn_implementation": "sdpa"}
NF4 = {"load_in_4bit": True, "use_bnb_nested_quant": True}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else"
    " 'user') + '\n' + message.content + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def paths(gpus: int) -> dict[str, dict[str, Any]]:
    """The paths of this machine by name; the CPU's plain one is the measure of the others."""
    found: dict[str, dict[str, Any]] = {"cpu, float32": ON_CPU, "cpu, 4-bit NF4": ON_CPU | NF4}
    if not gpus:
        return found | {"cpu, 4-bit AdamW": ON_CPU | {"optim": "adamw_torch_4bit"}}
    flash = ON_GPU | {"attn_implementation": "flash_attention_2"}
    found |= {
        "gpu, SDPA, float32": ON_GPU | {"bf16": False, "dtype": "float32"},
        "gpu, SDPA, bf16": ON_GPU,
        "gpu, FlashAttention-2, bf16": flash,
        "gpu, Liger, bf16": ON_GPU | {"use_liger_kernel": True},
        "gpu, 4-bit NF4, bf16": ON_GPU | NF4,
        "gpu, 4-bit AdamW, bf16": ON_GPU | {"optim": "adamw_torch_4bit"},
        "gpu, all of it (4-bit)": flash | NF4 | {"use_liger_kernel": True, "optim": "adamw_torch_4bit"},
    }
    # The CPU's two rows a step, one on each.
    two = ON_GPU | {"processes": 2, "per_device_train_batch_size": 1}
    return found | ({"2 gpus, DDP, bf16": two} if gpus > 1 else {})


def build_model(folder: Path, layers: int, small: bool) -> None:
    """A random model and a tokenizer of Gemma's form."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel()  # type: ignore[assignment]
    controls = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    text = (assets_root() / "samples/slds/train.jsonl").read_text(encoding="utf-8")
    words.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=4000, special_tokens=controls, show_progress=False)
    )
    names = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token"), controls, strict=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, additional_special_tokens=controls[4:], **names)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    sizes = (
        {"hidden_size": 128, "intermediate_size": 512, "head_dim": 32, "num_attention_heads": 4, "vocab_size": 4096}
        if small
        else {"hidden_size": 2560, "intermediate_size": 10240, "head_dim": 256, "num_attention_heads": 8,
              "vocab_size": 262_208}
    )  # fmt: skip
    torch.manual_seed(0)
    config = Gemma3TextConfig(num_hidden_layers=layers, num_key_value_heads=sizes["num_attention_heads"] // 2, **sizes)
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def run(name: str, keys: dict[str, Any], work: Path) -> dict[str, Any]:
    """One path by `slds train` in a process of its own: Liger patches classes for good."""
    keys = dict(keys)
    processes = keys.pop("processes", 1)
    output = work / "".join(letter if letter.isalnum() else "_" for letter in name)
    values = COMMON | keys | {
        "model_name_or_path": str(work / "model"), "dataset_name": str(assets_root() / "samples/slds"),
        "prompts_path": str(assets_root() / "prompts/ipst/slds"), "output_dir": str(output),
    }  # fmt: skip
    config = work / "smoke.yaml"
    config.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()), encoding="utf-8")
    command = [sys.executable, "-m", "headnote_cli", "train", "--config", str(config), "--strict", "--ignore-memory"]
    command += ["--num-processes", str(processes)] if processes > 1 else []
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "SLDS_CACHE": str(work / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        told = " ".join(done.stderr.split("error: ")[-1].split())[:300]
        return {"path": name, "impossible" if IMPOSSIBLE in told else "error": told.removeprefix(IMPOSSIBLE)}
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "path": name,
        "losses": [line["loss"] for line in lines if "loss" in line],
        "estimated": (record.get("estimated_memory") or {}).get("allocated"),
        "measured": record["measured_memory"].get("allocated"),
        "seconds": record["metrics"]["seconds"],
    }


def report(results: list[dict[str, Any]]) -> str:
    """Markdown: the machine, the packages, a row a path."""
    machine = detect()
    gpus = ", ".join(f"{gpu.name} ({gpu.memory / 2**30:.0f} GiB, {gpu.capability})" for gpu in machine.gpus) or "none"
    packages = ("torch", "transformers", "trl", "peft", "bitsandbytes", "torchao", "liger-kernel", "kernels",
                "flash-attn", "headnote-cli")  # fmt: skip
    lines = [
        "# slds smoke report", "", f"- GPUs: {gpus}",
        f"- system: {platform.platform()}, Python {sys.version.split()[0]}",
        f"- packages: {', '.join(f'{name} {_version(name)}' for name in packages)}", "",
        "| path | losses | difference to the CPU | peak measured | estimated | seconds | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    reference = results[0].get("losses")
    for one in results:
        if "impossible" in one:
            lines.append(f"| {one['path']} | – | – | – | – | – | not possible here{one['impossible']} |")
            continue
        if "error" in one:
            lines.append(f"| {one['path']} | – | – | – | – | – | failed: {one['error']} |")
            continue
        apart = max(abs(a - b) for a, b in zip(one["losses"], reference or one["losses"], strict=False))
        allowed = CLOSE["4-bit"] if "4-bit NF4" in one["path"] or "all of it" in one["path"] else CLOSE["bf16"]
        losses = ", ".join(f"{loss:.4f}" for loss in one["losses"])
        memory = " | ".join(f"{n / 2**30:.2f} GiB" if n else "–" for n in (one["measured"], one["estimated"]))
        verdict = "good" if apart <= allowed else f"off by more than {allowed}"
        lines.append(f"| {one['path']} | {losses} | {apart:.4f} | {memory} | {one['seconds']:.0f} | {verdict} |")
    return "\n".join(lines) + "\n"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=Path("smoke_report.md"))
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="small layers; the default where there is no GPU")
    options = parser.parse_args()
    gpus = len(detect().gpus)
    if not gpus:
        sys.stderr.write("no CUDA here: the paths of a CPU are run, with small layers\n")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        build_model(work / "model", options.layers, options.small or not gpus)
        results = []
        for name, keys in paths(gpus).items():
            sys.stderr.write(f"{name} …\n")
            results.append(run(name, keys, work))
    options.report.write_text(report(results), encoding="utf-8")
    sys.stdout.write(options.report.read_text(encoding="utf-8"))
    if any("error" in one for one in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
