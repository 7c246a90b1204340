"""Servers as people meet them: refusals, thinking aloud, wrong names and addresses, proxies; by the command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.commands import slds, slds_json
from tests.conftest import build_text_model, sample_rows, save_lines
from tests.integration.servers import Chat, completion, running, serving

pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = "Art. 684 ZGB; Höhe eines Zauns (E. 2)."


@pytest.fixture(scope="module")
def model(gemma_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_text_model(gemma_tokenizer, tmp_path_factory.mktemp("answers") / "model")


class Server(Chat):
    """Serves the model `headnotes`; a rule looks at each request and answers with a status and words, or not at all."""

    rule: ClassVar[Callable[[dict[str, Any]], tuple[int, str] | None]]
    seen: ClassVar[list[dict[str, Any]]]
    text = TEXT

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self.answer(200, json.dumps({"object": "list", "data": [{"id": "headnotes"}]}).encode())
        else:
            self.answer(404, b'{"detail": "Not Found"}')

    def do_POST(self) -> None:
        body = self.asked()
        self.seen.append(body)
        told = type(self).rule(body) if self.path == "/v1/chat/completions" else (404, "Not Found")
        if told is None:
            self.answer(200, completion(self.text))
        else:
            self.answer(told[0], json.dumps({"error": {"message": told[1]}}).encode())


@pytest.fixture
def server() -> Iterator[str]:
    Server.rule, Server.seen, Server.text = staticmethod(lambda _: None), [], TEXT
    with running(Server) as address:
        yield address


@pytest.fixture
def command(model: Path, write_config: Callable[..., Path], tmp_path: Path) -> Callable[..., list[str]]:
    """Forty short rows and one long one, which is asked for by a server at that address."""
    rows = [
        row | {"decision": "Urteil. " * 5, "sample_id": place} for place, row in enumerate(sample_rows("train") * 4)
    ]
    rows = [rows[0] | {"decision": "Urteil. " * 200}, *rows[1:41]]
    file = save_lines(tmp_path / "rows.jsonl", rows)
    config = write_config(model_name_or_path=str(model), model_class="AutoModelForCausalLM", max_length=2048)

    def arguments(address: str, *more: object) -> list[str]:
        given = ["--config", config, "--model", model, "--decision", file, "--output", tmp_path / "out.jsonl"]
        return ["generate", *map(str, [*given, "--endpoint", address, "--served-model", "headnotes", *more])]

    return arguments


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("refused", "words", "note"),
    [
        (lambda body: body["messages"][0]["role"] == "system", "System role not supported", "no system turn"),
        (
            lambda body: body["messages"][0]["role"] == "system",
            "Conversation roles must alternate user/assistant/user/assistant/...",
            "no system turn",
        ),
        (
            lambda body: "max_tokens" in body,
            "Unsupported parameter: 'max_tokens' is not supported here. Use 'max_completion_tokens' instead.",
            "`max_completion_tokens` is sent instead",
        ),
        (lambda body: "seed" in body, "Unrecognized request argument supplied: seed", "refuses `seed`: it is left out"),
        (lambda body: "top_p" in body, "`top_p` must be > 0.0 and < 1.0", "refuses `top_p`: it is left out"),
    ],
)
def test_what_a_server_refuses_and_can_be_done_without_is_left_out_with_one_note(
    refused: Callable[[dict[str, Any]], bool], words: str, note: str, server: str, command: Callable[..., list[str]],
    tmp_path: Path,
) -> None:  # fmt: skip
    Server.rule = staticmethod(lambda body: (400, words) if refused(body) else None)
    result = slds(*command(server, "--temperature", 0.5))
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count(note) == 1
    assert all(line["headnote"] == TEXT for line in lines(tmp_path / "out.jsonl"))
    assert sum(map(refused, Server.seen)) <= 8, "only the first ones, that were asked together"


def test_the_systems_text_goes_before_the_users(server: str, command: Callable[..., list[str]]) -> None:
    slds(*command(server, "--limit", 1))
    system, user = Server.seen[0]["messages"]
    Server.rule = staticmethod(lambda body: (400, "System role not supported") if len(body["messages"]) > 1 else None)
    slds(*command(server, "--limit", 1, "--max-new-tokens", 9, "--force"))
    assert Server.seen[-1]["messages"] == [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}]


@pytest.mark.parametrize(
    ("status", "words", "code", "told"),
    [
        (404, "The model `headnotes2` does not exist.", 4, "it serves headnotes"),
        (400, "max_tokens is too large: 512. This model supports at most 256 completion tokens", 2, "--max-new-tokens"),
        (401, "Incorrect API key provided", 4, "$OPENAI_API_KEY"),
        (404, "Not Found", 4, "ends in /v1"),
        (400, "This model's maximum context length is 256 tokens. You asked for 500.", 5, "a lower `max_length`"),
        (400, "Something that no row of this file has", 5, "refuses the request"),
    ],
)
def test_a_reason_that_all_rows_share_is_said_once_and_ends_the_run_early(
    status: int, words: str, code: int, told: str, server: str, command: Callable[..., list[str]]
) -> None:
    Server.rule = staticmethod(lambda _: (status, words))
    result = slds(*command(server, "--concurrency", 4))
    assert result.exit_code == code, result.stderr
    assert result.stderr.count(words) == 1
    assert told in result.stderr
    assert len(Server.seen) <= 8 + 4
    Server.rule = staticmethod(lambda _: None)
    assert slds_json(*command(server))["headnotes"] == 41, "the same command goes on"


def test_a_few_rows_that_are_too_long_do_not_end_the_run(server: str, command: Callable[..., list[str]]) -> None:
    long = "This model's maximum context length is 256 tokens."
    waiting = threading.Event()

    def rule(body: dict[str, Any]) -> tuple[int, str] | None:
        if "Urteil. " * 9 in body["messages"][-1]["content"]:
            return 400, long
        waiting.wait(0.05)  # a headnote takes longer than a refusal
        return None

    Server.rule = staticmethod(rule)
    result = slds(*command(server, "--concurrency", 1))
    assert result.exit_code == 5, result.stderr
    assert f"1 row failed: the prompt is longer than the server takes (400: {long})" in result.stderr
    assert "40" in result.stdout


def test_thinking_is_said_once_and_an_answer_without_a_headnote_is_tried_again(
    server: str, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    Server.text = f"<think>\nArt. 999 ZGB?\n</think>\n\n{TEXT}"
    result = slds(*command(server, "--limit", 9))
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("thinking") == 1
    assert all(line["citations"]["unsupported"] != ["Art. 999 ZGB"] for line in lines(tmp_path / "out.jsonl"))
    assert {line["headnote"] for line in lines(tmp_path / "out.jsonl")} == {TEXT}
    Server.text = "<think>\nArt. 999 ZGB"
    result = slds(*command(server, "--limit", 12))
    assert result.exit_code == 5
    assert result.stderr.count("3 rows failed: the server answered without text") == 1
    assert "--max-new-tokens" in result.stderr
    Server.text = TEXT
    report = slds_json(*command(server, "--limit", 12))
    assert (report["before"], report["headnotes"], report["failed"]) == (9, 12, 0)


@pytest.mark.parametrize("path", ["", "/", "/v1/chat/completions"])
def test_an_address_nearby_is_named(path: str, server: str, command: Callable[..., list[str]]) -> None:
    result = slds(*command(server.removesuffix("/v1") + path))
    assert result.exit_code == 2
    assert f"write {server}\n" in result.stderr


@pytest.mark.parametrize("variable", ["ALL_PROXY", "http_proxy"])
@pytest.mark.parametrize(
    ("proxy", "told"), [("socks5://u:geheim@127.0.0.1:9", "pip install socksio"), ("socks://x", "socks5://")]
)
def test_a_proxy_that_cannot_be_used_is_named_and_no_proxy_is_honoured(
    variable: str, proxy: str, told: str, server: str, command: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(__import__("sys").modules, "socksio", None)
    monkeypatch.setenv(variable, proxy)
    result = slds(*command(server, "--limit", 1))
    assert result.exit_code == 2, result.stderr
    assert f"${variable}" in result.stderr
    assert told in result.stderr
    assert "NO_PROXY=127.0.0.1" in result.stderr
    assert "geheim" not in result.stderr
    for no_proxy in ("127.0.0.1", "localhost, 127.0.0.0/8", "*"):
        monkeypatch.setenv("NO_PROXY", no_proxy)
        assert slds(*command(server, "--limit", 1)).exit_code == 0


def test_a_proxy_that_can_be_used_is_asked(
    server: str, command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Through) as proxy:
        Through.asked_for = []
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
        result = slds(*command("http://headnotes.example/v1", "--limit", 1))
    assert Through.asked_for[0] == "http://headnotes.example/v1/models"
    assert result.exit_code == 4
    monkeypatch.setenv("HTTP_PROXY", "127.0.0.1:9")
    assert "through the proxy of $HTTP_PROXY" in slds(*command(server)).stderr


class Through(Chat):
    """A proxy that lets nobody through."""

    asked_for: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.asked_for.append(self.path)
        self.answer(403, b"no")

    do_POST = do_GET
