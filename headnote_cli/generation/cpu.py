"""A model's layers on the CPU, computed in faster forms; what they compute stays.

Each alone, left out of four decisions with 100 tokens written for each (SmolLM2-135M in float32, two cores with
AVX-512, `benchmarks/generate.py --without each --decisions 4 --written 100`; 34.6 s with all of them):

| | without it |
|---|--:|
| `products`: linear layers by oneDNN; MKL leaves half of an AMD processor's AVX-512 idle | 1.82 x |
| `attention`: two such products for some tokens at a time; no mask is made, no key repeated | 1.29 x |
| `rows`: many written together (`decoder`) | 1.12 x |

Tried and removed, as they brought less than a tenth: prompts read in pieces (1.01 x), two prompts read side by side
(1.00 x), the C library keeping freed memory (1.02 x).
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from headnote_cli.upstream import attention_of, linear_by_onednn

BLOCK = 128  # tokens of a prompt whose attention is computed together
# PyTorch has both on x86 alone; elsewhere its own products stay.
ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
ATTEND = "slds_attend"  # its name among transformers' attention functions


def tune(model: Any) -> None:
    """Give the layers of a model on the CPU their faster forms, for good; a second time changes nothing."""
    for module in model.modules():
        if type(module) is torch.nn.Linear and "forward" not in vars(module):
            module.forward = functools.partial(_linear, module)
    if attention_of(model) == "sdpa":
        model.set_attn_implementation(ATTEND)


def product(states: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """States (…, width) times weights (outputs, width), transposed, as a linear layer's: (…, outputs)."""
    follow = weights.is_contiguous() or weights.T.is_contiguous()  # of others oneDNN takes a thousand times as long
    if follow and _by_onednn(states, weights):
        result: torch.Tensor = linear_by_onednn(states, weights, bias)
        return result
    return torch.nn.functional.linear(states, weights, bias)


def _by_onednn(*factors: torch.Tensor) -> bool:
    return ONEDNN and not torch.is_grad_enabled() and all(factor.dtype == torch.float32 for factor in factors)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA as products.

    Args:
        query: (rows, heads, tokens, head size).
        key, value: (rows, key heads, columns, head size); for one token read fastest if columns follow each other.
        attention_mask: What is looked at, (rows, 1, tokens, columns); None if each token looks at all columns up to its
            own, the last token's being the last. Masks per head or of numbers are SDPA's.

    Returns:
        (rows, tokens, heads, head size of the values), and no weights.
    """
    tokens, before = query.shape[2], key.shape[2] - query.shape[2]
    plain = attention_mask is None or (attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1)
    plain = plain and all(options.get(name) is None for name in ("position_bias", "softcap"))
    causal = attention_mask is not None or getattr(module, "is_causal", True)
    if plain and tokens == 1:
        return _one_token(query, key, value, attention_mask, scaling), None
    if plain and causal and _by_onednn(query, key, value):
        return _in_blocks(query, key, value, attention_mask, scaling), None
    if attention_mask is None and causal and before:
        attention_mask = query.new_ones(1, 1, tokens, key.shape[2], dtype=torch.bool).tril(before)
    several: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **options
    )
    return several


def _one_token(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """A step's attention as two products, in which the queries of a key head stand together."""
    rows, heads, _, size = query.shape
    if mask is not None:
        seen = _seen_by_any(mask.flatten(0, -2))  # a sliding window hides the others
        key, value, mask = key[:, :, seen], value[:, :, seen], mask[..., seen]
    grouped = query.reshape(rows, key.shape[1], -1, size) * (size**-0.5 if scaling is None else scaling)
    scores = grouped @ key.transpose(2, 3)
    if mask is not None:
        hidden = ~mask
        some = hidden.flatten(0, -2).any(0).nonzero()  # columns that some row does not see
        end = int(some[-1]) + 1 if len(some) else 0
        scores[..., :end].masked_fill_(hidden[..., :end], torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ value).reshape(rows, 1, heads, value.shape[-1])


def _in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """Attention of several tokens, some at a time: their scores stay in the processor's cache."""
    rows, _, tokens, size = query.shape
    before = key.shape[2] - tokens
    query = (query * (size**-0.5 if scaling is None else scaling)).unflatten(1, (key.shape[1], -1))
    outputs = query.new_empty(*query.shape[:-1], value.shape[-1])  # (rows, key heads, heads of each, tokens, size)
    for begin, row in itertools.product(range(0, tokens, BLOCK), range(rows)):
        end = min(begin + BLOCK, tokens)
        if mask is None:
            seen = slice(before + end)
            hidden = query.new_ones(end - begin, end - begin, dtype=torch.bool).triu(1)
        else:
            known = mask[row % len(mask), 0, begin:end]
            seen = _seen_by_any(known)
            hidden = ~known[:, seen]
        for head in range(key.shape[1]):
            outputs[row, head, :, begin:end] = _block(
                query[row, head, :, begin:end], key[row, head, seen], value[row, head, seen], hidden
            )
    return outputs.flatten(1, 2).transpose(1, 2)


def _seen_by_any(known: torch.Tensor) -> slice:
    """From the first to the last column that any token sees, of (tokens, columns); one if they see none."""
    columns = known.any(0).nonzero()
    return slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(1)


def _block(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Scaled queries (heads, tokens, size) of a key head, its (columns, size), and what is hidden of the last ones."""
    scores = product(query.flatten(0, 1), key.contiguous()).unflatten(0, query.shape[:2])
    # Not minus infinity: a token of padding, to which all is hidden, would become a NaN.
    scores[..., len(key) - hidden.shape[1] :].masked_fill_(hidden, torch.finfo(scores.dtype).min)
    return product(torch.softmax(scores, -1, out=scores), value.contiguous().T)


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    *,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **options: Any,
) -> torch.Tensor | None:
    """transformers' mask for SDPA, or None where `attend` needs none: also after other tokens."""
    last = q_offset + q_length == kv_offset + kv_length
    near = local_size is None or kv_length < local_size
    if allow_is_causal_skip and last and near and (attention_mask is None or bool(attention_mask.all())):
        return None
    mask: torch.Tensor | None = sdpa_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset,
        attention_mask=attention_mask, local_size=local_size, allow_is_causal_skip=False, **options,
    )  # fmt: skip
    return mask


AttentionInterface.register(ATTEND, attend)
AttentionMaskInterface.register(ATTEND, _mask)


def _linear(layer: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
    return product(states, layer.weight, layer.bias)
