"""The sizes of a model, from its `config.json` or, for models that are gated, from a short table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headnote_cli.errors import ConfigError, UnreachableError
from headnote_cli.runs import read_json

# A Llama-like decoder: q, k, v, o, gate, up and down projections. What other families add is named below.
FAMILIES = {
    "gemma3": "gemma",
    "gemma3_text": "gemma",
    "gemma2": "gemma",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
    "smollm3": "llama",
}
# What Google's Gemma 3 configs leave to transformers' `Gemma3Config`, which fills these sizes in.
DEFAULTS: dict[str, dict[str, int]] = {
    "gemma3": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208},
}
NORMS_PER_LAYER = {"gemma": 4, "llama": 2}


@dataclass(frozen=True)
class Shapes:
    """What decides a model's memory, counts of elements throughout."""

    name: str
    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    tied: bool = True
    vision_linear: int = 0  # weights in linear layers of a vision tower
    other: int = 0  # further unquantized weights: patch embeddings, projector, vision norms and biases

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_value_width(self) -> int:
        return self.kv_heads * self.head_dim

    def linear_modules(self) -> Iterator[tuple[str, int, int]]:
        """Name, input and output width of the linear layers of one decoder layer."""
        yield "q_proj", self.hidden, self.query_width
        yield "k_proj", self.hidden, self.key_value_width
        yield "v_proj", self.hidden, self.key_value_width
        yield "o_proj", self.query_width, self.hidden
        yield "gate_proj", self.hidden, self.mlp
        yield "up_proj", self.hidden, self.mlp
        yield "down_proj", self.mlp, self.hidden

    @property
    def text_linear(self) -> int:
        return self.layers * sum(rows * columns for _, rows, columns in self.linear_modules())

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def head(self) -> int:
        """The output layer's own weights; none where it is tied to the embedding."""
        return 0 if self.tied else self.embedding

    @property
    def norms(self) -> int:
        per_head = 2 * self.head_dim if self.family == "gemma" else 0
        return self.layers * (NORMS_PER_LAYER[self.family] * self.hidden + per_head) + self.hidden

    @property
    def parameters(self) -> int:
        return self.text_linear + self.embedding + self.head + self.norms + self.vision_linear + self.other


# google/gemma-3-4b-it, from its config.json; the counts of the vision tower and projector from the model built
# without memory (416,866,032 and 2,950,272 weights).
GEMMA_3_4B = Shapes(
    name="google/gemma-3-4b-it",
    family="gemma",
    hidden=2560,
    layers=34,
    heads=8,
    kv_heads=4,
    head_dim=256,
    mlp=10240,
    vocabulary=262208,
    vision_linear=27 * (4 * 1152 * 1152 + 2 * 1152 * 4304),
    other=416_866_032 - 27 * (4 * 1152 * 1152 + 2 * 1152 * 4304) + 2_950_272,
)
BUNDLED = {GEMMA_3_4B.name: GEMMA_3_4B}


def shapes_of(name: str, folder: Path | None) -> Shapes:
    """The shapes of a model.

    Args:
        name: Hub id, looked up in the bundled table.
        folder: Its local folder, if there is one; its `config.json` wins.

    Raises:
        UnreachableError: The model is not known.
        ConfigError: Its config lacks a size.
    """
    if folder is not None:
        config = read_json(folder / "config.json" if folder.is_dir() else folder)
        if config is None:
            raise ConfigError("there is no config.json in the model's folder", str(folder))
        return from_config(name, config)
    if name in BUNDLED:
        return BUNDLED[name]
    cached = _cached_config(name)
    if cached is not None:
        return from_config(name, cached)
    raise UnreachableError(
        f"the sizes of {name} are not known here, and its config.json cannot be reached",
        hint=f"bundled: {', '.join(BUNDLED)}; if it is gated, ask for access and run `hf auth login`; "
        "or set `model_name_or_path` to a local folder with a config.json",
    )


def _cached_config(name: str) -> dict[str, Any] | None:
    """The hub's config.json, from the cache or the network, without importing transformers."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return read_json(Path(hf_hub_download(name, "config.json")))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def from_config(name: str, config: Mapping[str, Any]) -> Shapes:
    """Shapes out of the content of a `config.json`.

    Raises:
        ConfigError: The model type is not known, or a size is missing.
    """
    text = config.get("text_config", config)
    vision = config.get("vision_config")
    if not isinstance(text, Mapping) or not isinstance(vision, Mapping | None):
        raise ConfigError("its config.json is not a model's", name)
    text = DEFAULTS.get(str(config.get("model_type")), {}) | dict(text)
    model_type = str(config.get("model_type"))
    family = FAMILIES.get(model_type)
    if family is None:
        raise ConfigError(f"model type `{model_type}` is not known; known: {', '.join(FAMILIES)}", name)
    try:
        heads, hidden = _size(text, "num_attention_heads"), _size(text, "hidden_size")
        vision_sizes = _vision(vision, hidden) if vision is not None else (0, 0)
        return Shapes(
            name=name,
            family=family,
            hidden=hidden,
            layers=_size(text, "num_hidden_layers"),
            heads=heads,
            kv_heads=_size(text, "num_key_value_heads", heads),
            head_dim=_size(text, "head_dim", hidden // heads),
            mlp=_size(text, "intermediate_size"),
            vocabulary=_size(text, "vocab_size"),
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", family == "gemma"))),
            vision_linear=vision_sizes[0],
            other=vision_sizes[1],
        )
    except KeyError as error:
        raise ConfigError(f"its config.json lacks {error.args[0]}", name) from error


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**9:
        raise KeyError(f"a sensible `{key}` ({value!r})")
    return value


def _vision(vision: Mapping[str, Any], hidden: int) -> tuple[int, int]:
    """SigLIP tower and Gemma 3's projector: weights of linear layers, and all others."""
    width, mlp, layers = (
        _size(vision, "hidden_size"),
        _size(vision, "intermediate_size"),
        _size(vision, "num_hidden_layers"),
    )
    patch, side = _size(vision, "patch_size"), _size(vision, "image_size")
    linear = layers * (4 * width * width + 2 * width * mlp)
    biases_and_norms = layers * (4 * width + mlp + width + 4 * width) + 2 * width
    embeddings = 3 * patch * patch * width + width + (side // patch) ** 2 * width
    return linear, biases_and_norms + embeddings + width * hidden + width
