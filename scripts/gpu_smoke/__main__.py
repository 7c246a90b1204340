"""For a GPU: what no CPU can show, in one report of under eight minutes.

    python -m scripts.gpu_smoke [--report gpu_report.md] [--minutes 8]

(a) A few steps on each path beside the CPU's, then train with samples, resume, merge and generate. (b) Gemma 3 4B at
full size with random weights, by the shipped QLoRA config and by plain TRL: tokens a second, memory beside the
estimate. (c) Writing for many prompts. (d) Merging that model. Nothing is fetched but FlashAttention-2's kernel, if
there is a network. Without CUDA all of it runs on the CPU with small models. The report is written after each part; a
part that the time does not suffice for says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from headnote_cli.machine.detect import detect
from headnote_cli.machine.libraries import version_of
from scripts.gpu_smoke.full_size import merge_full_size, train_full_size
from scripts.gpu_smoke.models import SIZES
from scripts.gpu_smoke.paths import FLASH, ON_CPU, compare_paths, take_the_road
from scripts.gpu_smoke.processes import Failed, Work, gib

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "torchao", "triton", "liger-kernel", "kernels",
            "flash-attn", "headnote-cli")  # fmt: skip
PART = tuple[list[str], bool]  # its lines of the report, and whether nothing failed


class Smoke:
    """The parts in their order, and what a later one knows of an earlier one."""

    def __init__(self, work: Work, gpus: int) -> None:
        self.work = work
        self.gpus = gpus
        self.flash = False
        self.device = "cuda" if gpus else "cpu"
        self.full = SIZES["full-size", self.device]

    def kernel(self) -> PART:
        """Before anything goes offline."""
        if not self.gpus:
            return ["no GPU: not asked for"], True
        from headnote_cli.models.loading import FETCH_KERNEL

        tool, *arguments = FETCH_KERNEL.split()
        done = self.work.run([str(Path(sys.executable).with_name(tool)), *arguments], online=True)
        return [f"not fetched: {done.error}" if done.error else f"fetched in {done.seconds:.0f} s"], True

    def paths(self) -> PART:
        lines, is_fine, self.flash = compare_paths(self.work, self.gpus)
        return lines, is_fine

    def road(self) -> PART:
        return take_the_road(self.work, self.gpus, self.flash)

    def build(self) -> PART:
        began = time.monotonic()
        folder = self.work.model("full-size", self.device)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        return [f"{gib(size)} of random weights in {time.monotonic() - began:.0f} s"], True

    def train(self) -> PART:
        if not self.gpus:
            return train_full_size(self.work, self.full, ON_CPU | {"optim": "adamw_torch", "use_liger_kernel": False})
        return train_full_size(self.work, self.full, FLASH if self.flash else {"attn_implementation": "sdpa"})

    def write(self) -> PART:
        lengths = ",".join(map(str, self.full.prompts))
        model = self.work.model("full-size", self.device)
        done = self.work.module("writers", model, self.device, lengths, self.full.written).require()
        found = json.loads(done.output)
        ours = found["slds"].get("tokens")
        lines = ["| | new tokens/s | seconds | peak allocated | first tokens as ours |", "|---|--:|--:|--:|--:|"]
        for name, facts in found.items():
            if "error" in facts:
                lines.append(f"| {name} | – | – | – | failed: {facts['error']} |")
                continue
            rate = sum(map(len, facts["tokens"])) / facts["seconds"]
            same = sum(mine[:1] == theirs[:1] for mine, theirs in zip(ours or [], facts["tokens"], strict=False))
            lines.append(
                f"| {name} | {rate:,.0f} | {facts['seconds']:.1f} | {gib(facts['allocated'])} |"
                f" {same} of {len(facts['tokens'])} |"
            )
        return lines, "error" not in found["slds"]

    def merge(self) -> PART:
        return merge_full_size(self.work)


def header() -> list[str]:
    """The machine and its packages."""
    machine = detect()
    gpus = ", ".join(f"{gpu.name} ({gpu.memory / 2**30:.0f} GiB, {gpu.capability})" for gpu in machine.gpus)
    return [
        "# slds on a GPU", "", f"- GPUs: {gpus or 'none: small models on the CPU, for a test of this script'}",
        f"- {machine.cores} cores, {machine.memory / 2**30:.0f} GiB of main memory",
        f"- {platform.system()} {platform.machine()}, Python {sys.version.split()[0]}",
        f"- packages: {', '.join(f'{name} {version_of(name)}' for name in PACKAGES if version_of(name))}",
    ]  # fmt: skip


def run_parts(smoke: Smoke, report: Path) -> bool:
    """Each part in its turn, added to the report as it ends; whether nothing failed."""
    parts: dict[str, Callable[[], PART]] = {
        "FlashAttention-2's kernel": smoke.kernel,
        "Each path beside the CPU": smoke.paths,
        "From training to a headnote": smoke.road,
        "Gemma 3 4B at full size: weights": smoke.build,
        "Gemma 3 4B at full size: QLoRA": smoke.train,
        "Gemma 3 4B at full size: merging": smoke.merge,
        "Gemma 3 4B at full size: writing": smoke.write,
    }
    lines, whole = header(), True
    for title, part in parts.items():
        sys.stderr.write(f"{title} …\n")
        began = time.monotonic()
        try:
            told, is_fine = part() if smoke.work.left > 0 else (["not run: out of time"], True)
        except (Failed, OSError, ValueError) as error:
            told, is_fine = [f"failed: {error}"], False
        whole &= is_fine
        lines += ["", f"## {title}", "", *told, "", f"({time.monotonic() - began:.0f} s)"]
        report.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, default=Path("gpu_report.md"))
    parser.add_argument("--minutes", type=float, default=8)
    options = parser.parse_args()
    gpus = len(detect().gpus)
    if not gpus:
        sys.stderr.write("no CUDA here: everything runs on the CPU, with small models\n")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        whole = run_parts(Smoke(Work(Path(folder), options.minutes * 60), gpus), options.report)
    sys.stdout.write(options.report.read_text(encoding="utf-8"))
    if not whole:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
