"""Prompts → headnotes with a local model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteriaList, TextStreamer

from headnote_cli.events import Listener, TextWritten, ignore
from headnote_cli.generation.cpu import tune
from headnote_cli.generation.decoder import (
    CACHE,
    Chooser,
    Decoder,
    LastPrompt,
    RowState,
    has_begun_to_loop,
    rows_can_join,
)
from headnote_cli.generation.doubt import doubt_of
from headnote_cli.generation.grounding import Grounding
from headnote_cli.generation.likelihood import gains
from headnote_cli.generation.loops import ends_in_a_loop
from headnote_cli.generation.sampling import Headnote, Prompt, Sampling
from headnote_cli.law.evidence import Span
from headnote_cli.machine.plan import Plan, Quantization
from headnote_cli.models.base import BaseModel
from headnote_cli.models.loading import four_bits, load_model, own_device, torch_dtype, with_adapter


def load_to_write(base: BaseModel, adapter: Path | None, plan: Plan, quantization: Quantization | None) -> Any:
    """The model as this machine can run it.

    Args:
        adapter: A checkpoint folder with an adapter to put on the base, None for a whole model.
        quantization: The 4-bit form of the base that the adapter was trained on.
    """
    dtype, device = torch_dtype(plan.dtype), own_device(plan)
    how = four_bits(quantization, dtype) if quantization is not None else None
    model = load_model(base, dtype, device, plan.attention, how)
    model = with_adapter(model, adapter) if adapter else model
    return model.eval()


class Writer:
    """A loaded model that writes headnotes: one, or many together if the rows of its cache can be joined."""

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, stop_ids: list[int], slots: int | None = None
    ) -> None:
        """
        Args:
            stop_ids: The tokens that end a headnote.
            slots: Headnotes that are written together; None: as many as the machine does well.
        """
        self.model, self.tokenizer, self.stop_ids = model, tokenizer, stop_ids
        if model.device.type == "cpu":
            tune(model)
        self.decoder = Decoder(model, stop_ids, slots, self._text) if rows_can_join(model) else None
        self._last = LastPrompt()

    def write(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[tuple[Any, Headnote | Exception]]:
        """The headnotes as they are done, each with its prompt's name."""
        if self.decoder is None:
            for prompt in prompts:
                yield prompt.name, self.write_one(prompt, sampling, ignore)
            return
        for row in self.decoder.write((self._row(prompt) for prompt in prompts), sampling):
            yield row.name, self._headnote(row)

    def _row(self, prompt: Prompt) -> RowState:
        constraint = self._grounding.constraint(prompt.grammar) if prompt.grammar else None
        return RowState(prompt.name, prompt.ids, prompt.seed, constraint)

    @cached_property
    def _grounding(self) -> Grounding:
        return Grounding(self.tokenizer, self.stop_ids, self.model.get_output_embeddings().weight.shape[0])

    @torch.inference_mode()
    def write_one(self, prompt: Prompt, sampling: Sampling, emit: Listener) -> Headnote:
        """Continue a prompt until the turn ends or the limit is reached, reporting each piece as it comes.

        Of a prompt that is `kept`, what it shares with the one before is not read again.
        """
        ids = torch.tensor([prompt.ids], device=self.model.device)
        cache = self._last.begin(prompt.ids) if prompt.kept and self.decoder is not None else None
        chooser, row = Chooser(sampling), self._row(prompt)
        output = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=self.stop_ids,
            pad_token_id=self.stop_ids[0],
            streamer=_Pieces(self.tokenizer, emit),
            logits_processor=LogitsProcessorList([chooser.of_row(row)]),
            stopping_criteria=StoppingCriteriaList([self._loops(row)]),
            **{CACHE: cache},
            **NOTHING_ELSE,
        )
        if cache is not None:
            self._last.keep(prompt.ids, cache)
        row.written = output[0, len(prompt.ids) :].tolist()
        return self._headnote(row)

    def gains(self, passages: Sequence[str], headnote: str, sentences: Sequence[Span]) -> list[list[float]]:
        """How much likelier each sentence of a headnote is behind each passage."""
        found: list[list[float]] = gains(self.model, self.tokenizer, passages, headnote, sentences)
        return found

    def _text(self, written: list[int]) -> str:
        return str(self.tokenizer.decode(written, skip_special_tokens=True))

    def _loops(self, row: RowState) -> Callable[..., torch.Tensor]:
        """What ends a headnote that repeats itself."""

        def loops(input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            row.loops = has_begun_to_loop(input_ids[0, len(row.prompt) :].tolist(), self._text)
            return torch.tensor([row.loops], device=input_ids.device)

        return loops

    def _headnote(self, row: RowState) -> Headnote:
        """Tokens as text; one that is not finished says why, and has no citation that was begun."""
        written = row.written
        finished = bool(written) and written[-1] in self.stop_ids
        if row.constraint is not None:
            written = written if finished else written[: row.constraint.complete]
            row.constraint.release()
        text = self._text(written).strip()
        reason = "stop" if finished else "loop" if row.loops or ends_in_a_loop(text) else "length"
        doubt = doubt_of(written, row.log_probabilities[: len(written)], text, self._text)
        return Headnote(text, reason, len(written), doubt)


# All are given, so that a model's own generation config decides nothing: the chooser does.
NOTHING_ELSE: dict[str, Any] = {
    "do_sample": False, "temperature": None, "top_p": None, "top_k": None, "repetition_penalty": 1.0,
}  # fmt: skip


class _Pieces(TextStreamer):  # type: ignore[misc]
    """Whole words as they come, as events instead of printed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, emit: Listener) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.emit = emit

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.emit(TextWritten(text))
