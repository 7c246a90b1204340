"""Wall time of the commands that import nothing heavy, from the shell's point of view, Python's start included."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

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


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "headnote_cli", *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    for name, arguments in COMMANDS.items():
        seconds(arguments)
        print(f"{statistics.median(seconds(arguments) for _ in range(5)):.2f} s  {name}")


if __name__ == "__main__":
    main()
