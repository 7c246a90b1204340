"""The estimate: counts against the published model, and what must hold for any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headnote_cli.config import Settings, load_config
from headnote_cli.errors import ConfigError, UnreachableError, UsageError
from headnote_cli.memory.cards import GIB, card, usual_cards
from headnote_cli.memory.estimate import NF4_DOUBLE, estimate, largest_batch, trainable_parameters, weights
from headnote_cli.memory.shapes import BUNDLED, GEMMA_3_4B, from_config, shapes_of
from tests.conftest import ROOT, text_config


def shipped(name: str) -> Settings:
    return load_config(ROOT / f"configs/ipst/slds/{name}.yaml").settings


def test_gemma_3_4b_has_its_published_counts() -> None:
    assert GEMMA_3_4B.text_linear == 3_208_642_560
    assert GEMMA_3_4B.embedding == 671_252_480
    assert GEMMA_3_4B.norms == 368_128
    assert GEMMA_3_4B.parameters == 4_300_079_472


def test_the_shipped_adapter_has_its_known_size() -> None:
    assert trainable_parameters(GEMMA_3_4B, shipped("sft_liger_peft")) == 59_604_992


def test_nf4_with_double_quantization_costs_what_bitsandbytes_stores() -> None:
    assert pytest.approx(0.515869, abs=1e-6) == NF4_DOUBLE


@pytest.mark.parametrize("model_class", ["AutoModelForCausalLM", "AutoModelForImageTextToText"])
def test_counts_from_a_config_equal_the_real_model(model_class: str, tiny_models: Callable[[str], Path]) -> None:
    import transformers

    folder = tiny_models(model_class)
    model = getattr(transformers, model_class).from_pretrained(folder)
    shapes = shapes_of("tiny", folder)
    # Gemma 3's own vision config leaves SigLIP's pooling head out; the tiny one has it.
    pooling = sum(p.numel() for name, p in model.named_parameters() if "vision" in name and ".head." in name)
    assert shapes.parameters + pooling == sum(parameter.numel() for parameter in model.parameters())


def test_the_recipe_fits_24_gib_and_full_fine_tuning_does_not() -> None:
    assert estimate(GEMMA_3_4B, shipped("sft_liger_peft")).total < 24 * GIB
    assert estimate(GEMMA_3_4B, shipped("sft")).total > 24 * GIB


def test_four_bit_weights_are_smaller_and_the_embedding_is_not_quantized() -> None:
    quantized = weights(GEMMA_3_4B, shipped("sft_liger_peft"))
    assert quantized < weights(GEMMA_3_4B, shipped("sft")) / 2
    assert quantized > 2 * GEMMA_3_4B.embedding + 0.5 * GEMMA_3_4B.text_linear


@given(batch=st.integers(1, 64), more=st.integers(1, 64))
def test_more_rows_never_need_less(batch: int, more: int) -> None:
    settings = shipped("sft_liger_peft")
    assert estimate(GEMMA_3_4B, settings, batch + more).total >= estimate(GEMMA_3_4B, settings, batch).total


@pytest.mark.parametrize("name", ["T4", "RTX 4090", "H100"])
def test_the_largest_batch_is_the_last_that_fits(name: str) -> None:
    settings, budget = shipped("sft_liger_peft"), card(name).usable
    batch = largest_batch(GEMMA_3_4B, settings, budget)
    assert estimate(GEMMA_3_4B, settings, batch).total <= budget < estimate(GEMMA_3_4B, settings, batch + 1).total


def test_cards_by_name_and_by_size() -> None:
    assert card("rtx4090").memory == card("24GiB").memory == 24 * GIB
    assert card("40GB").memory == 40 * 10**9
    assert len(usual_cards()) >= 5
    with pytest.raises(UsageError) as caught:
        card("Voodoo 2")
    assert "RTX 4090" in str(caught.value.hint)


def test_unknown_models_are_named_and_never_guessed() -> None:
    assert "google/gemma-3-4b-it" in BUNDLED
    with pytest.raises(UnreachableError, match="not known here"):
        shapes_of("nobody/nothing", None)
    with pytest.raises(ConfigError, match="model type `t5` is not known"):
        from_config("t5", {"model_type": "t5"})
    broken = text_config(100).to_dict() | {"hidden_size": 0}
    with pytest.raises(ConfigError, match="lacks a sensible `hidden_size`"):
        from_config("broken", broken)
