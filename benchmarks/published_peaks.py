"""The estimate beside peaks that others measured and published (`published_peaks.csv`).

A row that says its whole setting (`specified: yes`: one GPU, the transformers, PEFT and TRL stack, not a bound) counts
for the first line of the summary, what runs on other code or shards for the second; bounds and rows that leave
something open are shown and not counted. `figure` is what was measured: `allocated` is compared with the estimate's
tensors, `reserved` with tensors and the allocator's slack, a driver's or unnamed figure with everything.

Rows that were published in whole GB say what that leaves open.

    python benchmarks/published_peaks.py
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path

from headnote_cli.memory.estimate import Estimate, estimate
from headnote_cli.memory.forms import StepKind
from headnote_cli.memory.lookup import bundled
from headnote_cli.memory.setup import Setup
from headnote_cli.memory.shapes import Shapes

FILE = Path(__file__).with_suffix(".csv")
# Sizes of models that only this table needs (their config.json files); Qwen 1 has the tensors of Qwen 2's layers.
OTHERS = {
    "Qwen/Qwen-1_8B": Shapes("Qwen/Qwen-1_8B", "qwen2", 2048, 24, 16, 16, 128, 5504, 151936, tied=False),
    "Qwen/Qwen-7B": Shapes("Qwen/Qwen-7B", "qwen2", 4096, 32, 32, 32, 128, 11008, 151936, tied=False),
    "Qwen/Qwen-14B": Shapes("Qwen/Qwen-14B", "qwen2", 5120, 40, 40, 40, 128, 13696, 152064, tied=False),
    "Qwen/Qwen-72B": Shapes("Qwen/Qwen-72B", "qwen2", 8192, 80, 64, 64, 128, 24576, 152064, tied=False),
    "meta-llama/Llama-3.1-405B": Shapes("405B", "llama", 16384, 126, 128, 8, 128, 53248, 128256, tied=False),
}
QUANTIZATION = {"gptq": "nf4 double"}  # 4 bits and a scale for 128, near enough
OTHER_CODE = ("no: sharded", "no: torchtune", "no: LitGPT", "no: its own training loop", "no: Qwen's own model code")
BEYOND = 0.12  # a row further off is explained


def setup(row: dict[str, str]) -> Setup:
    """The row's setting."""
    names = set(row["targets"].split()) or {"all-linear"}
    saved = ("embed_tokens", "lm_head") if "embeddings" in names else ()
    names -= {"embeddings"}
    targets = "all-linear" if "all-linear" in names else tuple(sorted(names))
    attention_only = names <= {"q_proj", "k_proj", "v_proj", "o_proj"}
    kind = StepKind(
        row["method"],
        row["dtype"],
        row["amp"] == "yes",
        row["adapters"] if row["method"] != "full" else row["dtype"],
        row["attention"],
        row["checkpointing"] == "yes",
        row["dropout"] == "yes",
        liger=row["loss"] == "liger",
        targets="qv" if names <= {"q_proj", "v_proj"} else "attention" if attention_only else "all",
    )
    length = int(row["length"])
    return Setup(
        kind,
        row["loss"],
        int(row["batch"]),
        length,
        labels=length - 1,
        optim=row["optim"],
        rank=int(row["rank"] or 8) if row["method"] != "full" else 0,
        targets=targets,
        saved_modules=saved,
        quantization=QUANTIZATION.get(row["quantization"], row["quantization"]),
        upcast=row["upcast"] == "yes",
        devices=int(row["devices"]),
        sharding=row["sharding"],
    )


def figure(found: Estimate, kind: str) -> int:
    """The part of the estimate that the published figure measures."""
    context = found.components.get("CUDA context", 0)
    return found.allocated if kind == "allocated" else found.total - context if kind == "reserved" else found.total


def is_rounded(row: dict[str, str]) -> bool:
    """Whether the figure was published in whole GB."""
    return "whole-GB rounding" in row["note"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    errors: dict[str, list[float]] = {"specified": [], "other": []}
    with FILE.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    print(f"{'estimate':>9} {'published':>9} {'error':>7}  model, method, batch × length, what was measured")
    for row in rows:
        shapes = OTHERS.get(row["model"]) or bundled(row["model"])
        told = f"{row['model'].split('/')[-1]} {row['method']} {row['batch']} × {row['length']}, {row['figure']}"
        published = int(row["peak"])
        mark = "" if row["specified"] == "yes" else f"  [{row['specified']}]"
        mark += f"  [whole GB: ±{0.5e9 / published:.0%}]" if is_rounded(row) else ""
        if shapes is None or not row["length"] or row["method"] not in ("full", "lora", "qlora"):
            print(f"{'–':>9} {published / 1e9:9.2f} {'':7}  {told}{mark}")
            continue
        ours = figure(estimate(shapes, setup(row)), row["figure"])
        error = ours / published - 1
        print(f"{ours / 1e9:9.2f} {published / 1e9:9.2f} {error:+7.1%}  {told}{mark}")
        if abs(error) > BEYOND and row["explanation"]:
            print(f"{'':29}{row['explanation']}")
        if row["specified"] == "yes":
            errors["specified"].append(abs(error))
        elif row["specified"] in OTHER_CODE:
            errors["other"].append(abs(error))
    for name, found in errors.items():
        if found:
            within = sum(error <= BEYOND for error in found) / len(found)
            print(
                f"{name}: {len(found)} rows, median {statistics.median(found):.1%}, worst {max(found):.1%}, "
                f"{within:.0%} within 12 %"
            )


if __name__ == "__main__":
    main()
