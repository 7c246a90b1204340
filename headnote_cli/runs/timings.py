"""How long each part of a command takes."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Laps:
    """Seconds by part, in order. Each part starts where the last one ended; the first starts with the process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic() - seconds_lived()

    def lap(self, part: str) -> None:
        """End a part."""
        now = time.monotonic()
        self.seconds[part] = round(self.seconds.get(part, 0.0) + now - self._last, 3)
        self._last = now


def seconds_lived() -> float:
    """Seconds since this process started; 0 if unknown."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError):
        return 0.0
