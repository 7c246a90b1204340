"""Bounds on code that is not ours, and that they are lifted again."""

from __future__ import annotations

import sys
import time

import pytest

from headnote_cli.data.limits import OutOfTimeError, _MemoryCeiling, limited


def endless() -> None:
    while True:
        pass


def test_what_does_not_end_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(OutOfTimeError), limited(0.3, 2**29):
        endless()
    assert time.monotonic() - started < 5


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
def test_the_first_of_several_sets_the_ceiling_and_the_last_one_lifts_it() -> None:
    import resource

    def now() -> int:
        return resource.getrlimit(resource.RLIMIT_DATA)[0]

    ceiling, before = _MemoryCeiling(), now()
    first, second = ceiling.limit(2**28), ceiling.limit(2**40)
    first.__enter__()
    held = now()
    second.__enter__()
    assert now() == held != before
    first.__exit__(None, None, None)
    assert now() == held
    with pytest.raises(MemoryError):
        bytearray(2**32)
    second.__exit__(None, None, None)
    assert now() == before
