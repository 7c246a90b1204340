"""The README.md of a checkpoint or a merged model, from the run's record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CARD = "README.md"
GEMMA_TERMS = "https://ai.google.dev/gemma/terms"


def model_card(record: Mapping[str, Any], merged: bool = False) -> str:
    """A model card in the hub's format: YAML front matter, then what readers must know.

    Args:
        record: A run's `run.json`.
        merged: The folder holds a whole model, not an adapter.
    """
    config, metrics, data = record.get("config", {}), record.get("metrics", {}), record.get("data", {})
    base = str(record.get("base_model", "unknown"))
    gemma = str(record.get("model_type", "")).startswith("gemma")
    front = [f"base_model: {base}"] if not base.startswith("/") else []
    front += ["library_name: transformers" if merged or not config.get("use_peft") else "library_name: peft"]
    front += ["license: gemma"] if gemma else []
    front += ["pipeline_tag: text-generation", "tags: [slds, headnotes, legal]"]
    settings = "\n".join(f"| `{key}` | `{value}` |" for key, value in sorted(config.items()))
    terms = (
        f"Gemma is provided under and subject to the [Gemma Terms of Use]({GEMMA_TERMS}); "
        "whoever passes this model on passes these terms on with it."
        if gemma
        else ""
    )
    what = "A merged model" if merged else "A checkpoint"
    version = (record.get("packages") or {}).get("headnote-cli", "")
    return f"""---
{chr(10).join(front)}
---

# Headnotes of Swiss leading decisions

{what} made from `{base}` with slds {version}. What it writes is a draft: a lawyer must check it against the
decision. {terms}

| | |
|---|---|
| data | {config.get("dataset_name")} {config.get("dataset_subset") or ""} |
| rows in training | {data.get("rows", "unknown")}, {data.get("rows_cut", 0)} of them shortened to fit |
| fingerprint of rows, prompts and tokenizer | `{data.get("fingerprint", "unknown")}` |
| steps | {metrics.get("steps", "unknown")} |
| training loss | {_number(metrics.get("train_loss"))} |
| evaluation loss | {_number(metrics.get("eval_loss"))} |

The prompts it was trained with lie in the run folder under `prompts/`; `slds generate` takes them by itself.

| setting | value |
|---|---|
{settings}
"""


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "not measured"
