"""Generating and merging: counts on real tiny models, and what the command says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.memory.cards import GIB
from headnote_cli.memory.forms import StepKind
from headnote_cli.memory.inference import generation, kv_cache, kv_cache_of_prompt, merging, prefill_work
from headnote_cli.memory.setup import Setup, setup_of
from headnote_cli.memory.shapes import Shapes, from_config
from tests.commands import slds
from tests.unit.memory.given import first_run, gemma, shipped

SIZES = {"hidden_size": 96, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 300, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2, "max_position_embeddings": 4096}  # fmt: skip
WINDOW = {"sliding_window": 100, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
LENGTH, WRITTEN = 300, 5


def generated(model_type: str, attention: str, dtype: str, rows: int) -> tuple[Shapes, Any, int, Any]:
    """A tiny real model writes: its shapes, the model, the most bytes that lived beside the weights, its cache."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from headnote_cli.generation.decoder import CACHE
    from scripts.memory_simulation import LiveStorages, storages

    config = AutoConfig.for_model(model_type, **SIZES, **(WINDOW if model_type.startswith("gemma") else {}))
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation=attention).eval()
    ids = torch.randint(3, 299, (rows, LENGTH))
    live = LiveStorages(storages(model))
    with torch.no_grad(), live:
        written = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=WRITTEN, min_new_tokens=WRITTEN,
            do_sample=False, return_dict_in_generate=True,
        )  # fmt: skip
    return from_config(model_type, config.to_dict()), model, live.peak, written[CACHE]


def bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
@pytest.mark.parametrize(
    ("attention", "dtype"), [("sdpa", "float32"), ("sdpa", "bfloat16"), ("eager", "float32")]
)  # in bfloat16 the CPU's softmax makes one more float32 copy than CUDA's
def test_generation_holds_what_a_real_model_holds(model_type: str, attention: str, dtype: str, rows: int) -> None:
    shapes, model, peak, cache = generated(model_type, attention, dtype, rows)
    setup = Setup(StepKind("full", dtype, attention=attention), "fused", rows, LENGTH, 10)
    width = setup.width
    layers = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert bytes_of(layers) == kv_cache(shapes, rows, LENGTH + WRITTEN - 1, width)
    found = generation(shapes, setup, rows)
    assert found.components["weights"] == bytes_of(model.parameters())
    counted = kv_cache_of_prompt(shapes, rows, LENGTH, width) + prefill_work(shapes, setup, rows)
    assert counted == pytest.approx(peak, rel=0.08), "rotary tables and ids are left out"


def test_generation_loads_the_merged_model_unquantized() -> None:
    run = first_run("--for", "generate")
    assert run["components"]["weights"] == 2 * gemma().parameters
    on_cpu = first_run("--for", "generate", "--set", "use_cpu=true", "--set", "attn_implementation=sdpa",
                       "--set", "use_liger_kernel=false")  # fmt: skip
    assert on_cpu["components"]["weights"] == 4 * gemma().parameters
    assert "NF4" not in slds("check-memory", "--for", "generate").stdout


def test_one_decision_is_written_at_a_time_unless_more_are_asked_for() -> None:
    one, eight = first_run("--for", "generate"), first_run("--for", "generate", "--batch", 8)
    assert (one["batch"], eight["batch"]) == (1, 8)
    assert eight["components"]["KV cache"] == 8 * one["components"]["KV cache"]
    shown = slds("check-memory", "--for", "generate", "--batch", 8).stdout
    assert "8 × 8,192" in shown
    assert first_run("--batch", 2)["batch"] == 2, "a training step too"


def test_eager_prefill_holds_scores_of_all_heads() -> None:
    eager = generation(gemma(), setup_of(shipped("sft"), gemma())).components["one layer at work"]
    assert eager > 8 * 8 * 8192**2


def test_the_largest_batch_of_generation_is_the_last_that_fits() -> None:
    fit = next(card for card in first_run("--for", "generate")["cards"] if card["name"] == "RTX 4090")
    setup = setup_of(shipped("sft_liger_peft"), gemma())
    totals = [generation(gemma(), setup, fit["largest_batch"] + more).total for more in (0, 1)]
    assert totals[0] <= 0.98 * 24 * GIB < totals[1]


# Merging.


def test_a_merge_streams_so_its_check_is_the_most() -> None:
    """One whole model in float32 where a quarter more than that is free, else single layers in float64."""
    setup = setup_of(shipped("sft_liger_peft"), gemma())
    whole = 4 * gemma().parameters
    roomy = merging(gemma(), setup, int(1.3 * whole))
    assert roomy.total == max(roomy.phases.values())
    assert roomy.phase == "check of the whole model"
    assert roomy.components["model in float32"] == whole
    small = merging(gemma(), setup, whole)
    assert small.phase == "check of some layers"
    assert small.total < 1.2 * GIB
    assert small.phases["merging"] < 0.6 * GIB


def test_a_merge_is_held_against_main_memory_alone() -> None:
    run = first_run("--for", "merge")
    assert [card["name"] for card in run["cards"]] == ["main memory (here)"]
    assert run["batch"] is None
    assert run["total_bytes"] == max(run["phases"].values())
    named = first_run("--for", "merge", "--gpu", "8GiB", "--gpu", "64GiB")
    assert [card["fits"] for card in named["cards"]] == [True, True], "each is checked as its memory allows"
    shown = slds("check-memory", "--for", "merge").stdout
    assert "NF4" not in shown
    assert "weights in" not in shown


def test_a_picture_of_generation_draws_generation_and_a_merge_has_none(tmp_path: Path) -> None:
    drawn = slds("check-memory", "--for", "generate", "--plot", tmp_path / "peak.svg")
    assert drawn.exit_code == 0, drawn.output
    assert "KV cache" in svg_labels(tmp_path / "peak.svg")
    refused = slds("check-memory", "--for", "merge", "--plot", tmp_path / "merge.svg")
    assert refused.exit_code == 2
    assert "a merge has no batch" in refused.output
    assert not (tmp_path / "merge.svg").exists()


def svg_labels(file: Path) -> str:
    """matplotlib writes each label as a comment beside its glyphs."""
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize("model_class", ["AutoModelForImageTextToText"])
def test_image_text_models_too(model_class: str, tiny_models: Callable[[str], Path], write_config: Any) -> None:
    config = write_config(model_class=model_class, model_name_or_path=str(tiny_models(model_class)))
    run = first_run("--config", config, "--for", "generate")
    assert run["components"]["weights"] == 2 * run["parameters"]["total"]
