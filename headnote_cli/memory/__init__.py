"""The memory estimate, in plain integers: no torch, no weights, no GPU."""
