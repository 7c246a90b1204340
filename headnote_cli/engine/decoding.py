"""Many prompts at a time: each read alone, all written together; rows join and leave as they come and finish.

Reading a prompt is bound by arithmetic, so reading several together gains nothing and padding costs; writing is bound
by memory, which is read once for all rows. The keys and values of all rows stand in one buffer and end at the same
column, so that a step writes one column and copies nothing.

On the CPU a step's attention is two products (`attend_once`): of twelve rows of 5,500 tokens SDPA's kernel read
5.8 GB/s where they read 12, of 17 that the memory gives. A long prompt passes the MLPs in tiles, whose products stay
in the cache: a seventh less time for 5,500 tokens.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.generation import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from headnote_cli.hardware import available_memory
from headnote_cli.sampling import Sampling

SLACK = 512  # columns beyond the longest row, so that rows are seldom moved to the left
MOST_ROWS = {"cpu": 16, "cuda": 64}  # written together, if nothing else is said
SHARE_OF_FREE = 0.7  # of free memory for keys and values; the rest is for reading the next prompt
REUSED_FROM = 0.5  # of a prompt: below, the mask over old and new tokens costs more than reading them again
TILE = 1024  # tokens of a prompt that pass an MLP together, on the CPU
ATTEND_ONCE = "attend_once"  # its name among transformers' attention functions


@dataclasses.dataclass
class Row:
    """A prompt in the making. `name` is the caller's."""

    name: Any
    prompt: list[int]
    seed: int
    written: list[int] = dataclasses.field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens whose keys and values are in the buffer."""
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
            if like.device.type == "cpu":  # `attend_once` reads columns faster if they follow each other
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
        self.rows: list[Row] = []
        self.end = 0  # the column that the next step writes
        self.cache = Cache(layers=[SlotLayer(self) for _ in range(layers)])

    @property
    def used(self) -> int:
        return len(self.rows)

    @property
    def first(self) -> int:
        """The first column that any row uses."""
        return self.end - max((row.length for row in self.rows), default=0)

    def join(self, row: Row, read: DynamicCache) -> None:
        """Take a row whose prompt was read: its keys and values go to the columns before the next one."""
        length = len(row.prompt)
        self.end = max(self.end, length) if self.rows else length
        for mine, theirs in zip(self.cache.layers, read.layers, strict=True):
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
        if self.end < self.columns or not self.rows:
            return
        first, length = self.first, self.end - self.first
        for layer in self.cache.layers:
            for buffer in (layer.keys, layer.values):
                buffer[: self.used, :, :length] = buffer[: self.used, :, first : self.end].clone()
        self.end = length


class Decoder:
    """Writes for many prompts with one model."""

    def __init__(self, model: Any, stop_ids: list[int], slots: int | None = None) -> None:
        """
        Args:
            slots: Rows that are written together, if their keys and values fit into free memory.
        """
        self.model = model
        self.stop_ids = frozenset(stop_ids)
        self.count = slots or MOST_ROWS.get(model.device.type, MOST_ROWS["cpu"])
        if model.device.type == "cpu":
            tile_mlps(model)
            if model.config._attn_implementation == "sdpa":
                model.set_attn_implementation(ATTEND_ONCE)
        self._last: tuple[list[int], DynamicCache] = ([], DynamicCache())

    @torch.inference_mode()
    def write(self, rows: Iterable[Row], sampling: Sampling) -> Iterator[Row]:
        """The rows with what was written for each, as they finish. The longest prompt must come first."""
        chooser = Chooser(sampling)
        waiting = iter(rows)
        slots: Slots | None = None
        while True:
            while (slots is None or slots.used < self.count) and (row := next(waiting, None)) is not None:
                read, logits = self._read(row)
                if slots is None:
                    columns = len(row.prompt) + sampling.max_new_tokens + SLACK
                    self.count = min(self.count, fitting(columns, read, free_memory(self.model.device)))
                    slots = Slots(self.count, columns, len(read.layers))
                row.written.append(chooser.choose(row, logits))
                if self._finished(row, sampling):
                    yield row
                else:
                    slots.join(row, read)
            if slots is None or not slots.used:
                return
            slots.make_room()
            logits = self._step(slots)
            slots.end += 1
            for row, own in zip(slots.rows, logits, strict=True):
                row.written.append(chooser.choose(row, own))
            for index in range(slots.used - 1, -1, -1):
                row = slots.rows[index]
                if self._finished(row, sampling):
                    slots.leave(index)
                    yield row

    def _finished(self, row: Row, sampling: Sampling) -> bool:
        return row.written[-1] in self.stop_ids or len(row.written) >= sampling.max_new_tokens

    def _read(self, row: Row) -> tuple[DynamicCache, torch.Tensor]:
        """The keys and values of a prompt, and the logits of its last position (vocabulary,).

        A prompt that mostly begins like the one before (the same decision, asked for in another language) is read from
        where they part.
        """
        before, cache = self._last
        shared = min(common_prefix(before, row.prompt), len(row.prompt) - 1)
        if shared < REUSED_FROM * len(row.prompt):
            shared, cache = 0, DynamicCache()
        elif shared < len(before):
            cache.crop(shared - len(before))
        ids = torch.tensor([row.prompt[shared:]], device=self.model.device)
        logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        self._last = (row.prompt, cache)
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
            past_key_values=slots.cache,
            use_cache=True,
        ).logits
        return logits[:, -1]


def attend_once(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA, with a step's attention as two products in which the queries of a key head stand together.

    Args:
        query: (rows, heads, tokens, head size); more than one token is SDPA's.
        key, value: (rows, key heads, columns, head size).
        attention_mask: None or what is looked at, (rows, 1, tokens, columns).

    Returns:
        (rows, tokens, heads, head size), and no weights.
    """
    rows, heads, tokens, size = query.shape
    if tokens != 1:
        several: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return several
    grouped = query.reshape(rows, key.shape[1], -1, size) * (size**-0.5 if scaling is None else scaling)
    scores = grouped @ key.transpose(2, 3)
    if attention_mask is not None:
        scores = scores.masked_fill_(~attention_mask, -torch.inf)
    return (scores.softmax(-1) @ value).reshape(rows, 1, heads, size), None


AttentionInterface.register(ATTEND_ONCE, attend_once)
AttentionMaskInterface.register(ATTEND_ONCE, sdpa_mask)


def tile_mlps(model: torch.nn.Module) -> None:
    """Let the gated MLPs of a model, which look at each token alone, take `TILE` tokens at a time (as in ALST,
    arXiv 2506.13996, there to save memory)."""
    for module in model.modules():
        if hasattr(module, "gate_proj") and "forward" not in vars(module):
            module.forward = functools.partial(_in_tiles, module.forward)


def _in_tiles(mlp: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    """An MLP on (…, tokens, width)."""
    if states.shape[-2] <= TILE:
        return mlp(states)
    return torch.cat([mlp(tile) for tile in states.split(TILE, dim=-2)], dim=-2)


def common_prefix(one: list[int], other: list[int]) -> int:
    """How many tokens two prompts begin with together."""
    return next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def fitting(columns: int, read: DynamicCache, free: int) -> int:
    """Rows of so many columns whose keys and values fit into `SHARE_OF_FREE` of `free` bytes, at least one.

    Args:
        read: A prompt's keys and values, each (1, heads, tokens, head size).
    """
    states = (states for layer in read.layers for states in (layer.keys, layer.values))
    column = sum(int(one.element_size() * one.shape[1] * one.shape[3]) for one in states)
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

    def choose(self, row: Row, logits: torch.Tensor) -> int:
        """A token for a row, from its logits (vocabulary,)."""
        scores = logits.float()[None]
        if self.processors:
            scores = self.processors(torch.tensor([row.prompt + row.written], device=scores.device), scores)
        if self.sampling.temperature == 0:
            return int(scores.argmax())
        if not row.written:
            self._generators[id(row)] = torch.Generator().manual_seed(row.seed)
        shares = torch.softmax(scores[0], dim=-1).cpu()
        return int(torch.multinomial(shares, 1, generator=self._generators[id(row)]))
