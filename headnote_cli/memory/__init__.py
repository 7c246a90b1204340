"""The memory estimate, in plain integers: no torch, no weights, no GPU."""

from typing import Literal

Purpose = Literal["train", "generate", "merge"]
Stack = Literal["slds", "trl", "workshop"]  # whose code trains
