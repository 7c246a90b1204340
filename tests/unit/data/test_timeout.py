"""A time limit on code that is not ours."""

from __future__ import annotations

import time

import pytest

from headnote_cli.data.timeout import OutOfTimeError, time_limit


def endless() -> None:
    while True:
        pass


def test_what_does_not_end_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(OutOfTimeError), time_limit(0.3):
        endless()
    assert time.monotonic() - started < 5
