"""Many prompts written together: token for token what one by one gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.sampling import Sampling
from tests.conftest import text_config

LENGTHS = (300, 290, 180, 150, 150, 90, 33, 20, 7, 1)  # some beyond the sliding window of 128


@pytest.fixture(scope="module")
def model() -> Any:
    import torch
    from transformers import Gemma3ForCausalLM

    torch.manual_seed(1)
    return Gemma3ForCausalLM(text_config(500)).float().eval()


def _rows(seed: int = 0) -> list[Any]:
    from headnote_cli.engine.decoding import Row

    dice = random.Random(seed)
    return [Row(i, [dice.randrange(3, 500) for _ in range(length)], seed=i) for i, length in enumerate(LENGTHS)]


def _one_by_one(model: Any, sampling: Sampling, stop_ids: list[int]) -> dict[int, list[int]]:
    """transformers' own generate."""
    import torch

    found = {}
    for row in _rows():
        ids = torch.tensor([row.prompt])
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            eos_token_id=stop_ids,
            pad_token_id=0,
            **sampling.options(),
        )
        found[row.name] = written[0, len(row.prompt) :].tolist()
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("slots", [1, 3, 10])
@pytest.mark.parametrize("slack", [1, 512])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_rows_written_together_are_those_written_alone(
    slots: int, slack: int, penalty: float, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few slots rows join and leave; with one column of slack the buffer is moved all the time."""
    from headnote_cli.engine import decoding

    monkeypatch.setattr(decoding, "SLACK", slack)
    sampling = Sampling(max_new_tokens=24, repetition_penalty=penalty)
    alone = _one_by_one(model, sampling, [])
    stops = sorted({tokens[5 + 2 * place % 15] for place, tokens in alone.items() if place % 2})  # some end early
    alone = _one_by_one(model, sampling, stops)
    together = {row.name: row.written for row in decoding.Decoder(model, stops, slots).write(_rows(), sampling)}
    assert together == alone
    assert len({len(tokens) for tokens in alone.values()}) > 2, "rows end at different steps"


def test_what_is_drawn_depends_on_a_rows_seed_alone(model: Any) -> None:
    from headnote_cli.engine.decoding import Decoder

    sampling = Sampling(max_new_tokens=12, temperature=1.2, top_p=0.9, top_k=40)
    drawn = [
        {row.name: row.written for row in Decoder(model, [], slots).write(_rows(), sampling)} for slots in (1, 4, 10)
    ]
    assert drawn[0] == drawn[1] == drawn[2]
    assert drawn[0] != {row.name: row.written for row in Decoder(model, [], 4).write(_rows(), Sampling(12))}


@pytest.mark.filterwarnings("ignore")
def test_the_image_text_class_too(tiny_models: Callable[[str], Path]) -> None:
    import torch
    from transformers import AutoModelForImageTextToText

    from headnote_cli.engine.decoding import Decoder

    folder = tiny_models("AutoModelForImageTextToText")
    loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    sampling = Sampling(max_new_tokens=10)
    together = {row.name: row.written for row in Decoder(loaded, [], 4).write(_rows(), sampling)}
    assert together == _one_by_one(loaded, sampling, [])
