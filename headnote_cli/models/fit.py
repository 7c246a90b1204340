"""Facts from a model's `config.json`, and whether they fit our config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from headnote_cli.errors import ConfigError
from headnote_cli.machine.plan import Quantization

# Parts of an image-text model that text-only training leaves idle. A string is a full-match regex for PEFT;
# a list would only match suffixes and exclude nothing.
VISION_MODULES = r".*(vision_tower|vision_model|visual|multi_modal_projector|audio_tower).*"
IMAGE_TEXT_CLASS = "AutoModelForImageTextToText"


def keeps_off_vision(model_class: str, targets: str | Iterable[str] | None) -> bool:
    """Whether adapters skip the vision tower: in image-text models, unless a target names it."""
    named = targets if isinstance(targets, str) else " ".join(targets or ())
    return model_class == IMAGE_TEXT_CLASS and not any(word in named for word in ("vision", "visual", "multi_modal"))


def wrong_class(given: str, fitting: str, name: str, model_type: str, where: str | None) -> ConfigError:
    """The error for a `model_class` that does not load the model."""
    what = f"`model_class: {given}` does not load {name} (model type `{model_type}`)"
    return ConfigError(what, where, f"write `model_class: {fitting}`")


def stored_quantization(config: Mapping[str, Any], name: str) -> Quantization | None:
    """How a model's weights are quantized on disk, by its `config.json`; None if they are not.

    Raises:
        ConfigError: The quantization is not supported in training.
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


def positions_of(config: Mapping[str, Any]) -> int | None:
    """The maximum positions of a model, by its `config.json`; None if it does not say."""
    text = config.get("text_config") or config
    positions = text.get("max_position_embeddings")
    scaling = text.get("rope_parameters") or text.get("rope_scaling") or {}
    factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
    if isinstance(factor, int | float) and isinstance(original, int):
        positions = max(positions or 0, int(original * factor))
    return positions if isinstance(positions, int) else None


def length_warning(max_length: int | None, positions: int | None) -> str | None:
    """A warning if rows may be longer than the model's maximum positions, else None."""
    if max_length is None or positions is None or max_length <= positions:
        return None
    return f"`max_length: {max_length:,}` is beyond the {positions:,} positions that the model was made for"
