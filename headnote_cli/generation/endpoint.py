"""Headnotes from an OpenAI-compatible server: vLLM, SGLang, TGI, llama.cpp, `transformers serve`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from headnote_cli.errors import DataError, SldsError
from headnote_cli.events import Listener, TextWritten
from headnote_cli.generation.chat import AT_A_TIME, Chat, ServerFailed
from headnote_cli.generation.loops import ends_in_a_loop
from headnote_cli.generation.sampling import Headnote, Prompt, Sampling


@dataclass(frozen=True)
class Server:
    """Where an OpenAI-compatible server answers, and its name of the model; None: the model's own."""

    address: str
    model: str | None = None

    def connect(self, model: str, emit: Listener, concurrency: int | None = None) -> Endpoint:
        """
        Raises:
            UsageError: The address or a proxy cannot be used, or the `openai` package is not installed.
            UnreachableError: Nobody answers there, or not to this key.
        """
        return Endpoint(Chat(self.address, self.model or model, emit), concurrency or AT_A_TIME)


class Beginning:
    """What a server answered first: where all of it is one failure, the rest need not be asked for.

    The first request of all must be among it: a headnote takes longer than a refusal.
    """

    def __init__(self) -> None:
        self._alike: list[SldsError] | None = []
        self._has_first = False

    def add(self, failure: SldsError | None, is_first: bool) -> None:
        self._has_first |= is_first
        if failure is None or self._alike is None or (self._alike and _kind(self._alike[0]) != _kind(failure)):
            self._alike = None
        else:
            self._alike.append(failure)

    def require_hope(self) -> None:
        """
        Raises:
            SldsError: The failure.
        """
        if self._alike is not None and self._has_first and len(self._alike) >= AT_A_TIME:
            failure = self._alike[0]
            hint = "; ".join([*([failure.hint] if failure.hint else []), "then the same command goes on"])
            message = f"the first {len(self._alike)} rows failed for one reason: {failure.message}"
            raise replace(failure, message=message, hint=hint)


def _kind(failure: SldsError) -> str:
    """A reason for a failure, whatever the numbers in it."""
    return re.sub(r"\d+", "#", failure.message)


class Endpoint:
    """A server that writes."""

    gains = None  # a server does not tell the likelihood of a text that it is given

    def __init__(self, chat: Chat, concurrency: int = AT_A_TIME) -> None:
        self.chat = chat
        self.concurrency = concurrency

    def write(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[tuple[Any, Headnote | Exception]]:
        """Ask for many at a time; they come as they are done, with the prompt's name.

        Raises:
            UsageError: The server refuses a parameter.
            UnreachableError: It refuses the key, the model or the address.
            SldsError: The first answers are all one failure.
        """
        beginning = Beginning()
        first: Future[Headnote] | None = None
        waiting: dict[Future[Headnote], Any] = {}
        stream = iter(prompts)
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                while True:
                    while len(waiting) < self.concurrency and (prompt := next(stream, None)) is not None:
                        beginning.require_hope()
                        asked = pool.submit(self._ask, prompt, sampling)
                        waiting[asked] = prompt.name
                        first = first or asked
                    if not waiting:
                        return
                    done = wait(waiting, return_when=FIRST_COMPLETED).done
                    for future in sorted(done, key=_ends_all):
                        failure = _of_one_row(future)
                        beginning.add(failure, future is first)
                        yield waiting.pop(future), failure or future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def write_one(self, prompt: Prompt, sampling: Sampling, emit: Listener) -> Headnote:
        """
        Raises:
            UsageError: The server refuses a parameter.
            UnreachableError: The server gave no answer.
            DataError: Its answer holds no text.
        """
        headnote = self._ask(prompt, sampling)
        emit(TextWritten(headnote.text))
        return headnote

    def _ask(self, prompt: Prompt, sampling: Sampling) -> Headnote:
        request: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
        if sampling.temperature > 0:  # else nothing is drawn
            request |= {"top_p": sampling.top_p, "seed": prompt.seed}
            request |= {"top_k": sampling.top_k} if sampling.top_k else {}
        if sampling.repetition_penalty != 1.0:
            request["repetition_penalty"] = sampling.repetition_penalty
        if prompt.grammar:  # by vLLM's name, and by llama.cpp's
            grammar = prompt.grammar()
            request |= {"structured_outputs": {"grammar": grammar}, "grammar": f"%llguidance {{}}\n{grammar}"}
        dispensable = ["seed", "structured_outputs", "grammar"]
        dispensable += ["top_p"] if sampling.top_p == 1.0 else []
        dispensable += ["temperature"] if sampling.temperature == 0 else []
        answer = self.chat.ask(prompt.messages, dispensable, **request)
        reason = "loop" if ends_in_a_loop(answer.text) else "length" if answer.is_cut_off else "stop"
        return Headnote(answer.text, reason, answer.tokens)


def _ends_all(future: Future[Headnote]) -> bool:
    """Whether a request failed for a reason that all others share."""
    return future.exception() is not None and _of_one_row(future) is None


def _of_one_row(future: Future[Headnote]) -> DataError | ServerFailed | None:
    """Why a request failed, if the next one may not."""
    failure = future.exception()
    return failure if isinstance(failure, DataError | ServerFailed) else None
