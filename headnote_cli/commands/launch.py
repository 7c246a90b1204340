"""`slds train --num-processes N`: the same command in N processes under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `slds ARGUMENTS` in several processes of this machine; returns the exit code of the first that failed.

    Each process checks that as many really train together as `SLDS_PROCESSES` says: `accelerate launch --cpu` starts
    one where two are asked for.
    """
    environment = os.environ | {"SLDS_PROCESSES": str(processes)}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    finished = subprocess.run([*command, "-m", "headnote_cli", *arguments], env=environment, check=False)
    return finished.returncode
