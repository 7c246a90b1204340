"""Citations held to those of the decision while a headnote is written: token masks from a grammar, by llguidance.

Guidance's library (github.com/guidance-ai/llguidance) reads a grammar lazily, token by token. Its own limits guard
servers against hostile grammars; our grammars get more, and one that is too large for that is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llguidance
import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from headnote_cli.errors import DataError, UsageError

LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=100_000_000, step_lexer_fuel=20_000_000, max_lexer_states=2_000_000
)


class Grounding:
    """The tokens of a model as the library wants them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: list[int], vocabulary: int) -> None:
        """
        Args:
            vocabulary: Logits of the model, which may be more than the tokens.

        Raises:
            UsageError: The library cannot read this tokenizer.
        """
        hint = "write without --grounded; the citations are checked afterwards in any case"
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise UsageError(f"--grounded needs a fast tokenizer, and this is a {type(tokenizer).__name__}", hint=hint)
        from llguidance.hf import from_tokenizer

        try:
            self.tokens = from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=stop_ids)
        except (ValueError, RuntimeError) as error:
            raise UsageError(f"--grounded cannot read the model's tokenizer: {error}", hint=hint) from error

    def constraint(self, grammar: Callable[[], str]) -> Constraint:
        """What holds one headnote to its grammar, which is asked for when the headnote begins."""
        return Constraint(self.tokens, grammar)


class Constraint:
    """Which tokens may come next in one headnote.

    Attributes:
        complete: Tokens up to the last place where the headnote could have ended, which is not inside a citation.
    """

    def __init__(self, tokens: Any, grammar: Callable[[], str]) -> None:
        self._tokens, self._grammar = tokens, grammar
        self._matcher: Any = None
        self._taken = 0
        self.complete = 0

    def allow(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of the next token (1, vocabulary), impossible ones at minus infinity.

        Raises:
            DataError: The grammar is too large for the library.
        """
        if self._matcher is None:
            self._matcher = llguidance.LLMatcher(self._tokens, self._grammar(), limits=LIMITS, log_level=0)
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._require_sound()
        allowed = torch.from_numpy(np.unpackbits(packed, bitorder="little", count=scores.shape[-1]).astype(bool))
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))

    def take(self, token: int) -> None:
        """Go on with the token that was chosen."""
        self._matcher.consume_token(token)
        self._require_sound()
        self._taken += 1
        if self._matcher.is_accepting():
            self.complete = self._taken

    def release(self) -> None:
        """Free the memory of a headnote that is written."""
        self._matcher = None

    def _require_sound(self) -> None:
        if error := self._matcher.get_error():
            message = f"its citations make a grammar that is too large: {error.splitlines()[0]}"
            raise DataError(message, hint="write this one without --grounded")
