"""A model's layers on the CPU, computed in faster forms; what they compute stays.

Measured with SmolLM2-135M in float32 on two cores (`benchmarks/generate.py` shows what they come to together):

* A prompt is read in pieces (`piece_of`), whose states stay in the cache between one operation and the next. What a
  piece sees of those before it needs no mask: attention to them and within it are joined by their sums (`attend`).
* A step's attention is two products. Writing twelve rows of 5,500 tokens, SDPA's kernel read their keys and values at
  5.8 GB/s, the products read them at 12; the memory gives 17.
* Of few tokens the weights are the left factor: a step of 16 rows took 0.10 s in all linear layers, not 0.18.
* Freed memory is kept: the C library gave large blocks back to the system and got them zeroed again, 75 pages for each
  token that was read, a twentieth of the time.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from headnote_cli.engine.loading import quantized_layers

PIECE = 1536  # tokens of a prompt that are read together
BLOCK = 256  # of them whose attention is computed together
FEW_TOKENS = 64  # up to which the weights stand left
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's mallopt(3)
KEPT = 2**30  # bytes up to which a block stays in the heap, and those that stay when all are free
KEPT_AT_MOST = 2**25  # what an older glibc allows
ATTEND = "slds_attend"  # its name among transformers' attention functions


def tune(model: Any) -> None:
    """Give the layers of a model on the CPU their faster forms, for good; a second time changes nothing.

    The process keeps the memory that it frees.
    """
    _keep_memory()
    for module in model.modules():
        if type(module) is torch.nn.Linear and "forward" not in vars(module):
            module.forward = functools.partial(_weights_left, module)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTEND)


def piece_of(model: Any) -> int | None:
    """Tokens of a prompt that a model reads at a time; None for all.

    So it is without our attention, and for a quantized model, whose layers would be dequantized for each piece anew.
    """
    return PIECE if model.config._attn_implementation == ATTEND and not quantized_layers(model) else None


def _keep_memory() -> None:
    """Let the C library keep what is freed, where it is glibc."""
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    if not library.mallopt(M_MMAP_THRESHOLD, KEPT):
        library.mallopt(M_MMAP_THRESHOLD, KEPT_AT_MOST)
    library.mallopt(M_TRIM_THRESHOLD, KEPT)
    library.mallopt(M_ARENA_MAX, 1)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA; faster for one token, for tokens that go on after others, and where a mask hides all first columns.

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
    if attention_mask is None and tokens > 1 and before and getattr(module, "is_causal", True):
        if plain and _suit_the_kernel(query, key, value):
            return _in_blocks(query, key, value, scaling), None
        attention_mask = query.new_ones(1, 1, tokens, key.shape[2], dtype=torch.bool).tril(before)
    elif attention_mask is not None and plain:
        first = int(attention_mask.any(dim=(0, 1, 2)).int().argmax())  # a sliding window's
        key, value, attention_mask = key[:, :, first:], value[:, :, first:], attention_mask[..., first:]
    if tokens == 1 and plain:
        return _one_token(query, key, value, attention_mask, scaling), None
    several: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **options
    )
    return several


def _one_token(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """A step's attention as two products, in which the queries of a key head stand together."""
    rows, heads, _, size = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, size) * (size**-0.5 if scaling is None else scaling)
    scores = grouped @ key.transpose(2, 3)
    if mask is not None:
        hidden = ~mask
        some = hidden.flatten(0, -2).any(0).nonzero()  # columns that some row does not see
        end = int(some[-1]) + 1 if len(some) else 0
        scores[..., :end].masked_fill_(hidden[..., :end], -torch.inf)
    return (scores.softmax(-1) @ value).reshape(rows, 1, heads, value.shape[-1])


def _suit_the_kernel(*states: torch.Tensor) -> bool:
    """Whether heads are of one size and lie in memory as the kernel takes for granted."""
    return len({one.shape[-1] for one in states}) == 1 and all(one.stride(-1) == 1 for one in states)


def _in_blocks(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """Attention of tokens that go on after others, some at a time: the kernel is slow where half is hidden."""
    done, end = [], key.shape[2] - query.shape[2]
    for block in query.split(BLOCK, dim=2):
        end += block.shape[2]
        done.append(_going_on(block, key[:, :, :end], value[:, :, :end], scaling))
    return torch.cat(done, dim=1)


def _going_on(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """Attention of tokens to those before them and among themselves, each by PyTorch's kernel, which returns the
    logarithms of the softmaxes' sums: the two outputs have these as weights (Dao et al., FlashAttention, 3.1)."""
    rows, heads, tokens, size = query.shape
    before, groups = key.shape[2] - tokens, heads // key.shape[1]
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    among, sums = flash(
        query,
        *(states[:, :, before:].repeat_interleave(groups, 1) for states in (key, value)),
        0.0,
        True,
        scale=scaling,
    )
    # The heads that share a key head are tokens to it, so that no key is repeated.
    grouped = query.reshape(rows, -1, groups * tokens, size)
    back, sums_back = flash(grouped, key[:, :, :before], value[:, :, :before], 0.0, False, scale=scaling)
    share = torch.sigmoid(sums_back.reshape(sums.shape) - sums)[..., None].to(among.dtype)
    return torch.lerp(among, back.reshape(among.shape), share).transpose(1, 2)


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


def _weights_left(layer: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
    """A linear layer on (…, tokens, width), as (W·xᵀ)ᵀ if the tokens are few."""
    tokens = states.reshape(-1, states.shape[-1])
    if len(tokens) > FEW_TOKENS:
        return torch.nn.functional.linear(states, layer.weight, layer.bias)
    product = (layer.weight @ tokens.T).T.contiguous().view(*states.shape[:-1], len(layer.weight))
    return product if layer.bias is None else product + layer.bias
