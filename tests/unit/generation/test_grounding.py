"""Constraints on tokens, apart from any model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from headnote_cli.errors import DataError, UsageError
from headnote_cli.generation.grounding import Grounding


def test_a_tokenizer_that_cannot_be_read_is_named() -> None:
    with pytest.raises(UsageError, match="needs a fast tokenizer, and this is a object"):
        Grounding(object(), [1], 10)  # type: ignore[arg-type]


def test_only_what_the_grammar_allows_is_possible(gemma_tokenizer: Any) -> None:
    stop = gemma_tokenizer.convert_tokens_to_ids("<end_of_turn>")
    grounding = Grounding(gemma_tokenizer, [stop], len(gemma_tokenizer))
    constraint = grounding.constraint(lambda: "start: /(ab)+/\n")
    written = ""
    for _ in range(6):
        scores = constraint.allow(torch.zeros(1, len(gemma_tokenizer)))
        possible = [token for token in range(len(gemma_tokenizer)) if scores[0, token] > -math.inf and token != stop]
        assert {gemma_tokenizer.decode([token])[0] for token in possible} == {"ab"[len(written) % 2]}
        constraint.take(possible[0])
        written += gemma_tokenizer.decode([possible[0]])
        whole = len(written) % 2 == 0
        assert (constraint.allow(torch.zeros(1, len(gemma_tokenizer)))[0, stop] > -math.inf) == whole
    assert set(written) == {"a", "b"}


def test_a_grammar_that_is_no_grammar_is_an_error_of_its_headnote(gemma_tokenizer: Any) -> None:
    grounding = Grounding(gemma_tokenizer, [1], len(gemma_tokenizer))
    with pytest.raises(DataError, match="grammar that is too large"):
        grounding.constraint(lambda: "start: (").allow(torch.zeros(1, len(gemma_tokenizer)))
