"""Many prompts written together: token for token what one by one gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.generation.sampling import Sampling
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
    from headnote_cli.generation.decoder import RowState

    dice = random.Random(seed)
    return [RowState(i, [dice.randrange(3, 500) for _ in range(length)], seed=i) for i, length in enumerate(LENGTHS)]


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
            max_new_tokens=sampling.max_new_tokens,
            repetition_penalty=sampling.repetition_penalty,
            do_sample=False,
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
    """With few slots rows join and leave; with one column of slack the buffer is moved all the time."""
    from headnote_cli.generation import decoder as decoding

    monkeypatch.setattr(decoding, "SLACK", slack)
    sampling = Sampling(max_new_tokens=24, repetition_penalty=penalty)
    alone = _one_by_one(untouched, sampling, [])
    stops = sorted({tokens[5 + 2 * place % 15] for place, tokens in alone.items() if place % 2})  # some end early
    alone = _one_by_one(untouched, sampling, stops)
    together = {row.name: row.written for row in decoding.Decoder(model, stops, slots).write(_rows(), sampling)}
    assert together == alone
    assert len({len(tokens) for tokens in alone.values()}) > 2, "rows end at different steps"


def test_what_is_drawn_depends_on_a_rows_seed_alone(model: Any) -> None:
    from headnote_cli.generation.decoder import Decoder

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

    from headnote_cli.generation.decoder import Decoder

    folder = tiny_models("AutoModelForImageTextToText")
    loaded, untouched = (
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2)
    )
    sampling = Sampling(max_new_tokens=10)
    together = {row.name: row.written for row in Decoder(loaded, [], 4).write(_rows(), sampling)}
    assert together == _one_by_one(untouched, sampling, [])


@pytest.mark.parametrize("key_heads", [1, 2, 6])
@pytest.mark.parametrize("seen", ["all", "padded", "window"])
@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("tokens", [1, 2, 20, 37])
@pytest.mark.parametrize("columns_follow", [False, True])
@pytest.mark.parametrize("onednn", [False, True])
def test_attention_is_sdpas(
    monkeypatch: pytest.MonkeyPatch,
    key_heads: int,
    seen: str,
    scaling: float | None,
    tokens: int,
    columns_follow: bool,
    onednn: bool,
) -> None:
    """Of one token, of some that go on after others, of all; rows padded on the left; windows that hide columns."""
    import torch

    from headnote_cli.generation import cpu as on_cpu

    monkeypatch.setattr(on_cpu, "BLOCK", 8)
    monkeypatch.setattr(on_cpu, "ONEDNN", onednn and on_cpu.ONEDNN)
    torch.manual_seed(3)
    rows, heads, columns, size = 3, 6, 37, 8
    query = torch.randn(rows, heads, tokens, size)
    key, value = (torch.randn(rows, key_heads, size, columns).transpose(2, 3) for _ in range(2))
    if not columns_follow:
        key, value = key.contiguous(), value.contiguous()
    column, own = torch.arange(columns), torch.arange(columns - tokens, columns)[:, None]
    known = (column <= own).expand(rows, 1, tokens, columns)
    if seen == "padded":
        known = known & ((column >= torch.tensor([3, 5, 16])[:, None, None, None]) | (column == own))
    elif seen == "window":
        known = known & (column > own - 9)
    module = torch.nn.Module()
    module.num_key_value_groups = heads // key_heads  # type: ignore[assignment]
    with torch.inference_mode():
        found, _ = on_cpu.attend(module, query, key, value, None if seen == "all" else known, scaling=scaling)
    right = torch.nn.functional.scaled_dot_product_attention(query, key, value, known, scale=scaling, enable_gqa=True)
    torch.testing.assert_close(found, right.transpose(1, 2))


@pytest.mark.parametrize("key_heads", [2, 6])
@pytest.mark.parametrize("gradient", [False, True])
def test_attention_where_values_are_of_another_size(key_heads: int, gradient: bool) -> None:
    """With a gradient it is SDPA's, which wants a mask where tokens go on after others."""
    import torch

    from headnote_cli.generation.cpu import attend

    query, key, value = torch.randn(1, 6, 5, 8), torch.randn(1, key_heads, 9, 8), torch.randn(1, key_heads, 9, 4)
    module = torch.nn.Module()
    module.num_key_value_groups = 6 // key_heads  # type: ignore[assignment]
    with torch.set_grad_enabled(gradient):
        found, _ = attend(module, query.requires_grad_(gradient), key, value, None)
    assert found.requires_grad == gradient
    seen = torch.ones(5, 9, dtype=torch.bool).tril(4)
    right = torch.nn.functional.scaled_dot_product_attention(query, key, value, seen, enable_gqa=True)
    torch.testing.assert_close(found, right.transpose(1, 2))


@pytest.mark.parametrize("tokens", [1, 6])
def test_attention_of_padding_is_a_number(tokens: int) -> None:
    """A NaN would reach all that follows: it is one even if it counts nothing."""
    import torch

    from headnote_cli.generation.cpu import attend

    query, key = torch.randn(2, 4, tokens, 8), torch.randn(2, 2, 9, 8)
    module = torch.nn.Module()
    known = torch.ones(2, 1, tokens, 9, dtype=torch.bool).tril(9 - tokens)
    known[0, :, 0] = False
    with torch.inference_mode():
        assert attend(module, query, key, key, known)[0].isfinite().all()
        assert attend(module, query, key, key, known & False)[0].isfinite().all()


@pytest.mark.parametrize("piece", [1, 7, 64, 299, 300])
@pytest.mark.parametrize("padded", [False, True])
def test_what_is_read_in_pieces_is_what_is_read_at_once(
    piece: int, padded: bool, model: Any, untouched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values of all layers too, with the model's windows of 128."""
    import torch
    from transformers import DynamicCache

    from headnote_cli.generation import cpu as on_cpu
    from headnote_cli.generation.decoder import CACHE

    monkeypatch.setattr(on_cpu, "BLOCK", 50)
    on_cpu.tune(model)
    on_cpu.tune(model)  # a second time changes nothing
    ids = torch.tensor([_rows()[0].prompt])
    mask = (torch.arange(ids.shape[1]) >= 5).long()[None] if padded else None
    whole = DynamicCache()
    with torch.inference_mode():
        known = untouched(input_ids=ids, attention_mask=mask, **{CACHE: whole}).logits[0, -1]
        for config in (None, model.config):  # a cache of all columns, and one of each layer's window
            cache, end = DynamicCache(config=config), 0
            for part in ids.split(piece, dim=1):
                end += part.shape[1]
                seen = mask if mask is None else mask[:, :end]
                logits = model(input_ids=part, attention_mask=seen, **{CACHE: cache}).logits
            torch.testing.assert_close(logits[0, -1], known, atol=1e-4, rtol=1e-4)
            for mine, theirs in zip(cache.layers, whole.layers, strict=True):
                columns = mine.keys.shape[2]
                assert columns == ids.shape[1] or config is not None
                first = 5 if padded and columns == ids.shape[1] else 0  # what is hidden may hold anything
                for own, other in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                    torch.testing.assert_close(
                        own[:, :, first:], other[:, :, -columns:][:, :, first:], atol=1e-4, rtol=1e-4
                    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 1, 7), (2, 5, 7), (0, 7), (70, 7)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_linear_layer(bias: bool, shape: tuple[int, ...], dtype: str) -> None:
    """It keeps its gradient too."""
    import torch
    from transformers import PretrainedConfig

    from headnote_cli.generation.cpu import tune

    layer = torch.nn.Linear(7, 4, bias=bias, dtype=getattr(torch, dtype))
    model = torch.nn.Sequential(layer)
    model.config = PretrainedConfig()
    states = torch.randn(shape).to(layer.weight.dtype)
    before = model(states)
    tune(model)
    assert model(states).requires_grad
    with torch.inference_mode():
        after = model(states)
    torch.testing.assert_close(after, before)
    assert after.is_contiguous()


def _other(family: str, **more: Any) -> Any:
    import torch
    import transformers

    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=500, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, **more,
    )  # fmt: skip
    return getattr(transformers, f"{family}ForCausalLM")(config).float().eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "with an adapter"])
def test_other_families(family: str) -> None:
    """Qwen2's projections have biases; PEFT wraps layers."""
    from headnote_cli.generation.decoder import Decoder, rows_can_join

    def loaded() -> Any:
        if family != "with an adapter":
            return _other(family)
        from peft import LoraConfig, get_peft_model

        return get_peft_model(_other("Llama"), LoraConfig(init_lora_weights=False, target_modules="all-linear")).eval()

    model, untouched = loaded(), loaded()
    untouched.load_state_dict(model.state_dict())
    assert rows_can_join(model)
    sampling = Sampling(max_new_tokens=10)
    together = {row.name: row.written for row in Decoder(model, [], 4).write(_rows(), sampling)}
    assert together == _one_by_one(untouched, sampling, [])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    ],
)
def test_a_model_whose_rows_cannot_be_joined_writes_them_one_by_one(
    family: str, keys: dict[str, Any], gemma_tokenizer: Any
) -> None:
    """Convolutions keep a state that is no keys and values; rotations of `dynamic` follow the longest row."""
    from headnote_cli.generation.decoder import rows_can_join
    from headnote_cli.generation.sampling import Prompt
    from headnote_cli.generation.writer import Writer

    model = _other(family, **keys)
    assert not rows_can_join(model)
    writer = Writer(model, gemma_tokenizer, [499])
    prompts = [Prompt(row.name, row.prompt, [], row.seed) for row in _rows()]
    sampling = Sampling(max_new_tokens=6)
    written = {name: headnote.text for name, headnote in writer.write(prompts, sampling)}
    alone = _one_by_one(model, sampling, [499])
    assert written == {name: writer._text(tokens).strip() for name, tokens in alone.items()}


@pytest.mark.parametrize("drawn", [Sampling(6), Sampling(6, temperature=1.5, seed=3)])
def test_one_decision_in_several_languages_is_read_once(
    drawn: Sampling, model: Any, gemma_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates too; and a prompt that is not kept is left to transformers."""
    from headnote_cli.generation.sampling import Prompt
    from headnote_cli.generation.writer import Writer

    read: list[int] = []
    forward = model.forward

    def counting(*arguments: Any, input_ids: Any, **options: Any) -> Any:
        read.append(input_ids.shape[1])
        return forward(*arguments, input_ids=input_ids, **options)

    monkeypatch.setattr(model, "forward", counting)
    writer = Writer(model, gemma_tokenizer, [499])
    decision = _rows()[0].prompt
    asked = [[*decision, 7, 8, 9], [*decision, 7, 11], [*decision, 7, 11], _rows()[1].prompt]

    def write(kept: bool) -> list[str]:
        prompts = [Prompt(0, ids, [], drawn.seed, kept=kept) for ids in asked]
        return [writer.write_one(prompt, drawn, lambda event: None).text for prompt in prompts]

    together = write(kept=True)
    assert [tokens for tokens in read if tokens > 1] == [len(decision) + 3, len(asked[3])]
    read.clear()
    assert together == write(kept=False)
    assert [tokens for tokens in read if tokens > 1] == [len(ids) for ids in asked]


def test_a_prompt_that_begins_like_the_last_one_is_read_from_where_they_part(model: Any) -> None:
    """The same decision asked for in another language; one that shares little is read whole."""
    from headnote_cli.generation.decoder import Decoder, RowState

    decision = _rows()[0].prompt
    prompts = [[*decision, 7, 8, 9], [*decision, 7, 11], [*decision, 7, 11], [*decision[:100], 5, *decision[101:]]]
    read: list[int] = []
    forward = model.forward

    def counting(**arguments: Any) -> Any:
        read.append(arguments["input_ids"].shape[1])
        return forward(**arguments)

    sampling = Sampling(max_new_tokens=6)
    apart = [next(iter(Decoder(model, [], 1).write([RowState(0, prompt, 0)], sampling))).written for prompt in prompts]
    model.forward = counting
    try:
        rows = [RowState(name, prompt, 0) for name, prompt in enumerate(prompts)]
        together = {row.name: row.written for row in Decoder(model, [], 8).write(rows, sampling)}
    finally:
        del model.forward
    assert read[:4] == [303, 1, 1, 300]
    assert [together[name] for name in range(4)] == apart


def test_as_many_rows_as_fit_the_free_memory_are_written_together(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from headnote_cli.generation import decoder as decoding

    config = model.config
    width = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 4
    sampling = Sampling(max_new_tokens=5)
    row = width * (max(LENGTHS) + 5 + decoding.SLACK)
    counts: list[int] = []
    slots = decoding.Slots
    monkeypatch.setattr(decoding, "Slots", lambda count, *sizes: counts.append(count) or slots(count, *sizes))
    decoder = decoding.Decoder(model, [])
    for fitting in (3.5, 100):
        monkeypatch.setattr(decoding, "available_memory", lambda: int(fitting * row / decoding.SHARE_OF_FREE))  # noqa: B023
        assert len(list(decoder.write(_rows(), sampling))) == len(LENGTHS)
    assert len(list(decoder.write(_rows()[:1], sampling))) == 1
    assert counts == [3, len(LENGTHS), 1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("slots", [3, 10])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_prompts_may_come_in_any_order(seed: int, slots: int, model: Any, untouched: Any) -> None:
    """A longer one that joins moves those that are there."""
    from headnote_cli.generation.decoder import Decoder

    sampling = Sampling(max_new_tokens=6)
    rows = _rows()
    random.Random(seed).shuffle(rows)
    assert rows[0].name != 0
    together = {row.name: row.written for row in Decoder(model, [], slots).write(rows, sampling)}
    assert together == _one_by_one(untouched, sampling, [])
