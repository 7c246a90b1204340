"""Many prompts written together: token for token what one by one gives."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.sampling import Sampling
from tests.conftest import text_config

LENGTHS = (300, 290, 180, 150, 150, 90, 33, 20, 7, 1)  # some beyond the sliding window of 128


@pytest.fixture(scope="module")
def model() -> Any:
    return _model()


@pytest.fixture(scope="module")
def untouched() -> Any:
    """The same model, which no decoder has changed."""
    return _model()


def _model() -> Any:
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
    slots: int, slack: int, penalty: float, model: Any, untouched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few slots rows join and leave; with one column of slack the buffer is moved all the time. Long prompts
    pass the MLPs in tiles."""
    from headnote_cli.engine import decoding, on_cpu

    monkeypatch.setattr(decoding, "SLACK", slack)
    monkeypatch.setattr(on_cpu, "TILE", 64)
    sampling = Sampling(max_new_tokens=24, repetition_penalty=penalty)
    alone = _one_by_one(untouched, sampling, [])
    stops = sorted({tokens[5 + 2 * place % 15] for place, tokens in alone.items() if place % 2})  # some end early
    alone = _one_by_one(untouched, sampling, stops)
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
    loaded, untouched = (
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2)
    )
    sampling = Sampling(max_new_tokens=10)
    together = {row.name: row.written for row in Decoder(loaded, [], 4).write(_rows(), sampling)}
    assert together == _one_by_one(untouched, sampling, [])


@pytest.mark.parametrize("key_heads", [1, 2, 6])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_a_steps_attention_is_sdpas(key_heads: int, masked: bool, scaling: float | None) -> None:
    import torch

    from headnote_cli.engine.on_cpu import attend_once

    torch.manual_seed(3)
    rows, heads, columns, size = 3, 6, 37, 8
    query = torch.randn(rows, heads, 1, size)
    key, value = (torch.randn(rows, key_heads, size, columns).transpose(2, 3) for _ in range(2))
    mask = torch.arange(columns) >= torch.tensor([0, 5, 36])[:, None, None, None] if masked else None
    found, _ = attend_once(torch.nn.Module(), query, key, value, mask, scaling=scaling)
    known = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=True)
    torch.testing.assert_close(found, known.transpose(1, 2))


def test_tuned_layers_give_what_they_gave(model: Any, untouched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from headnote_cli.engine import on_cpu

    on_cpu.tune(model)
    on_cpu.tune(model)  # a second time changes nothing
    mlp, whole = model.model.layers[0].mlp, untouched.model.layers[0].mlp
    seen: list[int] = []
    handle = mlp.gate_proj.register_forward_hook(lambda _, states, __: seen.append(states[0].shape[1]))
    monkeypatch.setattr(on_cpu, "TILE", 16)
    states = torch.randn(2, 40, model.config.hidden_size)
    try:
        for few in (0, 16, 64):  # the weights right; left for the last tile; left for all
            monkeypatch.setattr(on_cpu, "FEW", few)
            torch.testing.assert_close(mlp(states), whole(states))
    finally:
        handle.remove()
    assert seen == [16, 16, 8] * 3


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 1, 7), (2, 5, 7), (0, 7), (70, 7)])
def test_a_linear_layer_of_few_tokens(bias: bool, shape: tuple[int, ...]) -> None:
    import torch
    from transformers import PretrainedConfig

    from headnote_cli.engine.on_cpu import tune

    layer = torch.nn.Linear(7, 4, bias=bias)
    model = torch.nn.Sequential(layer)
    model.config = PretrainedConfig()
    states = torch.randn(shape)
    before = model(states)
    tune(model)
    after = model(states)
    torch.testing.assert_close(after, before)
    assert after.is_contiguous()


def test_prompts_of_like_length_are_read_side_by_side_unless_one_goes_on_like_the_other() -> None:
    from headnote_cli.engine.decoding import Row, side_by_side

    prompts = [[1] * 9, [2] * 9, [3] * 9, [3] * 8, [3] * 8, [3, 3, 4, 4, 4], [5] * 4, [6] * 3, [7] * 3, [8], [8]]
    groups = list(side_by_side((Row(name, prompt, 0) for name, prompt in enumerate(prompts)), 2))
    assert [[row.name for row in group] for group in groups] == [[0, 1], [2], [3], [4], [5, 6], [7, 8], [9, 10]]
    assert [len(group) for group in side_by_side((Row(name, [name], 0) for name in range(5)), 1)] == [1] * 5


@pytest.fixture
def two_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("slots", [2, 4])
def test_prompts_read_side_by_side_are_those_read_alone(slots: int, model: Any, untouched: Any) -> None:
    import torch

    from headnote_cli.engine.decoding import Decoder

    sampling = Sampling(max_new_tokens=12)
    readers: set[tuple[int, int]] = set()
    decoder = Decoder(model, [], slots)
    read = decoder._read_from
    decoder._read_from = lambda *arguments: (  # type: ignore[method-assign]
        readers.add((threading.get_ident(), torch.get_num_threads())) or read(*arguments)
    )
    together = {row.name: row.written for row in decoder.write(_rows(), sampling)}
    assert together == _one_by_one(untouched, sampling, [])
    assert {threads for _, threads in readers} == {1, 2}  # side by side, and those without a like one
    assert len({reader for reader, threads in readers if threads == 1}) > 1
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
def test_when_one_reader_stops_so_do_the_others(fault: type[BaseException], model: Any) -> None:
    """The longer prompt would be read for minutes."""
    import torch

    from headnote_cli.engine.decoding import Decoder, Row

    layer, started, passed = model.model.layers[0], threading.Event(), []

    def hook(_: Any, states: Any) -> None:
        if states[0].shape[1] == 50:
            started.wait(20)
            raise fault
        passed.append(0)
        started.set()
        time.sleep(0.2)

    def endless(*_: Any) -> None:
        while True:
            model.model.norm(torch.zeros(1, 1, model.config.hidden_size))
            time.sleep(0.01)

    handles = [layer.register_forward_pre_hook(hook), model.model.layers[1].register_forward_pre_hook(endless)]
    try:
        with pytest.raises(fault):
            list(Decoder(model, [], 2).write([Row(0, [5] * 60, 0), Row(1, [7] * 50, 0)], Sampling(max_new_tokens=3)))
    finally:
        for handle in handles:
            handle.remove()
    assert passed
    assert torch.get_num_threads() == 2


def test_a_model_whose_rotation_follows_the_last_prompt_is_read_by_one(two_threads: None) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from headnote_cli.engine.decoding import readers_of

    def llama(**rope: Any) -> Any:
        sizes = dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), 16)
        heads = {"num_attention_heads": 2, "num_hidden_layers": 1}
        return LlamaForCausalLM(LlamaConfig(**sizes, **heads, rope_parameters={"rope_theta": 1e4, **rope}))

    assert readers_of(llama(rope_type="default")) == 2
    assert readers_of(llama(rope_type="dynamic", factor=2.0)) == 1
    torch.set_num_threads(1)
    assert readers_of(llama(rope_type="default")) == 1


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
        together = {row.name: row.written for row in Decoder(model, [], 8).write(rows, sampling)}
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
