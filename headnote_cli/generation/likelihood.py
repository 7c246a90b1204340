"""How much likelier a model finds the sentences of a headnote behind a consideration than behind none.

The gain is the logarithm of the Bayes factor, a token: what the consideration tells the model about the sentence
(pointwise mutual information). Each consideration is read once, with the whole headnote behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from headnote_cli.law.evidence import Span

MOST_TOKENS = 512  # of a consideration: its beginning
TOGETHER, LOGITS = 8, 2**27  # considerations in one batch at most, and numbers that their logits may be
BETWEEN = "\n\n"


@torch.inference_mode()
def gains(
    model: Any, tokenizer: PreTrainedTokenizerBase, passages: Sequence[str], headnote: str, sentences: Sequence[Span]
) -> list[list[float]]:
    """For each sentence and passage, the mean over the sentence's tokens of log p(token | passage, what stands before
    it in the headnote) - log p(token | what stands before it).

    Args:
        sentences: Their characters in the headnote.
    """
    written = tokenizer(headnote, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = written["input_ids"], written["offset_mapping"]
    own = [[place for place, (start, _) in enumerate(offsets) if first <= start < last] for first, last in sentences]
    between = tokenizer(BETWEEN, add_special_tokens=False)["input_ids"]
    begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    read = [tokenizer(passage, add_special_tokens=False)["input_ids"][:MOST_TOKENS] for passage in passages]
    rows = [[*begin, *passage, *between, *ids] for passage in ([], *read)]
    without, *behind = _log_probabilities(model, rows, len(ids))
    return [[float((row[places] - without[places]).mean()) if places else 0.0 for row in behind] for places in own]


def _log_probabilities(model: Any, rows: Sequence[Sequence[int]], last: int) -> list[torch.Tensor]:
    """Of the last tokens of each row, (last,); rows of like length together, as many as their logits leave room for."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    together = max(1, min(TOGETHER, LOGITS // (vocabulary * (last + 1))))
    found: dict[int, torch.Tensor] = {}
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    for first in range(0, len(order), together):
        some = order[first : first + together]
        longest = max(len(rows[place]) for place in some)
        padding = [longest - len(rows[place]) for place in some]
        ids = torch.tensor([[0] * pad + list(rows[place]) for pad, place in zip(padding, some, strict=True)])
        mask = (torch.arange(longest)[None] >= torch.tensor(padding)[:, None]).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        inputs = {name: value.to(model.device) for name, value in inputs.items()}
        logits = model(**inputs, use_cache=False, logits_to_keep=last + 1).logits[:, :-1]
        for row, place in enumerate(some):
            own = logits[row].float().log_softmax(-1)
            tokens = inputs["input_ids"][row, longest - last :, None]
            found[place] = own.gather(1, tokens).squeeze(1).cpu()
    return [found[place] for place in range(len(rows))]
