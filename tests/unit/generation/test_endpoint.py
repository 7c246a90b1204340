"""Whatever a server answers: a headnote, or words on what was wrong with the answer."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headnote_cli.errors import DataError, SldsError, UnreachableError, UsageError
from headnote_cli.events import Listener, Note
from headnote_cli.generation import chat
from headnote_cli.generation.chat import connect, without_thoughts
from headnote_cli.generation.endpoint import Endpoint
from headnote_cli.generation.sampling import Headnote, Prompt, Sampling
from tests.conftest import examples
from tests.integration.servers import Chat, serving

PROMPT = Prompt("one", [1], [{"role": "system", "content": "Kurz."}, {"role": "user", "content": "Urteil"}], 0)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
MESSAGES = st.fixed_dictionaries({}, optional={"content": JSON, "role": JSON, "refusal": JSON, "reasoning": JSON})
CHOICES = st.lists(st.fixed_dictionaries({}, optional={"message": MESSAGES | JSON, "finish_reason": JSON}) | JSON)
ERRORS = st.fixed_dictionaries({}, optional={"message": JSON, "param": JSON, "code": JSON, "detail": JSON})
ANSWERS = st.fixed_dictionaries({}, optional={"choices": CHOICES | JSON, "usage": JSON, "id": JSON, "error": ERRORS})
BODIES = (ANSWERS | ERRORS | JSON).map(lambda value: json.dumps(value).encode()) | st.binary()


def asking(
    monkeypatch: pytest.MonkeyPatch,
    rule: Callable[[dict[str, Any]], tuple[int, bytes]],
    emit: Listener = lambda _: None,
) -> Endpoint:
    """A server that answers each request by a rule."""
    import openai

    def answer(request: httpx2.Request) -> httpx2.Response:
        status, body = rule(json.loads(request.content))
        return httpx2.Response(status, content=body, headers={"Content-Type": "application/json"})

    client = openai.OpenAI(
        base_url="http://server/v1", api_key="none", max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
    )  # fmt: skip
    client.with_options = lambda **_: client  # type: ignore[method-assign]  # no pauses
    monkeypatch.setattr(chat, "connect", lambda *_: client)
    return Endpoint(chat.Chat("http://server/v1", "m", emit), 1)


def answered(content: Any, reason: str = "stop", **more: Any) -> bytes:
    choice = {"finish_reason": reason, "message": {"role": "assistant", "content": content, **more}}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": 5}}).encode()


def written(body: bytes, status: int = 200) -> Headnote:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return asking(monkeypatch, lambda _: (status, body)).write_one(PROMPT, Sampling(), lambda _: None)


@settings(max_examples=examples(2000))
@given(status=st.sampled_from([200, 200, 200, 204, 400, 404, 422, 429, 500]), body=BODIES)
def test_any_answer_is_a_headnote_or_a_failure_in_words(status: int, body: bytes) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        server = asking(monkeypatch, lambda _: (status, body))
        with contextlib.suppress(UsageError, UnreachableError):
            ((name, result),) = server.write([PROMPT], Sampling())
            assert name == "one"
            assert isinstance(result, Headnote | SldsError)
        with contextlib.suppress(SldsError):
            headnote = server.write_one(PROMPT, Sampling(), lambda _: None)
            assert headnote.text.strip()
            assert headnote.text.encode()
            assert isinstance(headnote.tokens, int)


THINKING = [
    ("<think>Art. 9?</think>\n\nRegeste", "Regeste"),
    ("<THINK>a</THINK><reasoning>b</reasoning> Regeste", "Regeste"),
    ("Art. 9?\n</think>\nRegeste", "Regeste"),
    ("<think>a <think>b</think> c</think>Regeste", "Regeste"),
    ("<thinking>Art. 9", ""),
    ("<think></think>", ""),
    ("[THINK]Art. 9?[/THINK]Regeste", "Regeste"),
    ("<|channel|>analysis<|message|>?<|end|><|start|>assistant<|channel|>final<|message|>Regeste<|return|>", "Regeste"),
    ("<|channel|>final<|message|>Regeste", "Regeste"),
    ("<|channel|>analysis<|message|>Art. 9", ""),
    ("analysisWe need Art. 9.assistantfinalRegeste", "Regeste"),
    ("Art. 684 ZGB; was man denkt (<think>)", "Art. 684 ZGB; was man denkt ("),
    ("analysis of Art. 9", "analysis of Art. 9"),
    ("Regeste < 3 m und > 2 m", "Regeste < 3 m und > 2 m"),
    ("<seed:think>a<seed:cot_budget_reflect>b</seed:cot_budget_reflect>c</seed:think>Regeste", "Regeste"),
    ("◁think▷Art. 9?◁/think▷Regeste", "Regeste"),
    ("<|begin_of_thought|>\nArt. 9?\n<|end_of_thought|>\n\nRegeste", "Regeste"),
    ("<|begin_of_thought|>?<|end_of_thought|>\n<|begin_of_solution|>\nRegeste\n<|end_of_solution|>\n", "Regeste"),
    ("<|START_THINKING|>?<|END_THINKING|><|START_RESPONSE|>Regeste<|END_RESPONSE|>", "Regeste"),
    ("<|think_start|>Art. 9?<|think_end|>Regeste", "Regeste"),
    ("<|thinking|>Art. 9?<|/thinking|>Regeste", "Regeste"),
    ("<analysis>Art. 9?</analysis>\nRegeste", "Regeste"),
    ("<thinking>a</thinking>Regeste<reflection>gut so</reflection>", "Regeste"),
    ("<chain_of_thought>a</chain_of_thought><inner_monologue>b</inner_monologue>Regeste", "Regeste"),
    ("<think>a</think>\n<answer>\nRegeste\n</answer>", "Regeste"),
    ("<unused94>thought\nArt. 9?<unused95>Regeste", "Regeste"),
    ("<|begin_of_thought|>Art. 9", ""),
    ("◁think▷Art. 9", ""),
]  # fmt: skip
NO_THINKING = [
    "<b>Art. 684 ZGB</b>; Zaun",
    "Zaun <1> von <i>1,8</i> m",
    "Art. 684 ZGB […]; Zaun [...]; [recte: Art. 685 ZGB] [reflection]",
    "<answer>Art. 684 ZGB</answer>",
    "<regeste>Zaun</regeste>",
    "<Analyse>Zaun</Analyse>",
    "<rethinking>Zaun</rethinking> und <www.think.ch>, <a@think.ch>, <https://think.ch/a>",
    "Höhe < think > Tiefe; </b> ◁ Zaun ▷ <|Zaun|>",
]  # fmt: skip


@pytest.mark.parametrize(("text", "left"), THINKING)
def test_thinking_is_removed_from_an_answer(text: str, left: str) -> None:
    assert without_thoughts(text).strip() == left
    if left:
        assert written(answered(text)).text == left
    else:
        with pytest.raises(DataError, match="without text, with the model's thinking alone") as raised:
            written(answered(text, "length"))
        assert "--max-new-tokens" in str(raised.value.hint)


@pytest.mark.parametrize("text", NO_THINKING)
def test_text_that_is_no_thinking_stays(text: str) -> None:
    assert written(answered(text)) == Headnote(text, "stop", 5)


def test_parts_of_an_answer_are_joined_and_its_thinking_left_out() -> None:
    parts = [{"type": "thinking", "thinking": ["Art. 9?"]}, {"type": "text", "text": "Art. 684 "}, {"text": "ZGB"}]
    assert written(answered(parts)) == Headnote("Art. 684 ZGB", "stop", 5)
    assert written(answered("halb \ud83d")).text == "halb ?"
    assert written(answered("Art. 684", "length")).finish_reason == "length"
    assert written(answered("Art. 684", "model_length")).finish_reason == "length"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (answered(""), "without text"),
        (answered(" \n\u3000"), "without text"),
        (answered(None, reasoning_content="Art. 9?"), "with the model's thinking alone"),
        (answered("", reasoning="Art. 9?"), "with the model's thinking alone"),
        (answered([]), "without text"),
        (answered(None, refusal="Das darf ich nicht."), "the model refuses: Das darf ich nicht."),
        (answered("Art. 68", "content_filter"), "finish_reason content_filter"),
        (answered("Art. 68", "abort"), "finish_reason abort"),
        (b'{"error": "Unexpected endpoint"}', "Unexpected endpoint"),
        (b'{"error": {"message": "CUDA out of memory", "code": 3}}', "CUDA out of memory"),
        (b'{"object": "error", "message": "the model is loading"}', "the model is loading"),
        (b'{"detail": "no room", "choices": []}', "no room"),
        (b'{"error": {}}', "not a chat completion"),
        (b"<html>", "not JSON|not a chat completion"),
    ],
)
def test_an_answer_without_a_whole_text_is_a_failure(body: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told):
        written(body)


@pytest.mark.parametrize(
    ("status", "words", "kind", "told"),
    [
        (401, "Incorrect API key", UnreachableError, "OPENAI_API_KEY"),
        (403, "Forbidden", UnreachableError, "OPENAI_API_KEY"),
        (404, "model 'm' not found, try pulling it first", UnreachableError, "does not serve the model m"),
        (400, "Invalid model name passed in model=m", UnreachableError, "does not serve the model m"),
        (404, "Not Found", UnreachableError, "no chat is served at this address"),
        (400, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000", DataError, "longer than the server"),
        (400, "the request exceeds the available context size", DataError, "longer than the server"),
        (400, "'max_tokens' is too large: 512. This model's maximum context length is 256", DataError, "longer than"),
        (413, "Payload Too Large", DataError, "longer than the server"),
        (400, "'max_tokens' is too large: 9. This model's maximum context length is 8 tokens and your request has 5 "
              "input tokens (9 > 8 - 5).", DataError, "longer than the server"),
        (400, "This model's maximum context length is 9 tokens. However, you requested 512 output tokens and your "
              "prompt contains 5. Reduce the length of the input prompt or max_tokens.", DataError, "longer than"),
        (400, "prompt is too long: 200 tokens > 100 maximum", DataError, "longer than the server"),
        (400, "Something else", DataError, "refuses the request (400: Something else)"),
        (429, "Quota", UnreachableError, "the server failed (429: Quota)"),
        (503, "The system is busy, send the message later", UnreachableError, "the server failed (503"),
    ],
)  # fmt: skip
def test_a_refusal_is_said_in_words_with_what_to_do(status: int, words: str, kind: type, told: str) -> None:
    for body in ({"error": {"message": words}}, {"error": words}, {"detail": words}, {"message": words}):
        with pytest.raises(SldsError) as raised:
            written(json.dumps(body).encode(), status)
        assert isinstance(raised.value, kind)
        assert told in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: 512. This model supports at most 256 completion tokens, whereas you provided 512.",
        "max_completion_tokens is too large: 512.This model supports at most 256 completion tokens",
        "max_tokens: 512 > 256, which is the maximum allowed number of output tokens for m",
        "Invalid 'max_tokens': integer above maximum value. Expected a value <= 256, but got 512 instead.",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 256]",
        "`max_tokens` must be less than or equal to `256`, the maximum value for `max_tokens` is less than the "
        "`context_window` for this model",
        "Input validation error: `max_new_tokens` must be <= 256. Given: 512",
        "The maximum tokens you requested exceeds the model limit of 256. Try again with a maximum tokens value that "
        "is lower than 256.",
        [{"loc": ["body", "max_tokens"], "msg": "Input should be less than or equal to 256", "input": 512}],
    ],
)
def test_a_limit_of_what_a_server_writes_is_no_limit_of_the_prompt(words: Any) -> None:
    for body in ({"error": {"message": words}}, {"detail": words}):
        with pytest.raises(UsageError, match="`max_tokens` is more than the server ever writes") as raised:
            written(json.dumps(body).encode(), 400)
        assert raised.value.hint == "lower --max-new-tokens"


@pytest.mark.parametrize(
    "words",
    [
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
        "temperature must be strictly positive",
    ],
)
def test_a_temperature_of_zero_that_a_server_refuses_is_left_out(words: str) -> None:
    asked, told = [], []

    def rule(body: dict[str, Any]) -> tuple[int, bytes]:
        asked.append("temperature" in body)
        return (400, json.dumps({"error": {"message": words}}).encode()) if asked[-1] else (200, answered("Art. 684"))

    with pytest.MonkeyPatch.context() as monkeypatch:
        server = asking(monkeypatch, rule, told.append)
        found = [headnote for _, headnote in server.write([PROMPT] * 3, Sampling())]
        assert found == [Headnote("Art. 684", "stop", 5)] * 3
        assert asked == [True, False, False, False]
        assert told == [Note("the server refuses `temperature`: it is left out, so it draws as it likes")]
        with pytest.raises(UsageError, match="refuses `temperature`") as raised:
            asking(monkeypatch, rule).write_one(PROMPT, Sampling(temperature=0.5), lambda _: None)
        assert "--temperature" in str(raised.value.hint)


def test_an_error_in_an_answer_of_status_200_acts_as_its_own_status() -> None:
    with pytest.raises(UnreachableError, match="the server failed \\(429: slow down\\)"):
        written(b'{"error": {"message": "slow down", "code": 429}}')
    with pytest.raises(UnreachableError, match="refuses the key"):
        written(b'{"error": {"message": "no key", "code": 401}}')


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_why_a_server_cannot_be_reached_is_said_in_words(monkeypatch: pytest.MonkeyPatch, silent: int) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(UnreachableError, match="the connection is refused") as raised:
        connect("http://127.0.0.1:9/v1")
    assert raised.value.hint == "is it running?"
    with pytest.raises(UnreachableError, match="it does not answer in time"):
        connect(f"http://127.0.0.1:{silent}/v1", timeout=0.2)
    with serving(Chat) as plain, pytest.raises(UnreachableError, match="no secure connection") as raised:
        connect(plain.replace("http:", "https:"))
    assert "http://" in str(raised.value.hint)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UnreachableError, match="its name cannot be resolved") as raised:
        connect("http://nowhere.example/v1")
    assert raised.value.hint == "check the name in the address"


@pytest.mark.parametrize(
    "address", ["localhost:8000/v1", "", "ftp://x/v1", "http://", "http://x:port", "http://[::1/v1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="not a server address"):
        connect(address)


def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-gehäim")
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as raised:
        connect("http://localhost:9/v1")
    assert "sk-" not in str(raised.value)
