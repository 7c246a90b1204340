"""Named GPUs, their memory, and whether a peak fits."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headnote_cli.errors import UsageError
from headnote_cli.machine.detect import AMPERE

GIB = 2**30
# Memory from data sheets, of which the driver shows slightly less; compute capability from
# https://developer.nvidia.com/cuda-gpus.
KNOWN: dict[str, tuple[int, tuple[int, int]]] = {
    "RTX 4060": (8, (8, 9)),
    "RTX 3060": (12, (8, 6)),
    "T4": (16, (7, 5)),
    "RTX 3090": (24, (8, 6)),
    "RTX 4090": (24, (8, 9)),
    "L4": (24, (8, 9)),
    "A10": (24, (8, 6)),
    "RTX 5090": (32, (12, 0)),
    "A100-40": (40, (8, 0)),
    "L40S": (48, (8, 9)),
    "A100-80": (80, (8, 0)),
    "H100": (80, (9, 0)),
    "H200": (141, (9, 0)),
    "A10G": (24, (8, 6)),
    "RTX A6000": (48, (8, 6)),
    "RTX 6000 Ada": (48, (8, 9)),
    "V100-16": (16, (7, 0)),
    "V100-32": (32, (7, 0)),
}
ALIASES = {"A100": "A100-80", "V100": "V100-16", "A6000": "RTX A6000"}
UNITS = {"gib": GIB, "g": GIB, "gb": 10**9, "mib": 2**20, "mb": 10**6}
# Words in GPU names that do not concern the memory.
DECORATION = ("nvidia", "geforce", "tesla", "pcie", "sxm2", "sxm3", "sxm4", "sxm5", "sxm", "hbm3", "hbm2e", "hbm2")
USUAL = ("RTX 4060", "RTX 3060", "T4", "RTX 4090", "RTX 5090", "A100-40", "L40S", "H100", "H200")
# The share that the driver leaves: 24 GiB cards show 23.6 to 23.99 GiB, a T4 with error correction 14.75 of 16.
USABLE = 0.98
# Below this share of the usable memory there is room for longer rows than expected; above it, the fit is tight.
COMFORTABLE = 0.92


@dataclass(frozen=True)
class Card:
    """A GPU, or main memory, to fit into."""

    name: str
    memory: int  # bytes
    used: int = 0  # bytes used by other programs
    here: bool = False  # of this machine
    capability: tuple[int, int] | None = AMPERE  # also for an unnamed size; None: main memory, for a CPU
    is_assumed: bool = False  # an unnamed size

    @property
    def usable(self) -> int:
        return int((self.memory - self.used) * USABLE)

    def clearly_below(self, tensors: int) -> bool:
        """Whether tensors alone exceed the free memory, even without driver and allocator overhead."""
        return tensors > self.memory - self.used

    def verdict(self, peak: int) -> str:
        """`fits`, `tight` or `does not fit`."""
        if peak > self.usable:
            return "does not fit"
        return "fits" if peak <= COMFORTABLE * self.usable else "tight"


def card(text: str) -> Card:
    """Parse `RTX 4090`, `4090`, `NVIDIA A100-SXM4-40GB`, `24GiB` or `24576MiB`.

    Raises:
        UsageError: It is neither a known name nor a size, or the size is zero or negative.
    """
    words = " ".join(word for word in re.split(r"[\s_-]+", text.strip()) if word.lower() not in DECORATION)
    size = re.search(r"(?:^| )(\d{1,7}(?:\.\d{1,6})?) ?(GiB|GB|G|MiB|MB)$", words, re.IGNORECASE)
    memory = int(float(size[1]) * UNITS[size[2].lower()]) if size else 0
    name = words[: size.start()] if size else words
    if text.lstrip().startswith("-") or (size and not memory):
        raise UsageError(f"--gpu {text}: no card has so little memory")
    if size and not name:
        return Card(text.strip(), memory, is_assumed=True)
    nominal = round(float(size[1])) if size and size[2].lower() != "mib" else 0
    known = (_named(f"{name}-{nominal}") if nominal else None) or _named(name)
    if known is None:
        hint = f"name one of {', '.join(KNOWN)}, or a size such as 24GiB"
        raise UsageError(f"--gpu {text}: no such card", hint=hint)
    gibibytes, capability = KNOWN[known]
    if nominal and nominal != gibibytes:  # a variant with other memory: the written size counts
        return Card(f"{known}, {nominal} GB", memory, capability=capability)
    return Card(known, gibibytes * GIB, capability=capability)


def _named(text: str) -> str | None:
    """The card with this name; a number alone is a GeForce."""
    key = _key(text)
    for name in (*KNOWN, *ALIASES):
        if key in (_key(name), _key(name).removeprefix("rtx") if key.isdigit() else None):
            return ALIASES.get(name, name)
    return None


def _key(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def usual_cards() -> list[Card]:
    """One card of each common size."""
    return [card(name) for name in USUAL]
