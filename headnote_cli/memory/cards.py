"""Named GPUs and their memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headnote_cli.errors import UsageError

GIB = 2**30
# Makers' data sheets; what the driver shows is a little less than the nominal size.
GIBIBYTES = {
    "T4": 16,
    "RTX 3060": 12,
    "RTX 4060": 8,
    "RTX 3090": 24,
    "RTX 4090": 24,
    "RTX 5090": 32,
    "L4": 24,
    "A10": 24,
    "A100-40": 40,
    "A100-80": 80,
    "L40S": 48,
    "H100": 80,
    "H200": 141,
}
USUAL = ("RTX 3060", "T4", "RTX 4090", "RTX 5090", "A100-40", "L40S", "H100")
USABLE = 0.95  # the rest: the allocator's fragments


@dataclass(frozen=True)
class Card:
    """A GPU to fit into."""

    name: str
    memory: int  # bytes

    @property
    def usable(self) -> int:
        return int(self.memory * USABLE)


def card(text: str) -> Card:
    """`RTX 4090`, `rtx4090` or `24GiB`.

    Raises:
        UsageError: It is neither a known name nor a size.
    """
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(GiB|GB|G)\s*", text, re.IGNORECASE)
    if size and len(size[1]) <= 9:
        unit = 10**9 if size[2].lower() == "gb" else GIB
        return Card(text.strip(), int(float(size[1]) * unit))
    key = re.sub(r"[\s_-]", "", text).lower()
    for name, gibibytes in GIBIBYTES.items():
        if re.sub(r"[\s_-]", "", name).lower() == key:
            return Card(name, gibibytes * GIB)
    raise UsageError(f"--gpu {text}: no such card", hint=f"name one of {', '.join(GIBIBYTES)}, or a size such as 24GiB")


def usual_cards() -> list[Card]:
    """One card of each common size."""
    return [card(name) for name in USUAL]
