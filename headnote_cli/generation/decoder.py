"""Many prompts at a time: each read alone, all written together; rows join and leave as they come and finish.

Reading a prompt (prefill) is bound by arithmetic, so reading several in one batch gains nothing and padding costs;
writing is bound by memory, which is read once for all rows. The keys and values of all rows stand in one buffer and
end at the same column, so that a step writes one column and copies nothing.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation import (
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from headnote_cli.generation.cpu import tune
from headnote_cli.generation.grounding import Constraint
from headnote_cli.generation.loops import ends_in_a_loop
from headnote_cli.generation.sampling import Sampling
from headnote_cli.machine.memory import available_memory

SLACK = 512  # columns beyond the longest row, so that rows are seldom moved to the left
MOST_ROWS = {"cpu": 16, "cuda": 64}  # written together, if nothing else is said
SHARE_OF_FREE = 0.7  # of free memory for keys and values; the rest is for reading the next prompt
LOOKED_AT = 16  # tokens from one look for a loop to the next
REUSED_FROM = 0.5  # of a prompt: below, it is read whole, on a GPU without a mask
# The argument that takes a cache, of models and of `generate`: transformers 5.24 renamed it, and warns of the old name.
ARGUMENTS = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE = "cache" if "cache" in ARGUMENTS else "past_key_values"

Prefill = tuple[DynamicCache, torch.Tensor]  # a prompt's keys and values; logits of its last position, (vocabulary,)


@dataclasses.dataclass
class RowState:
    """A prompt and what is written for it. `name` is the caller's."""

    name: Any
    prompt: list[int]
    seed: int
    constraint: Constraint | None = None
    written: list[int] = dataclasses.field(default_factory=list)
    log_probabilities: list[float] = dataclasses.field(default_factory=list)  # of the tokens, as the model has them
    loops: bool = False  # what is written repeats itself

    @property
    def length(self) -> int:
        """Tokens whose keys and values are in the buffer: all but the last one written, which the next step reads."""
        return len(self.prompt) + len(self.written) - 1


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]
    """One layer's keys and values, (slots, heads, columns, head size); a view of them is what attention reads."""

    is_sliding = False  # the model's own masks keep a sliding window

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self.slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Buffers for `key_states` (batch, heads, tokens, head size) of this layer."""

        def buffer(like: torch.Tensor) -> torch.Tensor:
            count, columns, heads, size = self.slots.count, self.slots.columns, like.shape[1], like.shape[3]
            if like.device.type == "cpu":  # a step reads columns faster if they follow each other
                return like.new_zeros(count, heads, size, columns).transpose(2, 3)
            return like.new_zeros(count, heads, columns, size)

        self.keys, self.values = buffer(key_states), buffer(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the next column of each row in use."""
        assert self.keys is not None
        assert self.values is not None
        used, first, end = self.slots.used, self.slots.first, self.slots.end
        self.keys[:used, :, end] = key_states[:, :, 0]
        self.values[:used, :, end] = value_states[:, :, 0]
        return self.keys[:used, :, first : end + 1], self.values[:used, :, first : end + 1]

    def get_seq_length(self) -> int:
        return self.slots.end - self.slots.first

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self.slots.columns


class Slots:
    """The rows that are being written, and their buffers."""

    def __init__(self, count: int, columns: int, layers: int) -> None:
        self.count = count
        self.columns = columns
        self.rows: list[RowState] = []
        self.end = 0  # behind the last column that is full: the one that the next step writes
        self.cache = Cache(layers=[SlotLayer(self) for _ in range(layers)])

    @property
    def used(self) -> int:
        return len(self.rows)

    @property
    def first(self) -> int:
        """The first column that any row uses."""
        return self.end - max((row.length for row in self.rows), default=0)

    def join(self, row: RowState, prompt: DynamicCache) -> None:
        """Take a row whose prompt was read: its keys and values go to the columns before the next one."""
        length = len(row.prompt)
        if not self.rows:
            self.end = length
        elif self.end < length:
            self._move(length)
        for mine, theirs in zip(self.cache.layers, prompt.layers, strict=True):
            if not mine.is_initialized:
                mine.lazy_initialization(theirs.keys, theirs.values)
            for buffer, states in ((mine.keys, theirs.keys), (mine.values, theirs.values)):
                buffer[self.used, :, self.end - length : self.end] = states[0]
        self.rows.append(row)

    def leave(self, index: int) -> None:
        """Free a row's slot; the last row moves there."""
        last = self.used - 1
        if index != last:
            begin = self.end - self.rows[last].length
            for layer in self.cache.layers:
                for buffer in (layer.keys, layer.values):
                    buffer[index, :, begin : self.end] = buffer[last, :, begin : self.end]
        self.rows[index] = self.rows[last]
        self.rows.pop()

    def make_room(self) -> None:
        """Move all rows to the left if the next column is beyond the buffer."""
        if self.end == self.columns:
            self._move(self.end - self.first)

    def _move(self, end: int) -> None:
        """Let all rows end at another column."""
        first, length = self.first, self.end - self.first
        for layer in self.cache.layers:
            for buffer in (layer.keys, layer.values):
                buffer[: self.used, :, end - length : end] = buffer[: self.used, :, first : self.end].clone()
        self.end = end


class LastPrompt:
    """The prompt that was read last: its keys and values serve the next one as far as both begin alike."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.keep([], DynamicCache())

    def keep(self, prompt: list[int], cache: DynamicCache) -> None:
        self._prompt, self._cache = prompt, cache

    def begin(self, prompt: list[int]) -> DynamicCache:
        """What another prompt begins with, cut from this one, else nothing; this one is forgotten, as reading on
        changes it."""
        before, cache = self._prompt, self._cache
        self.forget()
        shared = shared_tokens(before, prompt)
        if not shared:
            return DynamicCache()
        cache.crop(shared - cache.get_seq_length())
        return cache


class Decoder:
    """Writes for many prompts with one model, of which `rows_can_join` holds."""

    def __init__(
        self,
        model: Any,
        stop_ids: list[int],
        slots: int | None = None,
        text_of: Callable[[list[int]], str] | None = None,
    ) -> None:
        """
        Args:
            text_of: Tokens as text, in which loops are looked for; None: they are not.
            slots: Rows that are written together, if their keys and values fit into free memory.
        """
        self.model = model
        self.stop_ids, self.text_of = frozenset(stop_ids), text_of
        if model.device.type == "cpu":
            tune(model)
        self.count = slots or MOST_ROWS.get(model.device.type, MOST_ROWS["cpu"])
        self._last = LastPrompt()

    @torch.inference_mode()
    def write(self, rows: Iterable[RowState], sampling: Sampling) -> Iterator[RowState]:
        """The rows with what was written for each, as they finish. Prompts of like length should follow each other."""
        chooser, rows = Chooser(sampling), list(rows)
        waiting = deque(rows)
        slots: Slots | None = None
        while waiting or (slots is not None and slots.used):
            while waiting and (slots is None or slots.used < slots.count):
                row = waiting.popleft()
                prompt, logits = self._read(row)
                slots = slots or self._slots(rows, prompt, sampling)
                row.written.append(chooser.choose(row, logits))
                if self._has_ended(row, chooser):
                    yield row
                else:
                    slots.join(row, prompt)
            if not waiting:
                self._last.forget()
            if slots is not None and slots.used:
                yield from self._write_a_token(slots, chooser)

    def _slots(self, rows: list[RowState], prompt: DynamicCache, sampling: Sampling) -> Slots:
        """As many as fit into free memory and are needed."""
        columns = max(len(row.prompt) for row in rows) + sampling.max_new_tokens + SLACK
        fitting = rows_that_fit(columns, prompt, free_memory(self.model.device))
        return Slots(min(len(rows), self.count, fitting), columns, len(prompt.layers))

    def _write_a_token(self, slots: Slots, chooser: Chooser) -> list[RowState]:
        """One step of all rows; those that it ends leave, and are returned."""
        slots.make_room()
        logits = self._step(slots)
        slots.end += 1
        for row, own in zip(slots.rows, logits, strict=True):
            row.written.append(chooser.choose(row, own))
        places = [place for place, row in enumerate(slots.rows) if self._has_ended(row, chooser)]
        ended = [slots.rows[place] for place in places]
        for place in reversed(places):
            slots.leave(place)
        return ended

    def _has_ended(self, row: RowState, chooser: Chooser) -> bool:
        if row.written[-1] in self.stop_ids or len(row.written) >= chooser.sampling.max_new_tokens:
            return True
        row.loops = self.text_of is not None and has_begun_to_loop(row.written, self.text_of)
        return row.loops

    def _read(self, row: RowState) -> Prefill:
        """The prefill of a prompt.

        One that goes on like the one before (the same decision, asked for in another language) is read from where they
        part.
        """
        cache = self._last.begin(row.prompt)
        ids = torch.tensor([row.prompt[cache.get_seq_length() :]], device=self.model.device)
        logits = self.model(input_ids=ids, **{CACHE: cache}, use_cache=True, logits_to_keep=1).logits
        self._last.keep(row.prompt, cache)
        return cache, logits[0, -1]

    def _step(self, slots: Slots) -> torch.Tensor:
        """The next token's logits for each row, (rows, vocabulary)."""
        device = self.model.device
        lengths = torch.tensor([row.length for row in slots.rows], device=device)
        width = slots.end - slots.first + 1
        mask = torch.arange(width, device=device)[None] >= (width - 1 - lengths)[:, None]
        logits: torch.Tensor = self.model(
            input_ids=torch.tensor([[row.written[-1]] for row in slots.rows], device=device),
            attention_mask=mask.long(),
            position_ids=lengths[:, None],
            use_cache=True,
            **{CACHE: slots.cache},
        ).logits
        return logits[:, -1]


def has_begun_to_loop(written: list[int], text_of: Callable[[list[int]], str]) -> bool:
    """Whether tokens end in a loop; looked at now and then."""
    return len(written) % LOOKED_AT == 0 and ends_in_a_loop(text_of(written))


def rows_can_join(model: Any) -> bool:
    """Whether rows of different length can be written together.

    Each layer must keep plain keys and values, not the state of a linear attention or a state space, and the rotation
    of positions must not follow the longest row (transformers' `dynamic` and `longrope`).
    """
    layers = DynamicCache(config=model.config).layers
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    rotations = [str(module.rope_type) for module in model.modules() if hasattr(module, "rope_type")]
    return plain and not any(name in rotation for rotation in rotations for name in ("dynamic", "longrope"))


def shared_tokens(before: list[int], prompt: list[int]) -> int:
    """Tokens of a prompt that need not be read after `before`; 0 if too few are the same to gain by it."""
    pairs = enumerate(zip(before, prompt, strict=False))
    same = next((index for index, (one, other) in pairs if one != other), min(len(before), len(prompt)))
    shared = min(same, len(prompt) - 1)
    return shared if shared >= REUSED_FROM * len(prompt) else 0


def rows_that_fit(columns: int, prompt: DynamicCache, free: int) -> int:
    """Rows of so many columns whose keys and values fit into `SHARE_OF_FREE` of `free` bytes, at least one.

    Args:
        prompt: A prompt's keys and values, each (1, heads, tokens, head size).
    """
    tensors = (tensor for layer in prompt.layers for tensor in (layer.keys, layer.values))
    column = sum(int(tensor.element_size() * tensor.shape[1] * tensor.shape[3]) for tensor in tensors)
    return max(1, int(SHARE_OF_FREE * free) // (column * columns))


def free_memory(device: torch.device) -> int:
    """Bytes that are free where the model is."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_memory()


class Chooser:
    """The next token by transformers' own rules; what is drawn depends on the row's seed alone."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generators: dict[int, torch.Generator] = {}
        self.processors = LogitsProcessorList()
        if sampling.repetition_penalty != 1.0:
            self.processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if sampling.temperature > 0:
            if sampling.temperature != 1.0:
                self.processors.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_k:
                self.processors.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1.0:
                self.processors.append(TopPLogitsWarper(sampling.top_p))

    def choose(self, row: RowState, logits: torch.Tensor) -> int:
        """A token for a row, from its logits (vocabulary,)."""
        scores = logits.float()[None]
        allowed = scores if row.constraint is None else row.constraint.allow(scores)
        token = self._draw(row, allowed)
        if row.constraint is not None:
            row.constraint.take(token)
        row.log_probabilities.append(float(scores[0, token] - scores.logsumexp(-1)))
        return token

    def _draw(self, row: RowState, scores: torch.Tensor) -> int:
        if self.processors:
            scores = self.processors(torch.tensor([row.prompt + row.written], device=scores.device), scores)
        if self.sampling.temperature == 0:
            return int(scores.argmax())
        if not row.written:
            self._generators[id(row)] = torch.Generator().manual_seed(row.seed)
        shares = torch.softmax(scores[0], dim=-1).cpu()
        return int(torch.multinomial(shares, 1, generator=self._generators[id(row)]))

    def of_row(self, row: RowState) -> LogitsProcessor:
        """The same choice inside transformers' `generate`, of one row: all other tokens become impossible."""
        return _Chosen(self, row)


class _Chosen(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, chooser: Chooser, row: RowState) -> None:
        self.chooser, self.row = chooser, row

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.row.written = input_ids[0, len(self.row.prompt) :].tolist()
        chosen = torch.full_like(scores, float("-inf"))
        chosen[0, self.chooser.choose(self.row, scores[0])] = 0.0
        return chosen
