"""How the next token is chosen, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headnote_cli.errors import UsageError
from headnote_cli.generation.doubt import Doubt


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 takes the likeliest token each time."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    repetition_penalty: float = 1.0
    seed: int = 42


# The protocol of the SLDS benchmark (arXiv 2410.13456): how it draws, and the folder with its prompts.
PRESETS = {"slds-paper": (Sampling(512, 0.7, 0.8, 20, 1.05, 2025), "prompts/ipst/slds_paper")}


def require_preset(name: str) -> None:
    """
    Raises:
        UsageError: There is no such protocol.
    """
    if name not in PRESETS:
        raise UsageError(f"--preset {name}: there is {', '.join(PRESETS)}")


@dataclass(frozen=True)
class Prompt:
    """What a model is asked: as token ids, and as messages for a server."""

    name: Any  # the caller's, handed back with what was written
    ids: list[int]
    messages: list[dict[str, str]]
    seed: int
    grammar: Callable[[], str] | None = None  # of what may be written, None if anything
    kept: bool = False  # what was read of it is kept for the next one, which begins alike


@dataclass(frozen=True)
class Headnote:
    """What the model wrote.

    Attributes:
        finish_reason: `stop`; `length` where the token limit cut it off; `loop` where it repeated itself.
        doubt: How sure the model was; None of a server.
    """

    text: str
    finish_reason: str
    tokens: int
    doubt: Doubt | None = None
