"""A chat with an OpenAI-compatible server: asked in the form that the server takes, and its answers read."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from headnote_cli.errors import DataError, SldsError, UnreachableError, UsageError, package
from headnote_cli.events import Listener, Note

KEY_VARIABLE = "OPENAI_API_KEY"
RETRIES = 6  # of the client, with growing pauses: 429, 5xx, time-outs, broken connections
TIMEOUT = 600.0  # seconds; a long decision on a busy server takes minutes
AT_A_TIME = 8  # requests in flight
LONGEST = 500  # characters of a server's words

Messages = Sequence[Mapping[str, str]]

# Parameters that the client does not know and most servers do.
BEYOND_OPENAI = ("top_k", "repetition_penalty", "structured_outputs", "grammar")
WITHOUT = {  # what it means that a parameter is left out
    "temperature": ", so it draws as it likes",
    "structured_outputs": ", so it may cite what the decision lacks; citations are checked afterwards",
    "grammar": ", so it may cite what the decision lacks; citations are checked afterwards",
}
OPTIONS = {  # what sets a parameter
    "max_tokens": "--max-new-tokens",
    "temperature": "--temperature",
    "top_p": "--top-p",
    "top_k": "--top-k",
    "repetition_penalty": "--repetition-penalty",
}
TOO_LONG = re.compile(
    r"context.?(length|window|size)|too (long|large)|longer than|exceeds? .*(tokens|context)|maximum .{0,30}tokens"
    r"|tokens.{0,40}must be <=?",
    re.I,
)
# More tokens are asked for than the server ever writes, however short the prompt is.
OUTPUT_LIMIT = re.compile(
    r"max[_ ]?((completion|new|output)[_ ]?)?tokens\b|maximum tokens (you|value)"
    r"|(at most|maximum|up to|limit)\b.{0,30}(completion|output|new|generated) tokens",
    re.I,
)
ABOVE = re.compile(
    r"too (large|big|high|long|many)|at most|up to|above|exceed|<|>|less than|lower than|smaller|greater than the"
    r"|maximum|\brange\b|between",
    re.I,
)
WITH_THE_PROMPT = re.compile(  # Groq says of `max_tokens` that it "is less than the `context_window`"
    r"(?<!less than the .)context|\binputs?\W{0,2} ?(tokens?|length)|\bprompt|\bmessages\b|\+",
    re.I,
)
OTHER_NAME = re.compile(r"use\W{0,4}max_completion_tokens", re.I)
NO_SYSTEM = re.compile(
    r"system.{0,30}(role|prompt|turn|instruction)|system messages? (is|are)|roles?\b.{0,60}(system|alternat)"
    r"|developer instruction|only user.{0,20}assistant|messages.{0,20}\brole\b",
    re.I,
)
REFUSED = re.compile(
    r"parameter|argument|field|unsupported|support|unrecogni[sz]ed|unknown|unexpected|extra|permitted|allowed|invalid"
    r"|available|(must|should) be|deprecated",
    re.I,
)
NO_SUCH_MODEL = re.compile(r"not.{0,10}(found|exist|available|served|loaded)|unknown|invalid|no such", re.I)

# What a model thinks before it answers, where the server leaves it in the text: the marks that begin and end it. Their
# name holds one of these words, with others before or after it: `seed:think`, `begin_of_thought`.
_NAME = (
    r"(?:[^\W_]+[:_])*(?:think|thinking|thoughts?|reasoning|analysis|reflect|reflection|scratchpad|monologue)"
    r"(?:[:_][^\W_]+)*"
)
THOUGHTS = (
    (rf"<{_NAME}>", rf"</{_NAME}>"),  # Qwen, DeepSeek and most others
    (rf"◁{_NAME}▷", rf"◁/{_NAME}▷"),  # Kimi
    (rf"<\|(?!end_){_NAME}(?<!_end)\|>", rf"<\|(?:/{_NAME}|end_{_NAME}|{_NAME}_end)\|>"),  # Cohere, OpenThinker
    (r"\[THINK\]", r"\[/THINK\]"),  # Mistral
    (r"<\|channel>thought", r"<channel\|>"),  # Gemma
    (r"<unused94>thought", r"<unused95>"),  # MedGemma
)
# What some models put around the answer that follows their thoughts.
ANSWER = re.compile(
    r"\A\s*(?:<(?P<tag>answer|output|response|solution)>(?P<inside>.*?)(?:</(?P=tag)>)?"
    r"|<\|(?:begin_of_solution|START_RESPONSE)\|>(?P<marked>.*?)(?:<\|(?:end_of_solution|END_RESPONSE)\|>)?)\s*\Z",
    re.S | re.I,
)
# gpt-oss: channels before the final one, with their marks or with what is left where the marks were taken out.
CHANNELS = re.compile(
    r"\A\s*(?=<\|start\|>|<\|channel\|>|analysis[A-Z]).*?"
    r"(<\|channel\|>final\s*<\|message\|>|assistantfinal|\Z)",
    re.S,
)
END_OF_CHANNEL = re.compile(r"<\|(return|end)\|>\s*\Z")

CUT_OFF = ("length", "max_tokens", "model_length")  # finish reasons: by OpenAI, by others
BROKEN_OFF = ("content_filter", "abort", "error")


class ServerFailed(UnreachableError):
    """A server that failed one request for good; the next one may be answered."""


@dataclass(frozen=True)
class Answer:
    """What a server wrote. `is_cut_off`: the token limit ended it."""

    text: str
    is_cut_off: bool
    tokens: int
    has_thoughts: bool = False  # which were removed


@dataclass(frozen=True)
class ChatRequest:
    """What is asked, with the client's own parameters and those beyond them; `max_tokens` is always one."""

    messages: Messages
    parameters: Mapping[str, Any]
    dispensable: Collection[str] = ()  # parameters that may be left out

    @property
    def has_system(self) -> bool:
        return any(message["role"] == "system" for message in self.messages)


@dataclass(frozen=True)
class RequestForm:
    """How a server takes requests, as far as its refusals have shown."""

    limit: str = "max_tokens"
    system: bool = True
    left_out: frozenset[str] = frozenset()

    def arguments(self, request: ChatRequest) -> dict[str, Any]:
        """The arguments of the client for a request."""
        sent = self.parameters(request)
        beyond = {name: sent.pop(name) for name in BEYOND_OPENAI if name in sent}
        messages = request.messages if self.system else _without_system(request.messages)
        return {**sent, "messages": messages, "extra_body": beyond or None}

    def parameters(self, request: ChatRequest) -> dict[str, Any]:
        """What is sent of a request's parameters, by the names that the server wants."""
        named = {self.limit if name == "max_tokens" else name: value for name, value in request.parameters.items()}
        return {name: value for name, value in named.items() if name not in self.left_out}


def _without_system(messages: Messages) -> list[Mapping[str, str]]:
    """The system's text before the user's, a blank line between."""
    system = [message["content"] for message in messages if message["role"] == "system"]
    first, *others = (message for message in messages if message["role"] != "system")
    return [{**first, "content": "\n\n".join([*system, first["content"]])}, *others]


@dataclass(frozen=True)
class Refusal:
    """A request that a server answered with an error, in the server's words."""

    status: int
    words: str
    named: str | None = None  # the parameter that the server says is at fault
    code: str | None = None

    @property
    def is_of_the_output_limit(self) -> bool:
        """Whether it is `max_tokens` alone that is too large, whatever the prompt."""
        words = f"{self.named or ''} {self.words}"
        names_a_limit = bool(OUTPUT_LIMIT.search(words) and ABOVE.search(self.words))
        return names_a_limit and not WITH_THE_PROMPT.search(self.words) and not OTHER_NAME.search(self.words)

    @property
    def is_too_long(self) -> bool:
        return self.status == 413 or bool(TOO_LONG.search(self.words))

    @property
    def is_of_the_system_role(self) -> bool:
        return self.status in (400, 422, 500) and bool(NO_SYSTEM.search(f"{self.named or ''} {self.words}"))

    def is_of_the_model(self, model: str) -> bool:
        if self.named not in (None, "model") or "model" not in self.words.lower():
            return False
        named = self.named or re.search(rf"(?<![\w/.-]){re.escape(model)}(?![\w/-])", self.words)
        return self.status == 404 or self.code == "model_not_found" or bool(named and NO_SUCH_MODEL.search(self.words))

    def parameter(self, sent: Collection[str]) -> str | None:
        """Which of the parameters that were sent is refused, None if it is none of them."""
        if self.named in sent:
            return self.named
        if not REFUSED.search(self.words):
            return None
        return next((name for name in sent if re.search(rf"\b{name}\b", self.words)), None)


class Chat:
    """A server that is asked, by several threads at a time.

    What it refuses and can be done without is left out from then on, with one note: a system turn becomes part of the
    user's, `max_tokens` is called `max_completion_tokens`, dispensable parameters are not sent.
    """

    def __init__(
        self,
        address: str,
        model: str,
        emit: Listener,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
    ) -> None:
        """
        Raises:
            UsageError: The address or a proxy cannot be used, or the `openai` package is not installed.
            UnreachableError: Nobody answers there, or not to this key.
        """
        self.address = address
        self.model = model
        self.emit = emit
        self.client = connect(address, timeout, retries)
        self.form = RequestForm()
        self._noted: set[str] = set()
        self._lock = Lock()

    def ask(self, messages: Messages, dispensable: Collection[str] = (), **parameters: Any) -> Answer:
        """What the server answers.

        Args:
            dispensable: Parameters that may be left out.

        Raises:
            DataError: It refuses this request, or its answer holds no text.
            UsageError: It refuses a parameter.
            UnreachableError: It refuses the key, the model or the address.
            ServerFailed: It failed again and again.
        """
        import openai

        request = ChatRequest(messages, parameters, dispensable)
        while True:
            form = self.form
            try:
                created = self.client.chat.completions.create(model=self.model, **form.arguments(request))
            except openai.APIStatusError as error:
                self._learn_from(form, self._refusal(error.status_code, error.body), request, error)
            except openai.OpenAIError as error:
                raise ServerFailed(f"the server failed: {_cause(error)}", self.address) from error
            except ValueError as error:
                raise DataError(f"the server's answer is not JSON: {error}") from error
            else:
                failure = _failure(created)
                if failure is not None:
                    self._learn_from(form, self._refusal(_status(failure), failure), request)
                    continue
                answer = read(created)
                if answer.has_thoughts:
                    self._note("the server leaves the model's thinking in its answers: it is removed")
                return answer

    def _learn_from(
        self, form: RequestForm, refusal: Refusal, request: ChatRequest, error: Exception | None = None
    ) -> None:
        """Find another form for a request that was refused in this one.

        Raises:
            SldsError: There is none.
        """
        if not self._adapt(form, refusal, request):
            raise self._as_error(form, refusal, request) from error

    def _refusal(self, status: int, said: Any) -> Refusal:
        body = said if isinstance(said, dict) else {}
        reason = next((body[name] for name in ("message", "detail", "error") if body.get(name)), said)
        words = reason if isinstance(reason, str) else json.dumps(reason, ensure_ascii=False, default=str)
        words = " ".join(words.replace(self.client.api_key, "…").split())[:LONGEST] if reason else "no reason given"
        named, code = (name if isinstance(name, str) else None for name in (body.get("param"), body.get("code")))
        return Refusal(status, words, named, code)

    def _adapt(self, form: RequestForm, refusal: Refusal, request: ChatRequest) -> bool:
        """Whether the request may be accepted in another form, which this and the next ones then have."""
        with self._lock:
            if self.form != form:  # another thread got the same refusal
                return True
            other = self._other_form(form, refusal, request)
            if other is not None:
                self.form, note = other
                self.emit(Note(note))
        return other is not None

    def _other_form(self, form: RequestForm, refusal: Refusal, request: ChatRequest) -> tuple[RequestForm, str] | None:
        """How to ask instead, and what to say about it."""
        if refusal.status in (401, 403) or refusal.is_of_the_output_limit or refusal.is_too_long:
            return None
        if refusal.is_of_the_model(self.model):
            return None
        if form.system and request.has_system and refusal.is_of_the_system_role:
            return replace(form, system=False), "the server takes no system turn: its text goes before the user's"
        parameter = refusal.parameter(form.parameters(request))
        if parameter == "max_tokens":
            note = "the server refuses `max_tokens`: `max_completion_tokens` is sent instead"
            return replace(form, limit="max_completion_tokens"), note
        if parameter is not None and parameter in request.dispensable:
            note = f"the server refuses `{parameter}`: it is left out"
            note += WITHOUT.get(parameter, "")
            return replace(form, left_out=form.left_out | {parameter}), note
        return None

    def _as_error(self, form: RequestForm, refusal: Refusal, request: ChatRequest) -> SldsError:
        """A refusal as an error: of this request alone (DataError), for now (ServerFailed), or of all there will be."""
        answer = f"({refusal.status}: {refusal.words})"
        if refusal.status in (401, 403):
            return UnreachableError(f"the server refuses the key {answer}", self.address, f"set ${KEY_VARIABLE}")
        if refusal.status in (408, 409, 429) or refusal.status >= 500:
            return ServerFailed(f"the server failed {answer}", self.address)
        if refusal.is_of_the_output_limit:
            hint = f"lower {OPTIONS['max_tokens']}"
            return UsageError(f"`{form.limit}` is more than the server ever writes {answer}", self.address, hint)
        if refusal.is_too_long:
            hint = "give the server a longer context, cut decisions with a lower `max_length`, or write fewer tokens"
            return DataError(f"the prompt is longer than the server takes {answer}", hint=hint)
        if refusal.is_of_the_model(self.model):
            names = models_of(self.client)
            hint = f"it serves {', '.join(names)}: name one of these" if names else "name a model that it serves"
            return UnreachableError(f"the server does not serve the model {self.model} {answer}", self.address, hint)
        if refusal.status == 404:
            hint = "name the address of its API, which mostly ends in /v1"
            return UnreachableError(f"no chat is served at this address {answer}", self.address, hint)
        parameter = refusal.parameter(form.parameters(request))
        if parameter is not None:
            option = OPTIONS.get(parameter.replace("max_completion_tokens", "max_tokens"))
            hint = f"set {option} to what it takes, or leave it out" if option else ""
            return UsageError(f"the server refuses `{parameter}` {answer}", self.address, hint or None)
        return DataError(f"the server refuses the request {answer}")

    def _note(self, text: str) -> None:
        """Say it once."""
        with self._lock:
            if text not in self._noted:
                self._noted.add(text)
                self.emit(Note(text))


def read(answer: Any) -> Answer:
    """The first choice of an answer, which may be any JSON.

    Raises:
        DataError: It holds no text, or not all of it.
    """
    try:
        choice = answer.choices[0]
        message, reason = choice.message, getattr(choice, "finish_reason", None)
        written = _joined(message.content)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise DataError("the server's answer is not a chat completion") from None
    if reason in BROKEN_OFF:
        raise DataError(f"the server ended the answer early (finish_reason {reason})")
    text = without_thoughts(written)
    has_thoughts = text != written
    if not text.strip():
        refused = getattr(message, "refusal", None)
        if isinstance(refused, str) and refused.strip():
            raise DataError(f"the model refuses: {refused.strip()[:LONGEST]}")
        thought = any(getattr(message, name, None) for name in ("reasoning_content", "reasoning"))
        raise _without_text(thought or has_thoughts)
    tokens = getattr(getattr(answer, "usage", None), "completion_tokens", 0)
    return Answer(text.strip(), reason in CUT_OFF, tokens if isinstance(tokens, int) else 0, has_thoughts)


def _without_text(has_thoughts: bool) -> DataError:
    if not has_thoughts:
        return DataError("the server answered without text")
    hint = "raise --max-new-tokens, or turn thinking off on the server"
    return DataError("the server answered without text, with the model's thinking alone", hint=hint)


def _joined(content: Any) -> str:
    """An answer's text, which may come in parts; half a surrogate pair, which is not text, is replaced."""
    if isinstance(content, list):
        parts = (
            part if isinstance(part, str) else part.get("text") for part in content if isinstance(part, str | dict)
        )
        content = "".join(part for part in parts if isinstance(part, str))
    return content.encode(errors="replace").decode() if isinstance(content, str) else ""


def without_thoughts(text: str) -> str:
    """An answer without what the model thought before it, or where it was cut off while thinking, without all that.

    The beginning of a thought may lack its mark: some chat templates put it into the prompt.
    """
    written = text
    for begin, end in THOUGHTS:
        for pattern in (rf"{begin}.*?{end}", rf"\A.*{end}", rf"{begin}.*\Z"):
            text = re.sub(pattern, "", text, flags=re.S | re.I)
    answer = ANSWER.match(text) if text != written else None
    text = (answer["inside"] or answer["marked"] or "") if answer else text
    without = CHANNELS.sub("", text)
    return END_OF_CHANNEL.sub("", without) if without != text else text


def _failure(created: Any) -> Any:
    """What a server says went wrong in an answer that it calls a good one; None where it says nothing."""
    said = getattr(created, "model_extra", None) or {}
    if getattr(created, "choices", None):
        return None
    if said.get("error"):
        return said["error"]
    return said if said.get("detail") or said.get("message") else None


def _status(failure: Any) -> int:
    """The status that an answer should have had, where its error names it."""
    code = failure.get("code") if isinstance(failure, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 200


def connect(address: str, timeout: float = TIMEOUT, retries: int = RETRIES) -> Any:
    """A client of a server that answers. The API key comes from the environment alone.

    Raises:
        UsageError: The address, the key or a proxy cannot be used, or the `openai` package is not installed.
        UnreachableError: Nobody answers there, or not to this key.
    """
    with package("openai", "serve", "asking a server"):
        import openai
    url = _url(address)
    key = os.environ.get(KEY_VARIABLE, "").strip() or "none"  # servers of one's own want none
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"${KEY_VARIABLE} holds characters that no key has")
    variable, proxy = _proxy(url)
    client = openai.OpenAI(
        base_url=address, api_key=key, timeout=timeout, max_retries=retries, http_client=_http(url, variable, proxy)
    )
    try:
        names = models_of(client)
    except openai.AuthenticationError as error:
        raise UnreachableError("the server refuses the key", address, f"set ${KEY_VARIABLE}") from error
    except openai.OpenAIError as error:
        hint = f"it is asked through the proxy of ${variable}; {_past(url)}" if proxy else _remedy(error)
        raise UnreachableError(f"the server cannot be reached: {_cause(error)}", address, hint) from error
    if names is None:
        _require_no_better(client, address)
    return client


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what led to it, the first cause last."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    return chain


def _cause(error: BaseException) -> str:
    """Why there was no answer, in words: the client's own error says "Connection error."."""
    import openai

    chain = _chain(error)
    for cause in chain:
        if isinstance(cause, socket.gaierror):
            return "its name cannot be resolved"
        if isinstance(cause, ConnectionRefusedError):
            return "the connection is refused"
        if isinstance(cause, ssl.SSLError):
            return f"there is no secure connection ({cause.reason or cause})"
        if isinstance(cause, TimeoutError | openai.APITimeoutError):
            return "it does not answer in time"
    first = chain[-1]
    return (first.strerror if isinstance(first, OSError) else None) or str(first) or str(error)


def _remedy(error: BaseException) -> str:
    chain = _chain(error)
    if any(isinstance(cause, socket.gaierror) for cause in chain):
        return "check the name in the address"
    if any(isinstance(cause, ssl.SSLError) for cause in chain):
        return "write http:// if the server has no certificate"
    return "is it running?"


def models_of(client: Any) -> list[str] | None:
    """The names of the models that a server lists; None where it lists none.

    Raises:
        openai.AuthenticationError: It refuses the key.
        openai.OpenAIError: It does not answer.
    """
    import openai

    try:
        return [str(model.id) for model in client.with_options(max_retries=1).models.list().data]
    except openai.AuthenticationError:
        raise
    except (openai.APIStatusError, ValueError, AttributeError, TypeError):  # it answers, and need not list its models
        return None


def _require_no_better(client: Any, address: str) -> None:
    """
    Raises:
        UsageError: The server's API is at an address nearby: one without `/v1`, or with a part of the API, was named.
    """
    import openai

    base = re.sub(r"(/chat)?/completions$|/models$", "", address.rstrip("/"))
    for nearby in (base, f"{base}/v1"):
        try:
            if nearby != address.rstrip("/") and models_of(client.with_options(base_url=nearby)) is not None:
                raise UsageError("the server's API is not at this address", address, f"write {nearby}")
        except openai.OpenAIError:
            continue


def _url(address: str) -> SplitResult:
    """
    Raises:
        UsageError: It is not a server address.
    """
    try:
        url = urlsplit(address)
        is_one = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and address.isprintable()
    except ValueError:
        is_one = False
    if not is_one:
        raise UsageError("is not a server address", address, "write one such as http://localhost:8000/v1")
    return url


def _http(url: SplitResult, variable: str, proxy: str | None) -> Any:
    """A client that knows the one proxy of this server: the client's own stumbles over any of the environment's, even
    over one that NO_PROXY keeps this server from.

    Raises:
        UsageError: The proxy cannot be used.
    """
    import httpx2
    import openai

    try:
        transport = httpx2.HTTPTransport(proxy=proxy, limits=openai.DEFAULT_CONNECTION_LIMITS)
    except ImportError as error:
        hint = f"`pip install socksio`; or {_past(url)}"
        raise UsageError(f"${variable} names a SOCKS proxy, which takes the `socksio` package", hint=hint) from error
    except (ValueError, httpx2.InvalidURL) as error:
        hint = f"begin it with http://, https:// or socks5://; or {_past(url)}"
        raise UsageError(f"${variable} names a proxy that cannot be used", hint=hint) from error
    return openai.DefaultHttpxClient(transport=transport)


def _past(url: SplitResult) -> str:
    return f"`export NO_PROXY={url.hostname}` asks the server directly"


def _proxy(url: SplitResult) -> tuple[str, str | None]:
    """The variable with the proxy through which a server is asked, and the proxy; None where it is asked directly."""
    proxies = getproxies()
    name = url.scheme if proxies.get(url.scheme) else "all"
    proxy = proxies.get(name)
    variable = next((key for key in (f"{name.upper()}_PROXY", f"{name}_proxy") if os.environ.get(key)), f"{name}_proxy")
    if not proxy or _is_direct(url, proxies.get("no", "")):
        return variable, None
    return variable, proxy if "://" in proxy else f"http://{proxy}"


def _is_direct(url: SplitResult, no_proxy: str) -> bool:
    """Whether NO_PROXY names a server: its name, its domain or, as curl reads it, its network."""
    hosts = (str(url.hostname), url.netloc.rpartition("@")[2].lower())
    for entry in no_proxy.lower().split(","):
        name = entry.strip().removeprefix("*").removeprefix(".").removesuffix("/")
        if entry.strip() == "*" or any(host == name or host.endswith(f".{name}") for host in hosts if name):
            return True
    return any(_is_within(str(url.hostname), entry.strip()) for entry in no_proxy.split(","))


def _is_within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False
