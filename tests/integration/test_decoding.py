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


def test_a_prompt_that_begins_like_the_last_one_is_read_from_where_they_part(model: Any) -> None:
    """The same decision asked for in another language; one that shares little is read whole."""
    from headnote_cli.engine.decoding import Decoder, Row

    decision = _rows()[0].prompt
    prompts = [[*decision, 7, 8, 9], [*decision, 7, 11], [*decision, 7, 11], [*decision[:100], 5, *decision[101:]]]
    read: list[int] = []
    forward = model.forward

    def counting(**arguments: Any) -> Any:
        read.append(arguments["input_ids"].shape[1])
        return forward(**arguments)

    sampling = Sampling(max_new_tokens=6)
    apart = [next(iter(Decoder(model, [], 1).write([Row(0, prompt, 0)], sampling))).written for prompt in prompts]
    model.forward = counting
    try:
        rows = [Row(name, prompt, 0) for name, prompt in enumerate(prompts)]
        together = {row.name: row.written for row in Decoder(model, [], 4).write(rows, sampling)}
    finally:
        del model.forward
    assert read[:4] == [303, 1, 1, 300]
    assert [together[name] for name in range(4)] == apart


def test_as_many_rows_as_fit_the_free_memory_are_written_together(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from headnote_cli.engine import decoding

    config = model.config
    width = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 4
    sampling = Sampling(max_new_tokens=5)
    row = width * (max(LENGTHS) + 5 + decoding.SLACK)
    monkeypatch.setattr(decoding, "available_memory", lambda: int(3.5 * row / decoding.SHARE_OF_FREE))
    decoder = decoding.Decoder(model, [])
    assert decoder.count == decoding.MOST_ROWS["cpu"]
    assert len(list(decoder.write(_rows(), sampling))) == len(LENGTHS)
    assert decoder.count == 3
