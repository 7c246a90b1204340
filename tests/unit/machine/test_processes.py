"""How many processes a launcher was asked for."""

from __future__ import annotations

import pytest

from headnote_cli.errors import UsageError
from headnote_cli.machine.processes import require_all_processes


def test_fewer_than_asked_for_are_refused_and_as_many_are_not() -> None:
    require_all_processes({})
    require_all_processes({"SLDS_PROCESSES": "2", "WORLD_SIZE": "2"})
    require_all_processes({"ACCELERATE_MIXED_PRECISION": "no", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1"})
    require_all_processes({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "10.0.0.1"})  # as Slurm scripts set it
    with pytest.raises(UsageError, match="1 of 2 processes"):
        require_all_processes({"SLDS_PROCESSES": "2"})
    with pytest.raises(UsageError, match="1 of several processes"):
        require_all_processes({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"})
