"""Wall time from the shell's point of view, Python's start included: of the commands that import nothing heavy, and of
`slds train` up to its first step, by part.

    python benchmarks/startup.py
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.gpu_smoke.models import SIZES, build_model  # noqa: E402
from scripts.gpu_smoke.paths import COMMON, ON_CPU  # noqa: E402

COMMANDS = {
    "slds --help": ["--help"],
    "slds preview-prompts -n 1 --no-tokenizer": [
        "preview-prompts",
        "-c",
        "configs/demo.yaml",
        "-n",
        "1",
        "--no-tokenizer",
    ],
    "slds check-memory, three configs": [
        "check-memory",
        *(part for name in ("sft", "sft_liger", "sft_liger_peft") for part in ("-c", f"configs/ipst/slds/{name}.yaml")),
    ],
}
ROUNDS = 5


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "headnote_cli", *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def first_step(work: Path) -> dict[str, float]:
    """Seconds by part of one run of one step, as the run's record holds them."""
    values = COMMON | ON_CPU | {
        "model_name_or_path": str(work / "model"), "dataset_name": "samples/slds", "max_steps": 1,
        "prompts_path": "prompts/ipst/slds", "output_dir": str(work / "run"), "save_strategy": "no",
    }  # fmt: skip
    config = work / "startup.yaml"
    config.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()), encoding="utf-8")
    seconds(["train", "--config", str(config), "--no-resume"])
    timings: dict[str, float] = json.loads((work / "run" / "run.json").read_text(encoding="utf-8"))["timings"]
    return timings


def main() -> None:
    for name, arguments in COMMANDS.items():
        seconds(arguments)
        print(f"{statistics.median(seconds(arguments) for _ in range(ROUNDS)):.2f} s  {name}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ |= {"SLDS_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1"}
        build_model(work / "model", SIZES["few-layers", "cpu"])
        first_step(work)  # fills the cache of prepared rows, and the system's of files
        rounds = [first_step(work) for _ in range(ROUNDS)]
    parts = {part: statistics.median(one[part] for one in rounds) for part in rounds[0]}
    print(f"{sum(parts.values()):.2f} s  slds train, from the command to the end of the first step, of which")
    for part, took in parts.items():
        print(f"{took:6.2f} s  {part}")


if __name__ == "__main__":
    main()
