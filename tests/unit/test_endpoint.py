"""Whatever a server answers: a headnote, or words on what was wrong with the answer."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headnote_cli import chat
from headnote_cli.chat import connect, without_thoughts
from headnote_cli.endpoint import Endpoint
from headnote_cli.errors import DataError, SldsError, UnreachableError, UsageError
from headnote_cli.sampling import Headnote, Prompt, Sampling
from tests.conftest import examples

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


def asking(monkeypatch: pytest.MonkeyPatch, status: int, body: bytes) -> Endpoint:
    import openai

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=body, headers={"Content-Type": "application/json"})

    client = openai.OpenAI(
        base_url="http://server/v1", api_key="none", max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
    )  # fmt: skip
    client.with_options = lambda **_: client  # type: ignore[method-assign]  # no pauses
    monkeypatch.setattr(chat, "connect", lambda *_: client)
    return Endpoint("http://server/v1", "m", lambda _: None, 1)


def answered(content: Any, reason: str = "stop", **more: Any) -> bytes:
    choice = {"finish_reason": reason, "message": {"role": "assistant", "content": content, **more}}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": 5}}).encode()


def written(body: bytes, status: int = 200) -> Headnote:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return asking(monkeypatch, status, body).write_one(PROMPT, Sampling(), lambda _: None)


@settings(max_examples=examples(2000))
@given(status=st.sampled_from([200, 200, 200, 204, 400, 404, 422, 429, 500]), body=BODIES)
def test_any_answer_is_a_headnote_or_a_failure_in_words(status: int, body: bytes) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        server = asking(monkeypatch, status, body)
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
        (b'{"error": "Unexpected endpoint"}', "no chat completion"),
        (b"<html>", "no JSON|no chat completion"),
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
        (404, "Not Found", UnreachableError, "no chat at this address"),
        (400, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000", DataError, "longer than the server"),
        (400, "the request exceeds the available context size", DataError, "longer than the server"),
        (400, "'max_tokens' is too large: 512. This model's maximum context length is 256", DataError, "longer than"),
        (413, "Payload Too Large", DataError, "longer than the server"),
        (400, "Unsupported value: 'temperature' does not support 0 with this model.", UsageError, "--temperature"),
        (422, "temperature must be strictly positive", UsageError, "`temperature`"),
        (400, "Something else", DataError, "refuses the request (400: Something else)"),
        (429, "Quota", UnreachableError, "the server failed (429: Quota)"),
        (503, "The system is busy, send the message later", UnreachableError, "the server failed (503"),
    ],
)
def test_a_refusal_is_said_in_words_with_what_to_do(status: int, words: str, kind: type, told: str) -> None:
    for body in ({"error": {"message": words}}, {"error": words}, {"detail": words}, {"message": words}):
        with pytest.raises(SldsError) as raised:
            written(json.dumps(body).encode(), status)
        assert isinstance(raised.value, kind)
        assert told in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize(
    "address", ["localhost:8000/v1", "", "ftp://x/v1", "http://", "http://x:port", "http://[::1/v1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="no address of a server"):
        connect(address)


def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-gehäim")
    with pytest.raises(UsageError, match="OPENAI_API_KEY") as raised:
        connect("http://localhost:9/v1")
    assert "sk-" not in str(raised.value)
