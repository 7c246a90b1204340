"""PEFT's own merge of a whole model in memory, for adapters whose arithmetic `adapters.py` does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from headnote_cli.errors import DoesNotFitError, UsageError
from headnote_cli.events import Listener, Note
from headnote_cli.machine.memory import available_memory
from headnote_cli.merging.plan import FLOATING, NAMES_OF_DTYPES, MergeJob
from headnote_cli.merging.stream import Written
from headnote_cli.models.base import weights_folder
from headnote_cli.models.loading import load_model, torch_dtype, with_adapter
from headnote_cli.models.weights import DTYPE_BYTES, read_header, read_weights
from headnote_cli.runs.files import sha256

ROOM = 1.2  # of the weights: the adapter, one layer's delta in float32, the libraries


def merge_with_peft(job: MergeJob, folder: Path, reason: str, emit: Listener) -> Written:
    """Load base and adapters whole, let PEFT merge, and save.

    Raises:
        UsageError: The merge is to go onto 4-bit weights, which this way cannot.
        DoesNotFitError: The model does not fit into main memory.
    """
    if job.onto is not None:
        raise UsageError(f"--onto nf4 cannot merge {reason}", hint="merge with --onto base")
    stored = read_weights(weights_folder(job.base))
    own = max((tensor for tensor in stored if tensor.dtype in FLOATING), key=lambda one: one.size).dtype
    name = job.dtype or NAMES_OF_DTYPES[own]
    width = {"float32": 4}.get(name, 2)
    needed = int(ROOM * sum(tensor.size // DTYPE_BYTES[tensor.dtype] * width for tensor in stored))
    emit(
        Note(
            f"{reason}: PEFT itself merges this, with the whole model in memory ({needed / 2**30:.1f} GiB)",
            warning=True,
        )
    )
    if needed > available_memory():
        has = available_memory() / 2**30
        raise DoesNotFitError(f"PEFT's merge takes {needed / 2**30:.1f} GiB, and {has:.1f} GiB of memory are free")
    model: Any = load_model(job.base, torch_dtype(name), torch.device("cpu"))
    changed = 0
    for adapter in job.adapters:
        wrapped = with_adapter(model, adapter)
        changed += len([key for key in wrapped.state_dict() if key.endswith(".base_layer.weight")])
        model = wrapped.merge_and_unload()
    model.save_pretrained(folder, max_shard_size=job.shard_bytes or "50GB")
    files = sorted(folder.glob("*.safetensors"))
    count = sum(len(read_header(file)) for file in files)
    written = Written(copied=max(0, count - changed), merged=changed, dtype=name)
    written.files = {file.name: sha256(file) for file in files}
    return written
