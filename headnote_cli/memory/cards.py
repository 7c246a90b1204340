"""Named GPUs and their memory, and whether a peak fits."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headnote_cli.errors import UsageError

GIB = 2**30
# Makers' data sheets; what the driver shows is a little less than the nominal size.
GIBIBYTES = {
    "RTX 4060": 8,
    "RTX 3060": 12,
    "T4": 16,
    "RTX 3090": 24,
    "RTX 4090": 24,
    "L4": 24,
    "A10": 24,
    "RTX 5090": 32,
    "A100-40": 40,
    "L40S": 48,
    "A100-80": 80,
    "H100": 80,
    "H200": 141,
}
ALIASES = {"A100": "A100-80"}
USUAL = ("RTX 4060", "RTX 3060", "T4", "RTX 4090", "RTX 5090", "A100-40", "L40S", "H100", "H200")
# What the driver keeps for itself: 24 GiB cards show 23.6 to 23.99 GiB, a T4 with error correction 14.75 of 16.
USABLE = 0.98
# Below this share of what is usable it fits with room for longer rows than foreseen; above it, tight.
COMFORTABLE = 0.92


@dataclass(frozen=True)
class Card:
    """A GPU to fit into."""

    name: str
    memory: int  # bytes
    used: int = 0  # bytes that other programs hold

    @property
    def usable(self) -> int:
        return int((self.memory - self.used) * USABLE)

    def verdict(self, peak: int) -> str:
        """`fits`, `tight` or `does not fit`."""
        if peak > self.usable:
            return "does not fit"
        return "fits" if peak <= COMFORTABLE * self.usable else "tight"


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
    for name in (*GIBIBYTES, *ALIASES):
        if re.sub(r"[\s_-]", "", name).lower() == key:
            name = ALIASES.get(name, name)
            return Card(name, GIBIBYTES[name] * GIB)
    raise UsageError(f"--gpu {text}: no such card", hint=f"name one of {', '.join(GIBIBYTES)}, or a size such as 24GiB")


def usual_cards() -> list[Card]:
    """One card of each common size."""
    return [card(name) for name in USUAL]
