"""Rows → token ids: the same encoding for preview, training, generation and evaluation."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from headnote_cli.config.keys import Overflow
from headnote_cli.config.layers import Config
from headnote_cli.data.prompts import Conversation, Message, PromptTemplates, RowFields, canonical
from headnote_cli.data.shortening import CUT_MARK, Cut, Offsets, inserted_marks, shorten
from headnote_cli.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ENCODING_VERSION = 7  # raise it when the same row and settings would give other ids or counts
IGNORED = -100  # the loss skips this label
LONG = 2  # prose has at least this many characters per token
KEPT_TEXTS = 8
SEAM_TOKENS = 64  # more than a text's token count can change where it meets the template
PROBE = "\uf8ff"  # a character that chat templates do not contain
OTHER_TEMPLATE = "name another template with `chat_template_path`"
JOINED = "the chat template takes no system message: its text goes before the user message"
UNUSED = 0.01  # share of `max_length`: a cut that leaves more unused is retried
TRIES = 4  # times that it is retried at most


@dataclass(frozen=True)
class Encoded:
    """One row as the model sees it. The loss is taken only on `completion_ids`."""

    prompt_ids: list[int]
    completion_ids: list[int]
    prompt_text: str
    completion_text: str
    conversation: Conversation
    control_spans: tuple[tuple[int, int], ...] = ()  # in `text`: control tokens, but not text that looks like one
    cut: int = 0  # removed tokens, within one where the text meets the template
    cut_spans: tuple[tuple[int, int], ...] = ()  # in `prompt_text`: the marks for removed text

    @property
    def text(self) -> str:
        return self.prompt_text + self.completion_text

    @property
    def size(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt_ids) + len(self.completion_ids)

    def messages(self) -> list[dict[str, str]]:
        """The prompt for a server, which applies the model's own chat template."""
        return [dict(message) for message in self.conversation.prompt]

    def example(self) -> dict[str, list[int]]:
        """The row for the trainer: `input_ids` and `labels` of equal length; prompt labels are IGNORED."""
        labels = [IGNORED] * len(self.prompt_ids) + self.completion_ids
        return {"input_ids": self.prompt_ids + self.completion_ids, "labels": labels}


class Encoder:
    """`encode(row)` → prompt ids and completion ids, together at most `max_length`.

    Text in a row that looks like a control token (`<end_of_turn>`, `<|im_end|>` …) reaches the model as ordinary text:
    the message is split inside such a string, and the pieces are encoded separately.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        templates: PromptTemplates,
        max_length: int | None = None,
        overflow: Overflow = "structure",
        overflow_field: str = "decision",
    ) -> None:
        """
        Raises:
            ConfigError: The tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            hint = "name a model or a .jinja file that has one with `chat_template_path`"
            raise ConfigError("the tokenizer has no chat template", hint=hint)
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.templates = templates
        self.max_length = max_length
        self.overflow = overflow
        self.cut: Cut | None = None if overflow == "drop" or overflow == "error" else overflow
        self.overflow_field = overflow_field
        controls = _control_tokens(tokenizer)
        self.control_tokens = sorted(controls, key=len, reverse=True)
        self.control_ids = frozenset(controls.values())
        self._control = re.compile("|".join(map(re.escape, self.control_tokens)) or r"(?!)")
        # One decision often occurs in several rows, one per headnote language.
        self._offsets = lru_cache(KEPT_TEXTS)(self._token_offsets)
        self.joins_system = False  # while the template is tested
        takes_system = self._shows({"role": "system", "content": PROBE}, {"role": "user", "content": "?"})
        self.joins_system = not takes_system and self._shows({"role": "user", "content": PROBE})
        self.notes = (JOINED,) if self.joins_system and templates.has_system else ()

    def fingerprint(self) -> str:
        """SHA-256 of everything that determines a row's ids: templates, tokenizer, settings, encoding version."""
        parts = {
            "version": ENCODING_VERSION,
            "templates": self.templates.hashes(),
            "chat_template": str(self.tokenizer.chat_template),
            "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
            "settings": [self.max_length, self.overflow, self.overflow_field],
            "joins_system": self.joins_system,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def encode(self, row: RowFields) -> Encoded | None:
        """The training sequence of a row, or None if `overflow: drop` drops it.

        Raises:
            DataError: The row is too long and must not or cannot be cut.
        """
        encoded = self.encode_or_measure(row)
        return None if isinstance(encoded, int) else encoded

    def encode_prompt(self, row: RowFields, room: int = 0) -> Encoded | None:
        """The prompt alone, with `room` tokens left below `max_length` for the completion.

        If `room` is the completion's length, this is exactly the prompt of `encode`.
        """
        encoded = self.encode_or_measure(row, with_completion=False, room=room)
        return None if isinstance(encoded, int) else encoded

    def turn_end_id(self) -> int:
        """The token that ends the assistant's turn: the first control token after the answer, so it is in the loss.

        Raises:
            ConfigError: The chat template ends a turn without a control token, so generation would never stop.
        """
        answer = "Regeste"
        probe = Conversation([{"role": "user", "content": "?"}], [{"role": "assistant", "content": answer}])
        after = self._encoded(probe).completion_text.partition(answer)[2]
        ends = [token for token in self._ids(after, seam="\ue000") if token in self.control_ids]
        if not ends:
            fault = "the chat template does not close the assistant's turn with a control token"
            raise ConfigError(f"{fault}, so the model would never learn to stop", hint=OTHER_TEMPLATE)
        return ends[0]

    def encode_or_measure(self, row: RowFields, with_completion: bool = True, room: int = 0) -> Encoded | int:
        """Like `encode` or `encode_prompt`, but for a row that `overflow: drop` drops, its number of tokens."""
        row = {name: canonical(value) for name, value in row.items()}  # cut the same text that templates render
        limit = sys.maxsize if self.max_length is None else self.max_length - room
        if self.cut is None or not self._surely_longer(row, limit):
            whole = self._encode_row(row, with_completion)
            if whole.size <= limit:
                return whole
            if self.overflow == "drop":
                return whole.size
            if self.cut is None:
                hint = "raise `max_length`, or set `overflow: structure`"
                raise DataError(f"{whole.size} tokens are more than {limit}", _name(row), hint)
        return self._cut(row, with_completion, limit, self.cut)

    def _surely_longer(self, row: RowFields, limit: int) -> bool:
        """Whether the long field alone exceeds the limit, so that encoding the whole row can be skipped."""
        text = row.get(self.overflow_field)
        return isinstance(text, str) and len(text) > LONG * limit and len(self._offsets(text)) > limit + SEAM_TOKENS

    def _cut(self, row: RowFields, with_completion: bool, limit: int, cut: Cut) -> Encoded:
        """The row with its long field shortened until all fits."""
        text = row.get(self.overflow_field)
        if not isinstance(text, str):
            message = f"it is longer than {limit} tokens and has no text `{self.overflow_field}` to cut"
            hint = f"set `overflow_field` to the field that may be cut; the row has: {', '.join(map(str, row))}"
            raise DataError(message, _name(row), hint)
        offsets = self._offsets(text)
        rest = self._encode_row({**row, self.overflow_field: CUT_MARK}, with_completion)
        fixed = rest.size - len(self._offsets(CUT_MARK))
        size = fixed + len(offsets)
        budget, best, tries = limit - fixed, None, 0
        while budget > 0 and tries < TRIES:
            shorter = shorten(text, offsets, budget, cut)
            encoded = self._encode_row({**row, self.overflow_field: shorter}, with_completion)
            room = limit - encoded.size
            if room >= 0:
                spans = _mark_spans(encoded.prompt_text, text, shorter)
                candidate = replace(encoded, cut=max(1, size - encoded.size), cut_spans=spans)
                if room <= UNUSED * limit:
                    return candidate
                best = max(best or candidate, candidate, key=lambda fitting: fitting.size)
            tries += best is not None
            budget += room  # marks may take fewer tokens than reserved, or seams more
        if best is not None:
            return best
        message = f"without any `{self.overflow_field}` it is still longer than {limit} tokens"
        raise DataError(message, _name(row), "raise `max_length` or shorten the prompt templates")

    def _token_offsets(self, text: str) -> Offsets:
        """Start and end character of each token of a text."""
        offsets: Offsets = self.tokenizer.backend_tokenizer.encode_batch([text], add_special_tokens=False)[0].offsets
        return offsets

    def _encode_row(self, row: RowFields, with_completion: bool) -> Encoded:
        if with_completion:
            return self._encoded(self.templates.conversation(row))
        return self._encoded(Conversation(self.templates.prompt(row), []))

    def _encoded(self, conversation: Conversation) -> Encoded:
        turns = self._turns(conversation.prompt)
        everything = [*turns, *conversation.completion]
        seam = next(
            chr(code) for code in range(0xE000, 0xF8FF) if all(chr(code) not in m["content"] for m in everything)
        )
        prompt = self._rendered([self._broken(m, seam) for m in turns], add_generation_prompt=True)
        completion = ""
        if conversation.completion:
            whole = self._rendered([self._broken(m, seam) for m in everything], add_generation_prompt=False)
            if not whole.startswith(prompt):
                fault = "the chat template writes the prompt differently when an answer follows"
                raise ConfigError(f"{fault}, so generation would not see what training saw", hint=OTHER_TEMPLATE)
            completion = whole.removeprefix(prompt)
        return Encoded(
            prompt_ids=self._ids(prompt, seam),
            completion_ids=self._ids(completion, seam),
            prompt_text=prompt.replace(seam, ""),
            completion_text=completion.replace(seam, ""),
            conversation=conversation,
            control_spans=self._control_spans(prompt + completion, seam),
        )

    def _shows(self, *prompt: Message) -> bool:
        """Whether the chat template accepts these messages and writes the probe in them."""
        try:
            encoded = self._encoded(Conversation(list(prompt), [{"role": "assistant", "content": "!"}]))
        except ConfigError:
            return False
        return PROBE in encoded.prompt_text

    def _turns(self, prompt: list[Message]) -> list[Message]:
        """Messages for the chat template; if it has no system message, its text goes before the user message."""
        if not self.joins_system or prompt[0]["role"] != "system":
            return prompt
        system, user = prompt
        return [{**user, "content": f"{system['content']}\n\n{user['content']}"}]

    def _broken(self, message: Message, seam: str) -> Message:
        """The message with a seam inside every string that would become a control token."""
        content = message["content"]
        while match := self._control.search(content):
            content = f"{content[: match.start() + 1]}{seam}{content[match.start() + 1 :]}"
        return {**message, "content": content}

    def _control_spans(self, text: str, seam: str) -> tuple[tuple[int, int], ...]:
        """Spans of the control tokens after the seams are removed; broken ones no longer match."""
        spans, seams, position = [], 0, 0
        for match in self._control.finditer(text):
            seams += text.count(seam, position, match.start())
            position = match.start()
            spans.append((match.start() - seams, match.end() - seams))
        return tuple(spans)

    def _rendered(self, messages: list[Message], add_generation_prompt: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # templates may raise anything
            message = f"the chat template refuses the messages: {error}"
            raise ConfigError(message, hint="see `chat_template_path`") from error
        return str(text)

    def _ids(self, text: str, seam: str) -> list[int]:
        """Token ids. `encode_batch_fast` releases Python's lock, `encode` does not."""
        pieces = [piece for piece in text.split(seam) if piece]
        encodings = self.tokenizer.backend_tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
        return [token for encoding in encodings for token in encoding.ids]


def encoder_for(config: Config, templates: PromptTemplates, tokenizer: PreTrainedTokenizerFast) -> Encoder:
    """The encoder of a config, for training and preview; generation uses the model's record."""
    settings = config.settings
    return Encoder(tokenizer, templates, settings.max_length, settings.overflow, settings.overflow_field)


def _mark_spans(prompt: str, text: str, shorter: str) -> tuple[tuple[int, int], ...]:
    """Spans of the marks for removed text; of all marks if the template changed the text."""
    start = prompt.find(shorter)
    if start < 0:
        marks = [match.start() for match in re.finditer(re.escape(CUT_MARK), prompt)]
    else:
        marks = [start + mark for mark in inserted_marks(text, shorter)]
    return tuple((mark, mark + len(CUT_MARK)) for mark in marks)


def _name(row: RowFields) -> str:
    """A row's name in messages."""
    keys = ("sample_id", "decision_id", "id")
    return next((f"row with {key} {row[key]}" for key in keys if key in row), "a row")


def _control_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Special tokens, and other added tokens that the chat template contains, with their ids."""
    template = str(tokenizer.chat_template)
    return {
        token.content: index
        for index, token in tokenizer.added_tokens_decoder.items()
        if len(token.content) > 1 and (token.special or (token.content.strip() and token.content in template))
    }
