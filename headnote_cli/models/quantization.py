"""In which 4-bit form a base's weights lie on the disk, or were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headnote_cli.errors import ConfigError
from headnote_cli.machine.plan import Quantization


def stored_quantization(config: Mapping[str, Any], name: str) -> Quantization | None:
    """How the weights of a model are quantized on the disk already, by its `config.json`; None if they are not.

    Raises:
        ConfigError: In a way that cannot be trained on.
    """
    stored = config.get("quantization_config")
    if not isinstance(stored, Mapping):
        return None
    if stored.get("quant_method", "bitsandbytes") == "bitsandbytes" and stored.get("load_in_4bit"):
        nested = bool(stored.get("bnb_4bit_use_double_quant"))
        return Quantization(str(stored.get("bnb_4bit_quant_type", "fp4")), nested, str(config.get("dtype", "bfloat16")))
    how = "8-bit bitsandbytes" if stored.get("load_in_8bit") else str(stored.get("quant_method", "an unknown method"))
    raise ConfigError(
        f"the weights of this model are quantized ({how}), which is not trained on",
        name,
        "name the model in 16 bits, or one in bitsandbytes' 4 bits",
    )


def noted_quantization(record: Mapping[str, Any]) -> Quantization | None:
    """The 4-bit form that a run's record says it trained on, None for another or none."""
    if "quantization" in record:
        noted = record["quantization"]
        return Quantization(**noted) if noted and noted["kind"] != "int8" else None
    # Records from before this key have the words of the plan alone.
    words = {row["setting"]: row["effective"] for row in record.get("plan", [])}
    kind, *rest = words.get("quantization", "none").removeprefix("4-bit ").split(" + ")
    return Quantization(kind, bool(rest), words["dtype"]) if kind in ("nf4", "fp4") else None
