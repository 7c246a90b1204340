"""Prompts → headnotes with a local model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TextStreamer

from headnote_cli.events import Event, Listener, TextWritten
from headnote_cli.generation.cpu import tune
from headnote_cli.generation.decoder import CACHE, Decoder, LastPrompt, RowState, rows_can_join
from headnote_cli.generation.sampling import Headnote, Prompt, Sampling
from headnote_cli.machine.plan import Plan, Quantization
from headnote_cli.models.base import BaseModel
from headnote_cli.models.loading import four_bits, load_model, own_device, stop_ids, torch_dtype, with_adapter


class Writer:
    """A loaded model that writes headnotes."""

    def __init__(
        self,
        base: BaseModel,
        adapter: Path | None,
        tokenizer: PreTrainedTokenizerBase,
        plan: Plan,
        stop_id: int,
        quantization: Quantization | None = None,
    ) -> None:
        """
        Args:
            adapter: A checkpoint folder with an adapter to put on the base, None for a whole model.
            stop_id: The token that ends the assistant's turn; the generation config's own ends count too.
            quantization: The 4-bit form of the base that the adapter was trained on.
        """
        dtype, device = torch_dtype(plan.dtype), own_device(plan)
        how = four_bits(quantization, dtype) if quantization is not None else None
        model = load_model(base, dtype, device, plan.attention, how)
        self.model: Any = with_adapter(model, adapter) if adapter else model
        self.model.eval()
        if device.type == "cpu":
            tune(self.model)
        self._last = LastPrompt()
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids(self.model, stop_id)

    @torch.inference_mode()
    def write_one(self, prompt: Prompt, sampling: Sampling, emit: Listener) -> Headnote:
        """Continue a prompt until the turn ends or the limit is reached, telling each piece as it comes.

        Of a prompt that is `kept`, what it shares with the one before is not read again.
        """
        torch.manual_seed(prompt.seed)
        ids = torch.tensor([prompt.ids], device=self.model.device)
        plain = rows_can_join(self.model)
        cache = self._last.begin(prompt.ids) if prompt.kept and plain else None
        output = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            eos_token_id=self.stop_ids,
            pad_token_id=self.stop_ids[0],
            streamer=_Pieces(self.tokenizer, emit),
            **{CACHE: cache},
            **sampling.options(),
        )
        if cache is not None:
            self._last.keep(prompt.ids, cache)
        return self.headnote(output[0, len(prompt.ids) :].tolist())

    def headnote(self, written: list[int]) -> Headnote:
        """Tokens as text; one that the limit cut off says so."""
        finished = bool(written) and written[-1] in self.stop_ids
        text = str(self.tokenizer.decode(written, skip_special_tokens=True)).strip()
        return Headnote(text, "stop" if finished else "length", len(written))


class BatchWriter:
    """A writer of many headnotes: together, or one after the other with a model whose rows cannot be joined."""

    def __init__(self, writer: Writer, slots: int | None = None) -> None:
        self.writer = writer
        self.decoder = Decoder(writer.model, writer.stop_ids, slots) if rows_can_join(writer.model) else None

    def write(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[tuple[Any, Headnote | Exception]]:
        """The headnotes as they are done, each with its prompt's name."""
        if self.decoder is None:
            for prompt in prompts:
                yield prompt.name, self.writer.write_one(prompt, sampling, _nobody)
            return
        rows = (RowState(prompt.name, prompt.ids, prompt.seed) for prompt in prompts)
        for row in self.decoder.write(rows, sampling):
            yield row.name, self.writer.headnote(row.written)


def _nobody(event: Event) -> None:
    """Tell no one."""


class _Pieces(TextStreamer):  # type: ignore[misc]
    """Whole words as they come, as events instead of printed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, emit: Listener) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.emit = emit

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.emit(TextWritten(text))
