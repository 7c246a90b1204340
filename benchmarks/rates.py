"""What this machine keeps up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def times_a_second(work: Callable[[], Any], seconds: float = 5.0) -> float:
    """How often a second over some seconds: a shared processor gives a short burst more than it keeps up."""
    work()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        work()
        count += 1
    return count / (time.perf_counter() - began)
