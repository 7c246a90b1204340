"""`slds train --num-processes N`: the same command in N processes of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from headnote_cli.errors import ExitCode, Interrupted, SldsError
from headnote_cli.machine.processes import FAILURE, PARENT, first_failure

GRACE = 30.0  # seconds that the other processes have to end by themselves when one has failed
CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


def launch(processes: int, arguments: Sequence[str]) -> None:
    """Run `slds ARGUMENTS` in several processes that train together; signals are passed on to them.

    torchrun would answer SIGTERM by killing its workers, and every failure by a table and exit code 1. Each process
    checks that as many really train together as `SLDS_PROCESSES` says.

    Raises:
        SldsError: The first failure of any process, with its exit code.
        Interrupted: A signal came; what the processes saved stays.
    """
    with tempfile.TemporaryDirectory(prefix="slds-") as folder:
        noted = Path(folder) / "failure.json"
        ranks: list[subprocess.Popen[bytes]] = []
        with _passing_signals_on(ranks) as passed:
            _start(ranks, processes, arguments, noted)
            ended = _wait(ranks)
        failure = _failure(ended, passed, noted)
    if failure is not None:
        raise failure


def _start(ranks: list[subprocess.Popen[bytes]], processes: int, arguments: Sequence[str], noted: Path) -> None:
    environment = os.environ | {
        "SLDS_PROCESSES": str(processes),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        FAILURE: str(noted),
        PARENT: str(os.getpid()),
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    command = [sys.executable, "-m", "headnote_cli", *arguments]
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        # A group of its own: Ctrl-C in the terminal reaches each process once, through this one.
        ranks.append(subprocess.Popen(command, env=environment | own, stdin=subprocess.DEVNULL, process_group=0))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _passing_signals_on(ranks: list[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Every SIGINT and SIGTERM goes to all processes; the list records which came."""
    passed: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        passed.append(number)
        for rank in ranks:
            rank.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in CODES}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(ranks: list[subprocess.Popen[bytes]]) -> list[tuple[int, int]]:
    """Until all have ended; (rank, return code) of each, as they ended by themselves.

    One that failed leaves the others waiting for it, some for ever: those are killed after a while.
    """
    ended: dict[int, int] = {}
    deadline = float("inf")
    while len(ended) < len(ranks):
        for number, rank in enumerate(ranks):
            code = rank.poll()
            if code is not None and number not in ended:
                ended[number] = code
                deadline = min(deadline, time.monotonic() + GRACE) if code else deadline
        if time.monotonic() > deadline:
            for rank in ranks:
                rank.kill()
                rank.wait()
            break
        time.sleep(0.05)
    return list(ended.items())


def _failure(ended: Sequence[tuple[int, int]], passed: Sequence[int], noted: Path) -> SldsError | None:
    """What to report of processes that ended: a killed one first, else the first failure that was noted."""
    for rank, code in ended:
        if code < 0 and -code in passed:
            return Interrupted("stopped at once; what was saved before stays", exit_code=CODES[signal.Signals(-code)])
        if code < 0:
            return SldsError(
                f"process {rank} was killed by {signal.Signals(-code).name}, which ends the whole run",
                hint="if nobody did so, main memory ran out (see `slds check-memory`); the same command goes on from "
                "the newest whole checkpoint",
            )
    failed = [(rank, code) for rank, code in ended if code]
    if not failed:
        return None
    rank, code = failed[0]
    return first_failure(noted) or SldsError(f"process {rank} ended with exit code {code} and said nothing")
