"""Merge a whole model in memory with PEFT, for adapters that `models/adapters` does not support."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from headnote_cli.errors import DoesNotFitError, UsageError
from headnote_cli.events import Listener, Note
from headnote_cli.machine.memory import available_memory
from headnote_cli.merging.plan import NAMES_OF_DTYPES, MergeJob
from headnote_cli.merging.stream import Written
from headnote_cli.models.base import weights_folder
from headnote_cli.models.loading import load_model, torch_dtype, with_adapter
from headnote_cli.models.weights import read_header, read_weights
from headnote_cli.runs.files import sha256

ROOM = 1.2  # relative to the weights: room for the adapter, one layer's float32 delta, libraries


def merge_with_peft(job: MergeJob, folder: Path, reason: str, emit: Listener) -> Written:
    """Load base and adapters, let PEFT merge them, and save.

    Raises:
        UsageError: PEFT cannot merge onto 4-bit weights.
        DoesNotFitError: The model does not fit into main memory.
    """
    if job.onto is not None:
        raise UsageError(f"--onto nf4 cannot merge {reason}", hint="merge with --onto base")
    stored = read_weights(weights_folder(job.base))
    largest = max((tensor for tensor in stored if tensor.dtype in NAMES_OF_DTYPES), key=lambda tensor: tensor.size)
    name = job.dtype or NAMES_OF_DTYPES[largest.dtype]
    dtype = torch_dtype(name)
    needed = int(ROOM * sum(math.prod(tensor.shape) for tensor in stored) * dtype.itemsize)
    size = f"{needed / 2**30:.1f} GiB"
    emit(Note(f"{reason}: PEFT itself merges this, with the whole model in memory ({size})", warning=True))
    if needed > (free := available_memory()):
        raise DoesNotFitError(f"PEFT's merge takes {size}, and {free / 2**30:.1f} GiB of memory are free")
    model: Any = load_model(job.base, dtype, torch.device("cpu"))
    changed = 0
    for adapter in job.adapters:
        wrapped = with_adapter(model, adapter)
        changed += sum(key.endswith(".base_layer.weight") for key in wrapped.state_dict())
        model = wrapped.merge_and_unload()
    model.save_pretrained(folder, max_shard_size=job.shard_bytes or "50GB")
    files = sorted(folder.glob("*.safetensors"))
    count = sum(len(read_header(file)) for file in files)
    return Written(max(0, count - changed), changed, name, files={file.name: sha256(file) for file in files})
