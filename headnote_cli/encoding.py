"""Rows → token ids: one encoding for preview, training, generation and evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from headnote_cli.data import language_pair
from headnote_cli.errors import ConfigError, DataError
from headnote_cli.prompts import Conversation, Message, PromptTemplates, Row

Overflow = Literal["middle", "end", "drop", "error"]
CUT_MARK = "[…]"
IGNORED = -100  # the label that the loss leaves out
# Words before a full stop that do not end a sentence, in the three languages.
ABBREVIATIONS = frozenset(
    "art abs al cpv lit let bst ziff ch n nr no e consid c cons bge atf dtf bzw vgl cf cfr z b d h u a p pp s ss ff f "
    "segg sog resp etc dr prof fr chf usw ca seg par para rz cit op a.a.o recte".split()
)


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer; this module imports none."""

    chat_template: Any
    added_tokens_decoder: Any

    def __call__(self, text: str, **options: Any) -> Any: ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...

    def decode(self, token_ids: Any, **options: Any) -> Any: ...


@dataclass(frozen=True)
class Encoded:
    """One row as the model sees it. The loss is taken on `completion_ids` alone."""

    prompt_ids: list[int]
    completion_ids: list[int]
    prompt_text: str
    completion_text: str
    conversation: Conversation
    cut: int = 0  # tokens that gave way

    @property
    def text(self) -> str:
        return self.prompt_text + self.completion_text

    def example(self) -> dict[str, list[int]]:
        """The row for the trainer: `input_ids` and `labels`, equally long, prompt labels ignored."""
        labels = [IGNORED] * len(self.prompt_ids) + self.completion_ids
        return {"input_ids": self.prompt_ids + self.completion_ids, "labels": labels}


@dataclass
class Lengths:
    """What reading rows did to them, counted."""

    prompt: list[int] = field(default_factory=list)
    completion: list[int] = field(default_factory=list)
    rows_cut: int = 0
    rows_dropped: int = 0
    tokens_cut: int = 0
    pairs: dict[str, int] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any], encoded: Encoded | None) -> None:
        """Count one row; None is a dropped one."""
        pair = language_pair(dict(row)) or "all"
        self.pairs[pair] = self.pairs.get(pair, 0) + 1
        if encoded is None:
            self.rows_dropped += 1
            return
        self.prompt.append(len(encoded.prompt_ids))
        self.completion.append(len(encoded.completion_ids))
        self.tokens_cut += encoded.cut
        self.rows_cut += encoded.cut > 0

    def summary(self) -> dict[str, Any]:
        """Counts and quantiles, ready for JSON."""
        return {
            "rows": sum(self.pairs.values()),
            "rows_cut": self.rows_cut,
            "rows_dropped": self.rows_dropped,
            "tokens_cut": self.tokens_cut,
            "prompt_tokens": quantiles(self.prompt),
            "completion_tokens": quantiles(self.completion),
            "pairs": dict(sorted(self.pairs.items())),
        }


def quantiles(values: Sequence[int]) -> dict[str, int] | None:
    """Median, 90th percentile and maximum (nearest rank), None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    at = {"median": 0.5, "p90": 0.9, "max": 1.0}
    return {name: ordered[max(0, -(-len(ordered) * int(share * 100) // 100) - 1)] for name, share in at.items()}


class Encoder:
    """`encode(row)` → prompt ids and completion ids, at most `max_length` of them together.

    Text of a row that reads like a control token (`<end_of_turn>`, `<|im_end|>` …) reaches the model as
    ordinary text: the message is broken inside such a string, and the pieces are encoded apart.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        templates: PromptTemplates,
        max_length: int | None = None,
        overflow: Overflow = "middle",
        overflow_field: str = "decision",
    ) -> None:
        """
        Raises:
            ConfigError: The tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            raise ConfigError(
                "the tokenizer has no chat template",
                hint="name a model or a .jinja file that has one with `chat_template_path`",
            )
        self.tokenizer = tokenizer
        self.templates = templates
        self.max_length = max_length
        self.overflow = overflow
        self.overflow_field = overflow_field
        controls = _control_tokens(tokenizer)
        self.control_ids = frozenset(controls.values())
        self._control = re.compile("|".join(map(re.escape, sorted(controls, key=len, reverse=True))) or r"(?!)")

    def encode(self, row: Row) -> Encoded | None:
        """The training sequence of a row, None if `overflow: drop` leaves it out.

        Raises:
            DataError: The row does not fit and must not or cannot be cut.
        """
        return self._fitted(row, with_completion=True, room=0)

    def encode_prompt(self, row: Row, room: int = 0) -> Encoded | None:
        """The prompt alone, with `room` tokens left below `max_length` for what the model will write.

        With `room` equal to the completion's length this is exactly the prompt of `encode`.
        """
        return self._fitted(row, with_completion=False, room=room)

    def turn_end_id(self) -> int:
        """The token that ends the assistant's turn: last control token of a completion, so it is in the loss.

        Raises:
            ConfigError: The chat template ends a turn with no control token, so nothing would stop generation.
        """
        probe = Conversation([{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}])
        ids = self._encoded(probe).completion_ids
        ends = [token for token in ids if token in self.control_ids]
        if not ends:
            raise ConfigError(
                "the chat template does not close the assistant's turn with a control token, so the model would never "
                "learn to stop",
                hint="name another template with `chat_template_path`",
            )
        return ends[0]

    def _fitted(self, row: Row, with_completion: bool, room: int) -> Encoded | None:
        whole = self._encode_row(row, with_completion)
        limit = None if self.max_length is None else self.max_length - room
        size = len(whole.prompt_ids) + len(whole.completion_ids)
        if limit is None or size <= limit:
            return whole
        if self.overflow == "drop":
            return None
        if self.overflow == "error":
            raise DataError(
                f"{size} tokens are more than {limit}", _name(row), "raise `max_length`, or set `overflow: middle`"
            )
        return self._cut(row, with_completion, limit, size)

    def _cut(self, row: Row, with_completion: bool, limit: int, size: int) -> Encoded:
        """The row with its long field shortened until everything fits."""
        text = row.get(self.overflow_field)
        if not isinstance(text, str):
            raise DataError(
                f"{size} tokens are more than {limit}, and it has no field `{self.overflow_field}` to cut", _name(row)
            )
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        budget = limit - (size - len(offsets))
        while budget > 0:
            shorter = shorten(text, offsets, budget, "end" if self.overflow == "end" else "middle")
            encoded = self._encode_row({**row, self.overflow_field: shorter}, with_completion)
            over = len(encoded.prompt_ids) + len(encoded.completion_ids) - limit
            if over <= 0:
                return Encoded(**(vars(encoded) | {"cut": size - limit - over}))
            budget -= over
        raise DataError(
            f"without any `{self.overflow_field}` it is still longer than {limit} tokens",
            _name(row),
            "raise `max_length` or shorten the prompt templates",
        )

    def _encode_row(self, row: Row, with_completion: bool) -> Encoded:
        if with_completion:
            return self._encoded(self.templates.conversation(row))
        return self._encoded(Conversation(self.templates.prompt(row), []))

    def _encoded(self, conversation: Conversation) -> Encoded:
        everything = [*conversation.prompt, *conversation.completion]
        seam = next(
            chr(code) for code in range(0xE000, 0xF8FF) if all(chr(code) not in m["content"] for m in everything)
        )
        prompt = self._rendered([self._broken(m, seam) for m in conversation.prompt], add_generation_prompt=True)
        completion = ""
        if conversation.completion:
            whole = self._rendered([self._broken(m, seam) for m in everything], add_generation_prompt=False)
            if not whole.startswith(prompt):
                raise ConfigError(
                    "the chat template writes the prompt differently when an answer follows, so generation would not "
                    "see what training saw",
                    hint="name another template with `chat_template_path`",
                )
            completion = whole.removeprefix(prompt)
        return Encoded(
            prompt_ids=self._ids(prompt, seam),
            completion_ids=self._ids(completion, seam),
            prompt_text=prompt.replace(seam, ""),
            completion_text=completion.replace(seam, ""),
            conversation=conversation,
        )

    def _broken(self, message: Message, seam: str) -> Message:
        """The message with a seam inside every string that would become a control token."""
        content = message["content"]
        while match := self._control.search(content):
            content = f"{content[: match.start() + 1]}{seam}{content[match.start() + 1 :]}"
        return {**message, "content": content}

    def _rendered(self, messages: list[Message], add_generation_prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # templates raise what they like
            raise ConfigError(
                f"the chat template refuses the messages: {error}", hint="see `chat_template_path`"
            ) from error
        return str(text)

    def _ids(self, text: str, seam: str) -> list[int]:
        pieces = (piece for piece in text.split(seam) if piece)
        return [token for piece in pieces for token in self.tokenizer(piece, add_special_tokens=False)["input_ids"]]


def _name(row: Row) -> str:
    """How to name a row in a message."""
    for key in ("sample_id", "decision_id", "id"):
        if key in row:
            return f"row with {key} {row[key]}"
    return "a row"


def _control_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Special tokens, and other added ones that the chat template itself writes, with their ids."""
    template = str(tokenizer.chat_template)
    return {
        token.content: index
        for index, token in tokenizer.added_tokens_decoder.items()
        if len(token.content) > 1 and (token.special or (token.content.strip() and token.content in template))
    }


def shorten(text: str, offsets: Sequence[tuple[int, int]], budget: int, keep: Literal["middle", "end"]) -> str:
    """`text` in about `budget` tokens, a visible mark where it was cut.

    Args:
        offsets: Start and end character of each token of `text`.
        budget: Tokens that may stay, the mark included.
        keep: `middle` cuts the middle out, `end` the end off.

    Cuts fall on sentence ends where one is near, on spaces otherwise, never inside a word.
    """
    mark_tokens = 4
    room = max(0, budget - mark_tokens)
    head = room if keep == "end" else (room + 1) // 2
    tail = room - head
    start = _cut_before(text, offsets[head][0] if head < len(offsets) else len(text))
    stop = _cut_after(text, offsets[len(offsets) - tail][0]) if tail else len(text)
    return " ".join(part for part in (text[:start].rstrip(), CUT_MARK, text[stop:].lstrip()) if part)


def _cut_before(text: str, limit: int) -> int:
    """The last good place to cut at or before `limit`."""
    nearest = max((end for end in sentence_ends(text, limit - limit // 4, limit)), default=None)
    if nearest is not None:
        return nearest
    while limit > 0 and limit < len(text) and not (text[limit].isspace() or text[limit - 1].isspace()):
        limit -= 1
    return limit


def _cut_after(text: str, limit: int) -> int:
    """The first good place to cut at or after `limit`."""
    nearest = min(sentence_ends(text, limit, limit + (len(text) - limit) // 4), default=None)
    if nearest is not None:
        return nearest
    while 0 < limit < len(text) and not (text[limit].isspace() or text[limit - 1].isspace()):
        limit += 1
    return limit


_SENTENCE_END = re.compile(r"([\w.)»\]]*)[.!?][»\")\]]*(?=\s)|(?=\n)")


def sentence_ends(text: str, start: int, stop: int) -> Iterator[int]:
    """Positions in `[start, stop]` just after a sentence or at a line's end; legal abbreviations end none."""
    for match in _SENTENCE_END.finditer(text, max(0, start), min(len(text), stop + 1)):
        word = (match[1] or "").lstrip("(«").lower()
        if match.end() <= stop and not (word in ABBREVIATIONS or word.isdigit() or (len(word) == 1 and word.isalpha())):
            yield match.end()


def encode_all(encoder: Encoder, rows: Iterable[Row], lengths: Lengths) -> Iterator[Encoded]:
    """Encode rows one by one, counting each; dropped ones are left out."""
    for row in rows:
        encoded = encoder.encode(row)
        lengths.add(row, encoded)
        if encoded is not None:
            yield encoded
