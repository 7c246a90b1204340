"""Wall time of `slds check-memory` with the three shipped configs beside `accelerate estimate-memory` on one model.

Both from the shell's point of view, Python's start included, alternating. accelerate tells the weights alone, and
takes hub ids only: its question whether the hub has the model is answered for it, then it reads the local config.

    python benchmarks/estimators.py [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from transformers import Gemma3TextConfig

ROOT = Path(__file__).resolve().parents[1]
ACCELERATE = """
import types
from accelerate.commands import estimate
estimate.verify_on_hub = lambda *_: types.SimpleNamespace(config={}, library_name="transformers")
estimate.main()
"""
SHIPPED = ("sft", "sft_liger", "sft_liger_peft")


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        config = Gemma3TextConfig(architectures=["Gemma3ForCausalLM"]).to_dict()
        (Path(folder) / "config.json").write_text(json.dumps(config, default=str), encoding="utf-8")
        configs = [part for name in SHIPPED for part in ("-c", f"configs/ipst/slds/{name}.yaml")]
        ours = [sys.executable, "-m", "headnote_cli", "check-memory", *configs]
        theirs = [sys.executable, "-c", ACCELERATE, folder, "--library_name", "transformers"]
        times: dict[str, list[float]] = {"slds check-memory, three configs": [], "accelerate estimate-memory": []}
        for _ in range(repeats + 1):
            for name, command in zip(times, (ours, theirs), strict=True):
                times[name].append(seconds(command))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first fills caches
    for name, value in medians.items():
        print(f"{value:6.2f} s  {name}")
    mine, other = medians.values()
    print(f"{other / mine:6.1f} × faster")


if __name__ == "__main__":
    main()
