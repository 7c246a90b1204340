"""The sizes of a model, read from its `config.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from headnote_cli.errors import ConfigError
from headnote_cli.machine.plan import Quantization
from headnote_cli.memory.forms import known_types
from headnote_cli.models.fit import positions_of, stored_quantization

# Sizes missing in Google's Gemma 3 configs, with the defaults of transformers' `Gemma3Config`.
DEFAULTS: dict[str, dict[str, int]] = {
    "gemma3": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208},
}
GEMMA = ("gemma", "gemma2", "gemma3", "gemma3_text")
FOUR_NORMS = ("gemma2", "gemma3", "gemma3_text")
IMAGE_TEXT = ("gemma3", "mistral3")  # the language model is nested one level deeper
ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj")
NORMS_OF_HEADS = ("gemma3", "gemma3_text", "qwen3", "apertus")
SLIDING = ("gemma2", "gemma3", "gemma3_text")  # some layers have a sliding window, so a mask is always made
# SigLIP in Gemma 3: hidden, MLP, layers, patch, image (google/gemma-3-4b-it, config.json, vision_config).
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "patch_size": 14, "image_size": 896}


@dataclass(frozen=True)
class Shapes:
    """The sizes that determine a model's memory, all in elements."""

    name: str
    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    tied: bool = True
    window: int | None = None  # tokens that a sliding layer sees
    global_every: int = 1  # every how many layers one has global attention
    vision_layers: int = 0  # a SigLIP tower's layers and two widths
    vision_hidden: int = 0
    vision_mlp: int = 0
    other: int = 0  # other unquantized weights: patch embeddings, projector, vision norms and biases
    stored_width: int = 2  # bytes per weight on disk
    quantized: Quantization | None = None  # how the weights are quantized on disk
    positions: int | None = None  # maximum positions
    source: str = ""  # where the sizes come from
    unknown: tuple[str, ...] = ()  # parts that are not counted

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def is_image_text(self) -> bool:
        return self.model_type in IMAGE_TEXT

    def linear_modules(self) -> Iterator[tuple[str, int, int]]:
        """Name, input and output width of the linear layers of one decoder layer."""
        if self.model_type == "phi3":
            yield "qkv_proj", self.hidden, self.query_width + 2 * self.key_value_width
        else:
            yield "q_proj", self.hidden, self.query_width
            yield "k_proj", self.hidden, self.key_value_width
            yield "v_proj", self.hidden, self.key_value_width
        yield "o_proj", self.query_width, self.hidden
        if self.model_type == "phi3":
            yield "gate_up_proj", self.hidden, 2 * self.mlp
        elif self.model_type == "apertus":
            yield "up_proj", self.hidden, self.mlp
        else:
            yield "gate_proj", self.hidden, self.mlp
            yield "up_proj", self.hidden, self.mlp
        yield "down_proj", self.mlp, self.hidden

    def vision_modules(self) -> Iterator[tuple[str, int, int]]:
        """Name, input and output width of the linear layers of one layer of the vision tower."""
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield name, self.vision_hidden, self.vision_hidden
        yield "fc1", self.vision_hidden, self.vision_mlp
        yield "fc2", self.vision_mlp, self.vision_hidden

    def module_names(self) -> Iterator[tuple[str, int, int]]:
        """Full name, input and output width of all linear layers except the output layer, named as in PEFT."""
        inner = "model.language_model" if self.model_type in IMAGE_TEXT else "model"
        for layer in range(self.layers):
            for name, rows, columns in self.linear_modules():
                yield f"{inner}.layers.{layer}.{_parent(name)}.{name}", rows, columns
        for layer in range(self.vision_layers):
            for name, rows, columns in self.vision_modules():
                yield f"model.vision_tower.encoder.layers.{layer}.{_parent(name)}.{name}", rows, columns

    @cached_property
    def vision_linear(self) -> int:
        return self.vision_layers * sum(rows * columns for _, rows, columns in self.vision_modules())

    @cached_property
    def layer_linear(self) -> int:
        return sum(rows * columns for _, rows, columns in self.linear_modules())

    @property
    def text_linear(self) -> int:
        return self.layers * self.layer_linear

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def head(self) -> int:
        """The output layer's own weights; 0 if it is tied to the embedding."""
        return 0 if self.tied else self.embedding

    def vectors(self) -> Iterator[tuple[int, int]]:
        """Size and number of small tensors: norms, Qwen 2's biases of q, k and v, Apertus' two activation
        parameters."""
        yield self.hidden, (4 if self.model_type in FOUR_NORMS else 2) * self.layers + 1
        if self.model_type in NORMS_OF_HEADS:
            yield self.head_dim, 2 * self.layers
        if self.model_type == "qwen2":
            yield self.query_width, self.layers
            yield self.key_value_width, 2 * self.layers
        if self.model_type == "apertus":
            yield 1, 2 * self.layers

    @cached_property
    def norms(self) -> int:
        return sum(elements * count for elements, count in self.vectors())

    @cached_property
    def parameters(self) -> int:
        return self.text_linear + self.embedding + self.head + self.norms + self.vision_linear + self.other


def _parent(name: str) -> str:
    return "self_attn" if name in ATTENTION_MODULES else "mlp"


def from_config(name: str, config: Mapping[str, Any]) -> Shapes:
    """Shapes from the content of a `config.json`.

    Raises:
        ConfigError: The model type is unknown, or a size is missing.
    """
    text = config.get("text_config", config)
    vision = config.get("vision_config")
    if not isinstance(text, Mapping) or not isinstance(vision, Mapping | None):
        raise ConfigError("its config.json is not a model's", name)
    model_type = str(config.get("model_type"))
    text = DEFAULTS.get(model_type, {}) | dict(text)
    if model_type not in known_types():
        raise ConfigError(
            f"model type `{model_type}` is not known",
            name,
            f"known: {', '.join(known_types())}; a config.json of the nearest of them, with this model's sizes, gives "
            "an estimate: set `model_name_or_path` to its folder",
        )
    try:
        heads, hidden = _size(text, "num_attention_heads"), _size(text, "hidden_size")
        shapes = Shapes(
            name=name,
            model_type=model_type,
            hidden=hidden,
            layers=_size(text, "num_hidden_layers"),
            heads=heads,
            kv_heads=_size(text, "num_key_value_heads", heads),
            head_dim=_size(text, "head_dim", hidden // heads),
            mlp=_size(text, "intermediate_size"),
            vocabulary=_size(text, "vocab_size"),
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", model_type in GEMMA))),
            window=_size(text, "sliding_window", 4096) if model_type in SLIDING else None,
            global_every=_global_every(text) if model_type in SLIDING else 1,
            stored_width=4 if _dtype(config) == "float32" else 2,
            quantized=stored_quantization(config, name),
            positions=positions_of(config),
        )
        if vision is not None and model_type == "gemma3":
            shapes = with_siglip(shapes, vision)
        elif vision is not None:
            tower = str(vision.get("model_type", "vision"))
            shapes = replace(shapes, unknown=(f"the weights of the {tower} tower and its projector",))
    except KeyError as error:
        raise ConfigError(f"its config.json lacks {error.args[0]}", name) from error
    if shapes.heads % shapes.kv_heads:
        raise ConfigError(f"{shapes.heads} attention heads cannot share {shapes.kv_heads} key-value heads", name)
    return shapes


def _dtype(config: Mapping[str, Any]) -> object:
    """The dtype of the saved weights, by transformers' new or old key."""
    text = config.get("text_config", config)
    return next((part[key] for part in (config, text) for key in ("dtype", "torch_dtype") if part.get(key)), None)


def _global_every(text: Mapping[str, Any]) -> int:
    """Every how many layers one is global, from `layer_types` or the older `sliding_window_pattern`."""
    types = text.get("layer_types")
    if isinstance(types, list) and types:
        return max(1, round(len(types) / max(1, types.count("full_attention"))))
    pattern = text.get("sliding_window_pattern", text.get("_sliding_window_pattern"))
    return pattern if isinstance(pattern, int) and pattern > 0 else 2 if text.get("model_type") == "gemma2" else 6


# Far above any model; the widest have 16,384 and 53,248, the largest vocabularies 262,208.
LARGEST = {"vocab_size": 10**8, "num_hidden_layers": 10**4, "num_attention_heads": 10**5, "sliding_window": 10**9}


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST.get(key, 10**6):
        raise KeyError(f"a sensible `{key}` ({value!r})")
    return value


def with_siglip(shapes: Shapes, vision: Mapping[str, Any]) -> Shapes:
    """Add a SigLIP tower and Gemma 3's projector: the tower's widths, and all weights beside its linear layers."""
    width, mlp, layers, patch, side = (_size(vision, key) for key in SIGLIP)
    biases_and_norms = layers * (4 * width + mlp + width + 4 * width) + 2 * width
    embeddings = 3 * patch * patch * width + width + (side // patch) ** 2 * width
    other = biases_and_norms + embeddings + width * shapes.hidden + width
    return replace(shapes, vision_layers=layers, vision_hidden=width, vision_mlp=mlp, other=other)
