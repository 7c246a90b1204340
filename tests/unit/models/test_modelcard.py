"""The model card: what it is made of, and Gemma's terms by the model's type."""

from __future__ import annotations

from typing import Any

import pytest

from headnote_cli.models.card import GEMMA_TERMS, model_card

RECORD: dict[str, Any] = {
    "base_model": "my/finetune",
    "model_type": "gemma3_text",
    "config": {"use_peft": True, "dataset_name": "ipst/slds"},
    "packages": {"headnote-cli": "9.8.7"},
    "metrics": {"steps": 7, "train_loss": 1.25, "eval_loss": None},
}


def test_the_card_tells_version_steps_and_losses() -> None:
    card = model_card(RECORD)
    assert "with slds 9.8.7" in card
    assert "| steps | 7 |" in card
    assert "| training loss | 1.2500 |" in card
    assert "| evaluation loss | not measured |" in card


@pytest.mark.parametrize(("kind", "base", "is_gemma"), [
    ("gemma3", "my/finetune", True), ("gemma3_text", "x", True), ("llama", "not-gemma/llama", False),
])  # fmt: skip
def test_gemma_is_known_by_its_type_and_not_by_its_name(kind: str, base: str, is_gemma: bool) -> None:
    card = model_card(RECORD | {"model_type": kind, "base_model": base})
    assert ("license: gemma" in card) is is_gemma
    assert (GEMMA_TERMS in card) is is_gemma
