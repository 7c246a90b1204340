"""Headnotes from an OpenAI-compatible server: vLLM, SGLang, TGI, llama.cpp, `transformers serve`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from headnote_cli.errors import DataError, UnreachableError, package
from headnote_cli.events import Listener, TextWritten
from headnote_cli.sampling import Headnote, Prompt, Sampling

KEY_VARIABLE = "OPENAI_API_KEY"
RETRIES = 6  # of the client, with growing pauses: 429, 5xx, time-outs, broken connections
TIMEOUT = 600.0  # seconds; a long decision on a busy server takes minutes
AT_A_TIME = 8  # requests in flight


@dataclass(frozen=True)
class Server:
    """Where an OpenAI-compatible server answers, and its name of the model; None: the model's own."""

    address: str
    model: str | None = None

    def connect(self, model: str, concurrency: int | None = None) -> Endpoint:
        return Endpoint(self.address, self.model or model, concurrency or AT_A_TIME)


def connect(address: str, timeout: float = TIMEOUT, retries: int = RETRIES) -> Any:
    """A client of a server that answers. The API key comes from the environment alone.

    Raises:
        UsageError: The `openai` package is not installed.
        UnreachableError: Nobody answers there, or not to this key.
    """
    with package("openai", "serve", "asking a server"):
        import openai
    key = os.environ.get(KEY_VARIABLE) or "none"  # servers of one's own want none
    client = openai.OpenAI(base_url=address, api_key=key, timeout=timeout, max_retries=retries)
    try:
        client.with_options(max_retries=1).models.list()
    except openai.AuthenticationError as error:
        raise UnreachableError("the server refuses the key", address, f"set ${KEY_VARIABLE}") from error
    except openai.APIStatusError:
        pass  # it answers, and need not list its models
    except openai.OpenAIError as error:
        raise UnreachableError(f"the server cannot be reached: {error}", address, "is it running?") from error
    return client


class Endpoint:
    """A server that writes."""

    def __init__(
        self, address: str, model: str, concurrency: int, timeout: float = TIMEOUT, retries: int = RETRIES
    ) -> None:
        """
        Raises:
            UsageError: The `openai` package is not installed.
            UnreachableError: Nobody answers there, or not to this key.
        """
        self.model = model
        self.concurrency = concurrency
        self.client = connect(address, timeout, retries)

    def write(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[tuple[Any, Headnote | Exception]]:
        """Ask for many at a time; they come as they are done, with the prompt's name."""
        waiting: dict[Future[Headnote], Any] = {}
        stream = iter(prompts)
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                while True:
                    while len(waiting) < self.concurrency and (prompt := next(stream, None)) is not None:
                        waiting[pool.submit(self._ask, prompt, sampling)] = prompt.name
                    if not waiting:
                        return
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        failure = future.exception()
                        yield waiting.pop(future), failure if isinstance(failure, Exception) else future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def write_one(self, prompt: Prompt, sampling: Sampling, emit: Listener) -> Headnote:
        """
        Raises:
            UnreachableError: The server gave no answer.
            DataError: Its answer holds no text.
        """
        import openai

        try:
            headnote = self._ask(prompt, sampling)
        except openai.OpenAIError as error:
            raise UnreachableError(f"the server failed: {error}", str(self.client.base_url)) from error
        emit(TextWritten(headnote.text))
        return headnote

    def _ask(self, prompt: Prompt, sampling: Sampling) -> Headnote:
        more: dict[str, Any] = {}
        if sampling.top_k:
            more["top_k"] = sampling.top_k
        if sampling.repetition_penalty != 1.0:
            more["repetition_penalty"] = sampling.repetition_penalty
        return _headnote(
            complete(
                self.client,
                model=self.model,
                messages=prompt.messages,
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=prompt.seed,
                extra_body=more or None,
            )
        )


def complete(client: Any, **request: Any) -> Any:
    """A server's answer to a chat request; its first choice may be anything.

    Raises:
        DataError: It is no JSON.
        openai.OpenAIError: The server failed.
    """
    try:
        return client.chat.completions.create(**request)
    except ValueError as error:
        raise DataError(f"the server's answer is no JSON: {error}") from error


def text_of(answer: Any) -> str | None:
    """What the first choice of an answer says, None if it says nothing that is text."""
    try:
        content = answer.choices[0].message.content
    except (AttributeError, IndexError, KeyError, TypeError):  # the client takes any JSON for an answer
        return None
    return content if isinstance(content, str) else None


def _headnote(answer: Any) -> Headnote:
    """
    Raises:
        DataError: It holds no text.
    """
    text = text_of(answer)
    if text is None:
        raise DataError("the server's answer holds no text")
    tokens = getattr(getattr(answer, "usage", None), "completion_tokens", 0)
    finished = getattr(answer.choices[0], "finish_reason", None) != "length"
    return Headnote(text.strip(), "stop" if finished else "length", tokens if isinstance(tokens, int) else 0)
