"""FlashAttention's two functions in plain PyTorch, so that a CPU takes transformers' whole path around them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers import modeling_flash_attention_utils as library


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: tuple[int, int]
) -> torch.Tensor:
    """Causal attention of one sequence, aligned at its end, as flash-attn's README defines it: a query at `i` of
    `queries` sees the keys from `i + keys - queries - window[0]` to `i + keys - queries`.

    Args:
        query: (queries, heads, head size)
        key, value: (keys, groups, head size), each group for as many heads.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query.float(), key.float()) * scale
    at = torch.arange(len(query))[:, None] + len(key) - len(query)
    other = torch.arange(len(key))[None]
    seen = other <= at
    if window[0] >= 0:
        seen &= other >= at - window[0]
    shares = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", shares, value.float()).to(query.dtype)


@dataclasses.dataclass
class Flash:
    """How often each function was called."""

    whole: int = 0
    varlen: int = 0

    def flash_attn_func(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float = 1.0,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> torch.Tensor:
        assert causal
        assert dropout_p == 0
        self.whole += 1
        return torch.stack([attention(*row, softmax_scale, window_size) for row in zip(q, k, v, strict=True)])

    def flash_attn_varlen_func(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: torch.Tensor,
        cu_seqlens_k: torch.Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float = 1.0,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> torch.Tensor:
        assert causal
        assert dropout_p == 0
        self.varlen += 1
        queries, keys = (ends.diff().tolist() for ends in (cu_seqlens_q, cu_seqlens_k))
        assert int(max_seqlen_q) >= max(queries)
        assert int(max_seqlen_k) >= max(keys)
        rows = zip(q.split(queries), k.split(keys), v.split(keys), strict=True)
        return torch.cat([attention(*row, softmax_scale, window_size) for row in rows])


def install(monkeypatch: pytest.MonkeyPatch) -> Flash:
    """`attn_implementation="flash_attention_2"` on a CPU: transformers' masks, unpadding and arguments are its own."""
    flash = Flash()

    def imports(*_: Any, **__: Any) -> tuple[Any, ...]:
        return flash.flash_attn_func, flash.flash_attn_varlen_func, None, library._pad_input, library._unpad_input

    monkeypatch.setattr(library, "_loaded_implementation", None)
    monkeypatch.setattr(library, "_lazy_imports", imports)
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
    return flash
