"""A model's layers on the CPU, computed in faster forms; what they compute stays.

Measured with SmolLM2-135M in float32 on two cores (`benchmarks/generate.py` shows what they come to together):

* A step's attention is two products (`attend_once`). Writing twelve rows of 5,500 tokens, SDPA's kernel read their keys
  and values at 5.8 GB/s, the products read them at 12; the memory gives 17.
* A long prompt passes the MLPs in tiles, whose products stay in the cache: a seventh less time for 5,500 tokens.
* Of few tokens the weights are the left factor: a step of 16 rows took 0.10 s in all linear layers, not 0.18.
* Freed memory is kept: the C library gave large blocks back to the system and got them zeroed again, 75 pages for each
  token that was read, a twentieth of the time.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Callable
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from headnote_cli.engine.loading import quantized_layers

TILE = 1024  # tokens of a prompt that pass an MLP together
FEW_TOKENS = 64  # up to which the weights stand left
GATED = ("gate_proj", "up_proj", "down_proj")  # what a gated MLP has
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's mallopt(3)
KEPT = 2**30  # bytes up to which a block stays in the heap, and those that stay when all are free
KEPT_AT_MOST = 2**25  # what an older glibc allows
ATTEND_ONCE = "attend_once"  # its name among transformers' attention functions


def tune(model: Any) -> None:
    """Give the layers of a model on the CPU their faster forms, for good; a second time changes nothing.

    Quantized layers and MLPs of them stay as they are: each tile would be dequantized anew. The process keeps the
    memory that it frees.
    """
    _keep_memory()
    for module in model.modules():
        if "forward" in vars(module):
            continue
        if all(hasattr(module, name) for name in GATED) and not quantized_layers(module):
            module.forward = functools.partial(_in_tiles, module.forward)
        elif type(module) is torch.nn.Linear:
            module.forward = functools.partial(_weights_left, module)
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(ATTEND_ONCE)


def _keep_memory() -> None:
    """Let the C library keep what is freed, where it is glibc."""
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    if not library.mallopt(M_MMAP_THRESHOLD, KEPT):
        library.mallopt(M_MMAP_THRESHOLD, KEPT_AT_MOST)
    library.mallopt(M_TRIM_THRESHOLD, KEPT)
    library.mallopt(M_ARENA_MAX, 1)


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
        query: (rows, heads, tokens, head size); more than one token is SDPA's, and so are masks per head or of numbers.
        key, value: (rows, key heads, columns, head size); read fastest if the columns follow each other in memory.
        attention_mask: None or what is looked at, (rows, 1, tokens, columns).

    Returns:
        (rows, tokens, heads, head size of the values), and no weights.
    """
    rows, heads, tokens, size = query.shape
    plain = attention_mask is None or (attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1)
    if tokens != 1 or not plain or any(options.get(name) is not None for name in ("position_bias", "softcap")):
        several: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return several
    grouped = query.reshape(rows, key.shape[1], -1, size) * (size**-0.5 if scaling is None else scaling)
    scores = grouped @ key.transpose(2, 3)
    if attention_mask is not None:
        hidden = ~attention_mask
        some = hidden.flatten(0, -2).any(0).nonzero()  # columns that some row does not see
        end = int(some[-1]) + 1 if len(some) else 0
        scores[..., :end].masked_fill_(hidden[..., :end], -torch.inf)
    return (scores.softmax(-1) @ value).reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(ATTEND_ONCE, attend_once)
AttentionMaskInterface.register(ATTEND_ONCE, sdpa_mask)


def _in_tiles(mlp: Callable[..., Any], states: torch.Tensor, *others: Any, **options: Any) -> Any:
    """A gated MLP, which looks at each token alone, on (…, tokens, width); as in ALST (arXiv 2506.13996), there to
    save memory. One that takes more than that is left alone."""
    if states.shape[-2] <= TILE or others or options:
        return mlp(states, *others, **options)
    return torch.cat([mlp(tile) for tile in states.split(TILE, dim=-2)], dim=-2)


def _weights_left(layer: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
    """A linear layer on (…, tokens, width), as (W·xᵀ)ᵀ if the tokens are few."""
    tokens = states.reshape(-1, states.shape[-1])
    if len(tokens) > FEW_TOKENS:
        return torch.nn.functional.linear(states, layer.weight, layer.bias)
    product = (layer.weight @ tokens.T).T.contiguous().view(*states.shape[:-1], len(layer.weight))
    return product if layer.bias is None else product + layer.bias
