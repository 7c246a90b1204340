"""Whatever a server answers: a headnote, or words on what was wrong with the answer."""

from __future__ import annotations

import contextlib
import json

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headnote_cli import endpoint
from headnote_cli.errors import SldsError
from headnote_cli.sampling import Headnote, Prompt, Sampling
from tests.conftest import examples

PROMPT = Prompt("one", [1], [{"role": "user", "content": "Urteil"}], 0)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
MESSAGES = st.fixed_dictionaries({}, optional={"content": JSON, "role": JSON})
CHOICES = st.lists(st.fixed_dictionaries({}, optional={"message": MESSAGES | JSON, "finish_reason": JSON}) | JSON)
ANSWERS = st.fixed_dictionaries({}, optional={"choices": CHOICES | JSON, "usage": JSON, "id": JSON})
BODIES = (ANSWERS | JSON).map(lambda value: json.dumps(value).encode()) | st.binary()


def asking(monkeypatch: pytest.MonkeyPatch, status: int, body: bytes) -> endpoint.Endpoint:
    import openai

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=body, headers={"Content-Type": "application/json"})

    client = openai.OpenAI(
        base_url="http://server/v1", api_key="none", max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(answer)),
    )  # fmt: skip
    monkeypatch.setattr(endpoint, "connect", lambda *_: client)
    return endpoint.Endpoint("http://server/v1", "m", 1)


@settings(max_examples=examples(2000))
@given(status=st.sampled_from([200, 200, 200, 204, 400, 404, 429, 500]), body=BODIES)
def test_any_answer_is_a_headnote_or_a_failure_of_its_row(status: int, body: bytes) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        server = asking(monkeypatch, status, body)
        ((name, result),) = server.write([PROMPT], Sampling())
        assert name == "one"
        assert isinstance(result, Headnote | SldsError) or type(result).__module__.startswith("openai")
        with contextlib.suppress(SldsError):
            written = server.write_one(PROMPT, Sampling(), lambda _: None)
            assert isinstance(written.text, str)
            assert isinstance(written.tokens, int)
