"""The sizes of a model, from its `config.json` or, for models that are gated or far away, from a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from headnote_cli.errors import ConfigError, UnreachableError, is_of_the_network
from headnote_cli.machine.plan import Quantization
from headnote_cli.memory.forms import known_types
from headnote_cli.models.fit import positions_of, stored_quantization
from headnote_cli.runs.files import read_json, require_there

# What Google's Gemma 3 configs leave to transformers' `Gemma3Config`, which fills these sizes in.
DEFAULTS: dict[str, dict[str, int]] = {
    "gemma3": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208},
}
GEMMA = ("gemma", "gemma2", "gemma3", "gemma3_text")
FOUR_NORMS = ("gemma2", "gemma3", "gemma3_text")
IMAGE_TEXT = ("gemma3", "mistral3")  # the language model lies one level deeper
ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj")
NORMS_OF_HEADS = ("gemma3", "gemma3_text", "qwen3", "apertus")
SLIDING = ("gemma2", "gemma3", "gemma3_text")  # some layers of which see a window only, so a mask is always made
# SigLIP as Gemma 3 uses it: hidden, MLP, layers, patch, image (google/gemma-3-4b-it, config.json, vision_config).
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "patch_size": 14, "image_size": 896}


@dataclass(frozen=True)
class Shapes:
    """What decides a model's memory, counts of elements throughout."""

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
    global_every: int = 1  # every how many layers one sees everything
    vision_layers: int = 0  # of a SigLIP tower, with its two widths
    vision_hidden: int = 0
    vision_mlp: int = 0
    other: int = 0  # further unquantized weights: patch embeddings, projector, vision norms and biases
    stored_width: int = 2  # bytes of a weight on the disk
    quantized: Quantization | None = None  # the form in which the weights lie on the disk
    positions: int | None = None  # that it was made for
    source: str = ""  # where the sizes come from
    unknown: tuple[str, ...] = ()  # parts of the model that are not counted

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
        """Full name, input and output width of every linear layer but the output layer, named as PEFT sees them."""
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
        """The output layer's own weights; none where it is tied to the embedding."""
        return 0 if self.tied else self.embedding

    def vectors(self) -> Iterator[tuple[int, int]]:
        """Elements of a tensor, and how many there are: norms, Qwen 2's biases of q, k and v, Apertus' two numbers of
        its activation."""
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


# Hub id: model type, hidden, layers, heads, key-value heads, head width, MLP, vocabulary, tied. The source of a row is
# the config.json of its id (see `_source`); the tests hold the counts against the published totals of weights.
_TABLE: dict[str, tuple[str, int, int, int, int, int, int, int, bool]] = {
    # Gemma 3; the technical report (arXiv:2503.19786) counts embedding, text and tower as these sizes do
    "google/gemma-3-270m-it": ("gemma3_text", 640, 18, 4, 1, 256, 2048, 262144, True),
    "google/gemma-3-1b-it": ("gemma3_text", 1152, 26, 4, 1, 256, 6912, 262144, True),
    "google/gemma-3-4b-it": ("gemma3", 2560, 34, 8, 4, 256, 10240, 262208, True),
    "google/gemma-3-12b-it": ("gemma3", 3840, 48, 16, 8, 256, 15360, 262208, True),
    "google/gemma-3-27b-it": ("gemma3", 5376, 62, 32, 16, 128, 21504, 262208, True),
    # Gemma 2 and 1 (arXiv:2408.00118; arXiv:2403.08295)
    "google/gemma-2-2b-it": ("gemma2", 2304, 26, 8, 4, 256, 9216, 256000, True),
    "google/gemma-2-9b-it": ("gemma2", 3584, 42, 16, 8, 256, 14336, 256000, True),
    "google/gemma-2-27b-it": ("gemma2", 4608, 46, 32, 16, 128, 36864, 256000, True),
    "google/gemma-7b-it": ("gemma", 3072, 28, 16, 16, 256, 24576, 256000, True),
    # Llama 3 and 2 (arXiv:2407.21783; arXiv:2307.09288), Yi and TinyLlama, which have its layers
    "meta-llama/Llama-3.2-1B": ("llama", 2048, 16, 32, 8, 64, 8192, 128256, True),
    "meta-llama/Llama-3.2-3B": ("llama", 3072, 28, 24, 8, 128, 8192, 128256, True),
    "meta-llama/Meta-Llama-3-8B": ("llama", 4096, 32, 32, 8, 128, 14336, 128256, False),
    "meta-llama/Llama-3.1-8B": ("llama", 4096, 32, 32, 8, 128, 14336, 128256, False),
    "meta-llama/Llama-3.1-70B": ("llama", 8192, 80, 64, 8, 128, 28672, 128256, False),
    "meta-llama/Llama-2-7b-hf": ("llama", 4096, 32, 32, 32, 128, 11008, 32000, False),
    "meta-llama/Llama-2-13b-hf": ("llama", 5120, 40, 40, 40, 128, 13824, 32000, False),
    "01-ai/Yi-34B": ("llama", 7168, 60, 56, 8, 128, 20480, 64000, False),
    "TinyLlama/TinyLlama-1.1B": ("llama", 2048, 22, 32, 4, 64, 5632, 32000, False),
    # SmolLM2 (arXiv:2502.02737)
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("llama", 576, 30, 9, 3, 64, 1536, 49152, True),
    "HuggingFaceTB/SmolLM2-360M-Instruct": ("llama", 960, 32, 15, 5, 64, 2560, 49152, True),
    "HuggingFaceTB/SmolLM2-1.7B": ("llama", 2048, 24, 32, 32, 64, 8192, 49152, True),
    # Mistral 7B (arXiv:2310.06825); from v0.3 on 32,768 words
    "mistralai/Mistral-7B-v0.1": ("mistral", 4096, 32, 32, 8, 128, 14336, 32000, False),
    "mistralai/Mistral-7B-Instruct-v0.3": ("mistral", 4096, 32, 32, 8, 128, 14336, 32768, False),
    # Qwen 2 and 2.5 (arXiv:2407.10671; arXiv:2412.15115)
    "Qwen/Qwen2-7B": ("qwen2", 3584, 28, 28, 4, 128, 18944, 152064, False),
    "Qwen/Qwen2.5-0.5B": ("qwen2", 896, 24, 14, 2, 64, 4864, 151936, True),
    "Qwen/Qwen2.5-1.5B": ("qwen2", 1536, 28, 12, 2, 128, 8960, 151936, True),
    "Qwen/Qwen2.5-3B": ("qwen2", 2048, 36, 16, 2, 128, 11008, 151936, True),
    "Qwen/Qwen2.5-7B": ("qwen2", 3584, 28, 28, 4, 128, 18944, 152064, False),
    "Qwen/Qwen2.5-14B": ("qwen2", 5120, 48, 40, 8, 128, 13824, 152064, False),
    "Qwen/Qwen2.5-32B": ("qwen2", 5120, 64, 40, 8, 128, 27648, 152064, False),
    # Qwen 3 (arXiv:2505.09388)
    "Qwen/Qwen3-0.6B": ("qwen3", 1024, 28, 16, 8, 128, 3072, 151936, True),
    "Qwen/Qwen3-1.7B": ("qwen3", 2048, 28, 16, 8, 128, 6144, 151936, True),
    "Qwen/Qwen3-4B": ("qwen3", 2560, 36, 32, 8, 128, 9728, 151936, True),
    "Qwen/Qwen3-8B": ("qwen3", 4096, 36, 32, 8, 128, 12288, 151936, False),
    "Qwen/Qwen3-14B": ("qwen3", 5120, 40, 40, 8, 128, 17408, 151936, False),
    "Qwen/Qwen3-32B": ("qwen3", 5120, 64, 64, 8, 128, 25600, 151936, False),
    # Phi-4-mini (arXiv:2503.01743)
    "microsoft/Phi-4-mini-instruct": ("phi3", 3072, 32, 24, 8, 128, 8192, 200064, True),
    # Apertus (arXiv:2509.14233)
    "swiss-ai/Apertus-8B-Instruct-2509": ("apertus", 4096, 32, 32, 8, 128, 21504, 131072, False),
    "swiss-ai/Apertus-70B-Instruct-2509": ("apertus", 8192, 80, 64, 8, 128, 43008, 131072, False),
}
# Sliding window, and every how many layers one is global (config.json: sliding_window, sliding_window_pattern).
_WINDOWS = {
    "google/gemma-3-270m-it": (512, 6),
    "google/gemma-3-1b-it": (512, 6),
    "gemma3": (1024, 6),
    "gemma2": (4096, 2),
}


def bundled(name: str) -> Shapes | None:
    """The shapes of a model of the table: by its hub id, or by another id of the same weights' sizes."""
    key = name if name in _TABLE else _alias(name)
    if key is None:
        return None
    model_type, hidden, layers, heads, kv_heads, head_dim, mlp, vocabulary, tied = _TABLE[key]
    window, every = _WINDOWS.get(key) or _WINDOWS.get(model_type) or (None, 1)
    shapes = Shapes(
        name, model_type, hidden, layers, heads, kv_heads, head_dim, mlp, vocabulary, tied,
        window=window, global_every=every, source=f"bundled table, after {_source(key)}",
    )  # fmt: skip
    return _with_siglip(shapes, SIGLIP) if model_type == "gemma3" else shapes


def _source(key: str) -> str:
    return f"https://huggingface.co/{key}/blob/main/config.json"


# Endings of what is tuned on a model and keeps its sizes, and other spellings of the same sizes.
_ENDINGS = ("-instruct", "-thinking", "-it", "-pt", "-base", "-chat-v1.0", "-chat", "-hf", "-2507", "-2509")
_SPELLINGS = {
    "meta-llama-3": "llama-3",
    "llama-3-": "llama-3.1-",
    "llama-3.3-": "llama-3.1-",
    "qwen2.5-coder-": "qwen2.5-",
    "mistral-7b-instruct-": "mistral-7b-",
    "mistral-7b-v0.2": "mistral-7b-v0.1",
}
_MIRRORS = ("unsloth",)  # organizations that copy others' models under the same name


def _alias(name: str) -> str | None:
    """`google/gemma-3-4b-pt` has the sizes of `google/gemma-3-4b-it`: what is tuned on a model keeps its sizes."""
    owner, _, model = name.lower().partition("/")
    for key in _TABLE:
        key_owner, _, key_model = key.lower().partition("/")
        if _stem(key_model) == _stem(model) and owner in (key_owner, *_MIRRORS):
            return key
    return None


@cache
def _stem(model: str) -> str:
    while ending := next((ending for ending in _ENDINGS if model.endswith(ending)), None):
        model = model.removesuffix(ending)
    for spelling, usual in _SPELLINGS.items():
        model = model.replace(spelling, usual)
    return model


def shapes_of(name: str, folder: Path | None) -> Shapes:
    """The shapes of a model: from its folder, the hub's cache, the hub where it can be reached, or the bundled table.

    Args:
        name: Hub id.
        folder: Its local folder or config.json, if there is one; it wins.

    Raises:
        UnreachableError: The model is not known.
        ConfigError: Its config lacks a size, or its model type is not known.
    """
    if folder is not None:
        file = folder / "config.json" if folder.is_dir() else folder
        config = read_json(file)
        if config is None:
            raise ConfigError("there is no config.json in the model's folder", str(folder))
        return replace(from_config(name, config), source=str(file))
    require_there("model", name)
    found = _cached_config(name) or _hub_config(name)
    if found is not None:
        return replace(from_config(name, found), source=_source(name))
    known = bundled(name)
    if known is not None:
        return known
    raise UnreachableError(
        f"the sizes of {name} are not known here, and its config.json cannot be reached",
        hint=f"bundled: {', '.join(_TABLE)}; if it is gated, ask for access and run `hf auth login`; "
        "or set `model_name_or_path` to a local folder with a config.json",
    )


def _cached_config(name: str) -> dict[str, Any] | None:
    """The config.json of a snapshot in the hub's cache, found without importing the hub's library."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    cache_folder = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    model = cache_folder / f"models--{name.replace('/', '--')}"
    try:
        revision = (model / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return read_json(model / "snapshots" / revision / "config.json")


PATIENCE = 1.0  # seconds to wait for the hub before the bundled table answers


@cache
def _hub_config(name: str) -> dict[str, Any] | None:
    """The hub's config.json, if the hub is to be asked and answers; gated models answer those who have access."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") or not _hub_answers():
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return read_json(Path(hf_hub_download(name, "config.json", etag_timeout=PATIENCE)))
    except (HfHubHTTPError, HFValidationError, OSError):
        return None
    except Exception as error:
        if is_of_the_network(error):
            return None
        raise


@cache
def _hub_answers() -> bool:
    """Asked once: the hub's own library tries six times, for twenty seconds."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        urlopen(Request(endpoint, method="HEAD"), timeout=PATIENCE).close()
    except HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


def from_config(name: str, config: Mapping[str, Any]) -> Shapes:
    """Shapes out of the content of a `config.json`.

    Raises:
        ConfigError: The model type is not known, or a size is missing.
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
            shapes = _with_siglip(shapes, vision)
        elif vision is not None:
            tower = str(vision.get("model_type", "vision"))
            shapes = replace(shapes, unknown=(f"the weights of the {tower} tower and its projector",))
    except KeyError as error:
        raise ConfigError(f"its config.json lacks {error.args[0]}", name) from error
    if shapes.heads % shapes.kv_heads:
        raise ConfigError(f"{shapes.heads} attention heads cannot share {shapes.kv_heads} key-value heads", name)
    return shapes


def _dtype(config: Mapping[str, Any]) -> object:
    """The dtype that the weights are saved in, under transformers' new name or its old one."""
    text = config.get("text_config", config)
    return next((part[key] for part in (config, text) for key in ("dtype", "torch_dtype") if part.get(key)), None)


def _global_every(text: Mapping[str, Any]) -> int:
    """Every how many layers one sees everything, from `layer_types` or the older `sliding_window_pattern`."""
    types = text.get("layer_types")
    if isinstance(types, list) and types:
        return max(1, round(len(types) / max(1, types.count("full_attention"))))
    pattern = text.get("sliding_window_pattern", text.get("_sliding_window_pattern"))
    return pattern if isinstance(pattern, int) and pattern > 0 else 2 if text.get("model_type") == "gemma2" else 6


# No model comes near; the widest have 16,384 and 53,248, the largest vocabularies 262,208.
LARGEST = {"vocab_size": 10**8, "num_hidden_layers": 10**4, "num_attention_heads": 10**5, "sliding_window": 10**9}


def _size(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST.get(key, 10**6):
        raise KeyError(f"a sensible `{key}` ({value!r})")
    return value


def _with_siglip(shapes: Shapes, vision: Mapping[str, Any]) -> Shapes:
    """With a SigLIP tower and Gemma 3's projector: widths of the tower's layers, and all weights beside them."""
    width, mlp, layers = (
        _size(vision, "hidden_size"),
        _size(vision, "intermediate_size"),
        _size(vision, "num_hidden_layers"),
    )
    patch, side = _size(vision, "patch_size"), _size(vision, "image_size")
    biases_and_norms = layers * (4 * width + mlp + width + 4 * width) + 2 * width
    embeddings = 3 * patch * patch * width + width + (side // patch) ** 2 * width
    other = biases_and_norms + embeddings + width * shapes.hidden + width
    return replace(shapes, vision_layers=layers, vision_hidden=width, vision_mlp=mlp, other=other)
