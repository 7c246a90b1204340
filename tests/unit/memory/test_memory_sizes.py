"""Sizes of models: which ids are known, where they come from, what their modules are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.errors import ConfigError, UnreachableError
from headnote_cli.memory import lookup
from headnote_cli.memory.lookup import bundled, shapes_of
from headnote_cli.memory.shapes import from_config
from tests.conftest import text_config
from tests.unit.memory.given import sizes

# Other ids of the table's sizes, and the weights that their safetensors files on the hub state.
SAME_SIZES = {
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    "meta-llama/Meta-Llama-3-70B": 70_553_706_496,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "meta-llama/Meta-Llama-3.1-8B-Instruct": 8_030_261_248,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-Instruct-v0.2": 7_241_732_096,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "unsloth/gemma-3-4b-it": 4_300_079_472,
    "google/gemma-3-4b-pt": 4_300_079_472,
    "Qwen/Qwen2.5-Coder-7B": 7_615_616_512,
    "Qwen/Qwen2.5-Coder-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen3-4B-Instruct-2507": 4_022_468_096,
    "meta-llama/Llama-2-13b-chat-hf": 13_015_864_320,
    "01-ai/Yi-34B": 34_388_917_248,
    "google/gemma-7b": 8_537_680_896,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
}


@pytest.mark.parametrize(("name", "count"), SAME_SIZES.items())
def test_other_ids_of_the_same_sizes_are_found(name: str, count: int) -> None:
    found = sizes(name)
    assert found.parameters == count
    assert "config.json" in found.source


@pytest.mark.parametrize(
    "name", ["nobody/gemma-3-4b-it", "google/gemma-3-4b-it-gguf", "meta-llama/Llama-3.2-11B-Vision"]
)
def test_a_stranger_gets_nobodys_sizes(name: str) -> None:
    assert bundled(name) is None


def test_a_cached_snapshot_comes_before_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "models--google--gemma-3-1b-it"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc", encoding="utf-8")
    (model / "snapshots" / "abc").mkdir(parents=True)
    config = text_config(500).to_dict()
    (model / "snapshots" / "abc" / "config.json").write_text(json.dumps(config, default=str), encoding="utf-8")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert shapes_of("google/gemma-3-1b-it", None).vocabulary == 500
    assert shapes_of("google/gemma-3-4b-it", None).source.startswith("bundled table")


def test_the_hub_is_asked_only_if_it_may_be_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answers() -> bool:
        asked.append("once")
        return False

    monkeypatch.setattr(lookup, "_hub_answers", answers)
    lookup._hub_config.cache_clear()
    assert shapes_of("google/gemma-3-4b-it", None).hidden == 2560
    assert not asked, "HF_HUB_OFFLINE is set in the tests"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    lookup._hub_config.cache_clear()
    assert shapes_of("google/gemma-3-4b-it", None).hidden == 2560
    assert asked
    with pytest.raises(UnreachableError):
        shapes_of("nobody/nothing", None)
    lookup._hub_config.cache_clear()


def test_a_hub_out_of_reach_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    lookup._hub_answers.cache_clear()
    assert not lookup._hub_answers()
    lookup._hub_answers.cache_clear()


@pytest.mark.parametrize("model_class", ["AutoModelForCausalLM", "AutoModelForImageTextToText"])
def test_modules_are_named_as_peft_sees_them(model_class: str, tiny_models: Callable[[str], Path]) -> None:
    import torch
    import transformers

    folder = tiny_models(model_class)
    model = getattr(transformers, model_class).from_pretrained(folder)
    linear = {name: (module.in_features, module.out_features) for name, module in model.named_modules()
              if isinstance(module, torch.nn.Linear) and name != "lm_head"}  # fmt: skip
    assert {name: widths for name, *widths in _modules(folder)} == {name: list(pair) for name, pair in linear.items()}


def _modules(folder: Path) -> list[tuple[str, int, int]]:
    return list(shapes_of("tiny", folder).module_names())


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "apertus"])
def test_every_tensor_of_a_family_is_counted_by_its_size(model_type: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        model_type, hidden_size=96, intermediate_size=160, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=16, vocab_size=300, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = from_config("tiny", config.to_dict() | {"tie_word_embeddings": config.tie_word_embeddings})
    vectors = sorted(p.numel() for p in model.parameters() if p.ndim == 1)
    assert vectors == sorted(size for size, count in shapes.vectors() for _ in range(count))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)} - {"lm_head"}
    assert {name for name, _, _ in shapes.module_names()} == linear


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hidden_size": 999_999_999}, "sensible `hidden_size`"),
        ({"num_hidden_layers": 10**6}, "sensible `num_hidden_layers`"),
        ({"num_attention_heads": 8, "num_key_value_heads": 3}, "8 attention heads cannot share 3"),
    ],
)
def test_absurd_sizes_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_config("odd", text_config(100).to_dict() | keys)


def test_a_tower_that_nobody_counted_is_named() -> None:
    """Mistral 3's is a Pixtral: gated MLPs, no biases, a patch merger."""
    text = {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 32, "num_key_value_heads": 8,
            "head_dim": 128, "intermediate_size": 32768, "vocab_size": 131072}  # fmt: skip
    shapes = from_config(
        "m3", {"model_type": "mistral3", "text_config": text, "vision_config": {"model_type": "pixtral"}}
    )
    assert shapes.unknown == ("the weights of the pixtral tower and its projector",)
