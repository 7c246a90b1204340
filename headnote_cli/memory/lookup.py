"""Find a model's sizes: in its folder, on the hub or, for gated or unreachable models, in a table."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from headnote_cli.errors import ConfigError, UnreachableError, is_of_the_network
from headnote_cli.memory.shapes import SIGLIP, Shapes, from_config, with_siglip
from headnote_cli.runs.files import read_json, require_there

PATIENCE = 1.0  # seconds to wait for the hub before using the table
# Hub id: model type, hidden, layers, heads, key-value heads, head width, MLP, vocabulary, tied. Each row is from the
# config.json of its id (see `_source`); tests compare the counts with published parameter counts.
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
    """The shapes of a model in the table: by its hub id, or by another id with the same sizes."""
    key = name if name in _TABLE else _alias(name)
    if key is None:
        return None
    model_type, hidden, layers, heads, kv_heads, head_dim, mlp, vocabulary, tied = _TABLE[key]
    window, every = _WINDOWS.get(key) or _WINDOWS.get(model_type) or (None, 1)
    shapes = Shapes(
        name, model_type, hidden, layers, heads, kv_heads, head_dim, mlp, vocabulary, tied,
        window=window, global_every=every, source=f"bundled table, after {_source(key)}",
    )  # fmt: skip
    return with_siglip(shapes, SIGLIP) if model_type == "gemma3" else shapes


def _source(key: str) -> str:
    return f"https://huggingface.co/{key}/blob/main/config.json"


# Suffixes of tuned models that keep the sizes, and other spellings of models with the same sizes.
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
    """The table's id with the same sizes: `google/gemma-3-4b-it` for `google/gemma-3-4b-pt`."""
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
    """The shapes of a model: from its folder, the hub's cache, the hub if it responds, or the bundled table.

    Args:
        name: Hub id.
        folder: Its local folder or config.json, if any; has priority.

    Raises:
        UnreachableError: The model is unknown.
        ConfigError: Its config lacks a size, or its model type is unknown.
    """
    if folder is not None:
        file = folder / "config.json" if folder.is_dir() else folder
        config = read_json(file)
        if config is None:
            raise ConfigError("there is no config.json in the model's folder", str(folder))
        return replace(from_config(name, config), source=str(file))
    require_there("model", name)
    if config := _cached_config(name) or _hub_config(name):
        return replace(from_config(name, config), source=_source(name))
    if known := bundled(name):
        return known
    raise UnreachableError(
        f"the sizes of {name} are not known here, and its config.json cannot be reached",
        hint=f"bundled: {', '.join(_TABLE)}; if it is gated, ask for access and run `hf auth login`; "
        "or set `model_name_or_path` to a local folder with a config.json",
    )


def _cached_config(name: str) -> dict[str, Any] | None:
    """The config.json in the hub's cache, found without importing the hub's library."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    cache_folder = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    model = cache_folder / f"models--{name.replace('/', '--')}"
    try:
        revision = (model / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return read_json(model / "snapshots" / revision / "config.json")


@cache
def _hub_config(name: str) -> dict[str, Any] | None:
    """The config.json from the hub, unless offline or without response; gated models need access."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") or not _hub_answers():
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return read_json(Path(hf_hub_download(name, "config.json", etag_timeout=PATIENCE)))
    except Exception as error:
        if isinstance(error, OSError | HFValidationError) or is_of_the_network(error):
            return None
        raise


@cache
def _hub_answers() -> bool:
    """Whether the hub responds, asked once: its own library tries six times, for twenty seconds."""
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
