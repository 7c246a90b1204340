"""`slds train --num-processes N`: runs the same command in N processes on this machine."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from headnote_cli.errors import ExitCode, Interrupted, SldsError
from headnote_cli.machine.processes import PARENT, error_from

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing import PContext, ProcessFailure

SAVING = 3600  # seconds that processes have to save after a signal
CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


def launch(processes: int, arguments: Sequence[str]) -> None:
    """Run `slds ARGUMENTS` in several processes that train together; signals are passed on to them.

    torch starts and watches them with the functions beneath torchrun; torchrun itself ends every failure with a table
    and exit code 1. Each process checks that `SLDS_PROCESSES` processes really train together.

    Raises:
        SldsError: The first failure of any process, with its exit code.
        Interrupted: A signal arrived; what the processes saved is kept.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

    logging.getLogger(start_processes.__module__ + ".api").setLevel(logging.CRITICAL)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGINT,SIGTERM"
    shared = {
        "SLDS_PROCESSES": str(processes),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        PARENT: str(os.getpid()),
    }
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    with tempfile.TemporaryDirectory(prefix="slds-") as folder:
        context = start_processes(
            "slds",
            sys.executable,
            args=dict.fromkeys(range(processes), ("-m", "headnote_cli", *arguments)),
            envs={rank: shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)},
            logs_specs=DefaultLogsSpecs(folder),
        )
        failures, signals = _ended(context)
        if failures:
            first = min(failures, key=lambda rank: _order(failures[rank]))
            raise _error(first, failures[first], signals)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ended(context: PContext) -> tuple[Mapping[int, ProcessFailure], list[signal.Signals]]:
    """Wait for all processes; returns their failures and the signals that were passed on."""
    from torch.distributed.elastic.multiprocessing import SignalException

    signals: list[signal.Signals] = []
    while True:
        try:
            if signals:
                for pid in context.pids().values():  # only these: torch's own signal also reaches data loaders
                    with suppress(ProcessLookupError):
                        os.kill(pid, signals[-1])
                context.close(signal.SIGCONT, timeout=SAVING)  # no effect on a running process
            return context.wait(period=0.05).failures, signals
        except SignalException as caught:
            signals.append(caught.sigval)


def _order(failure: ProcessFailure) -> tuple[bool, float]:
    """Sort key of failures: first a killed process, whose end makes others fail; then the first with a recorded error;
    then those that torch ended with SIGTERM."""
    was_killed = failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
    return not was_killed, float(failure.error_file_data.get("timestamp", math.inf))


def _error(rank: int, failure: ProcessFailure, signals: Sequence[signal.Signals]) -> SldsError:
    code = failure.exitcode
    if code < 0 and -code in signals:
        return Interrupted("stopped at once; what was saved before stays", exit_code=CODES[signal.Signals(-code)])
    if code < 0:
        return SldsError(
            f"process {rank} was killed by {signal.Signals(-code).name}, which ends the whole run",
            hint="if nobody did so, main memory ran out (see `slds check-memory`); the same command goes on from "
            "the newest whole checkpoint",
        )
    return error_from(failure.error_file_data) or SldsError(
        f"process {rank} ended with exit code {code} without a message"
    )
