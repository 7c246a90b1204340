"""The estimated memory of a run on this machine, and what would help if it is too much."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from headnote_cli.config.layers import Config
from headnote_cli.errors import ConfigError, DoesNotFitError, UnreachableError
from headnote_cli.events import Listener, Note
from headnote_cli.machine.detect import Machine
from headnote_cli.machine.memory import available_memory
from headnote_cli.machine.plan import Plan
from headnote_cli.machine.processes import own_gpu
from headnote_cli.memory.advice import advice
from headnote_cli.memory.cards import Card
from headnote_cli.memory.command import shapes_for
from headnote_cli.memory.estimate import estimate
from headnote_cli.memory.parallel import launched
from headnote_cli.memory.setup import setup_of
from headnote_cli.runs.folders import Run


def expected_memory(
    config: Config, plan: Plan, machine: Machine, ignore: bool, emit: Listener
) -> dict[str, Any] | None:
    """The estimate for this machine and plan; None if the model's sizes are unknown.

    Raises:
        DoesNotFitError: The tensors alone need more than the free memory, and `ignore` is false.
    """
    effective = plan.applied(config.settings)
    try:
        devices, sharding = launched(os.environ)
        shapes = shapes_for(config)
        expected = estimate(shapes, setup_of(effective, shapes, devices=devices, sharding=sharding))
    except (ConfigError, UnreachableError) as error:
        emit(Note(f"memory not estimated: {error.message}"))
        return None
    card, processes = own_card(plan.device, machine, os.environ)
    needed = f"{'at least ' if expected.unknown else ''}{processes * expected.total / 2**30:.1f} GiB"
    free = (card.memory - card.used) / 2**30
    if card.memory and card.clearly_below(processes * expected.allocated) and not ignore:
        raise DoesNotFitError(
            f"a step needs {needed}, and {card.name} has {free:.1f} GiB to give",
            hint=f"`slds check-memory --config {config.path}` says what would help; --ignore-memory tries all the same",
        )
    if card.verdict(processes * expected.total) == "does not fit":
        emit(Note("memory: the estimate leaves no room; it may run out", warning=True))
    summary = f"{needed} of {free:.1f} GiB ({card.name}), estimated"
    if plan.device == "cuda":  # on a CPU, the progress line and the estimate both count the whole process
        summary += f"; tensors alone, as the progress counts them, {expected.allocated / 2**30:.1f}"
    return {
        "bytes": expected.total,
        "allocated": expected.allocated,
        "phase": expected.phase,
        "components": expected.components,
        "told": summary,
    }


def own_card(device: str, machine: Machine, environment: Mapping[str, str]) -> tuple[Card, int]:
    """The memory that this process trains in, and how many processes share it: only main memory is shared."""
    if device == "cuda":
        gpu = machine.gpus[own_gpu(len(machine.gpus), environment)]
        return Card(gpu.name, gpu.memory, gpu.used), 1
    free = available_memory()
    memory = max(machine.memory, free)
    return Card("main memory", memory, memory - free), int(environment.get("LOCAL_WORLD_SIZE", "1"))


def out_of_memory(config: Config, plan: Plan, folder: Path, error: BaseException) -> DoesNotFitError:
    """An out-of-memory error with the folder, the last complete checkpoint and what would help most."""
    whole = Run(folder).newest_whole()
    shapes = shapes_for(config)
    advised = advice(shapes, plan.applied(config.settings), partial(setup_of, shapes=shapes))
    helping = [item for item in advised if item.saved > 0][:3]
    lines = [f"{item.what} (saves {item.saved / 2**30:.1f} GiB): {', '.join(item.lines)}" for item in helping]
    return DoesNotFitError(
        f"out of memory {str(error).splitlines()[0] if str(error) else ''}; "
        f"last whole checkpoint: {whole.path if whole else 'none yet'}",
        str(folder),
        "; ".join(lines) or f"`slds check-memory --config {config.path}` says what would help",
    )
