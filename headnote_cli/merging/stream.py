"""Adapters + base → the weights of one model folder, streamed from safetensors to safetensors.

Tensors that no adapter changes are copied as bytes. The others are read, changed and written in blocks of rows, so
memory holds a few blocks, whatever the model's size.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from headnote_cli.errors import DataError, SldsError
from headnote_cli.events import Listener, WeightsWritten
from headnote_cli.machine.plan import Quantization
from headnote_cli.merging.plan import MergePlan
from headnote_cli.models.adapters import TORCH_DTYPES, load_tensor, needs_all_rows
from headnote_cli.models.weights import INDEX, SINGLE, OutputTensor, copy_range, known_sha256, packed
from headnote_cli.runs.files import read_json, sha256, write_json

BLOCK_ELEMENTS = 2**20  # that one thread changes at a time: 4 MiB in float32
BLOCK_ROWS = 64  # minimum: BLAS uses another kernel for fewer rows, and the last bits differ
MOST_WORKERS = 8
REPORTS_A_SECOND = 10
Hashes = Mapping[str, "Future[str]"]  # by file name


@dataclass
class Written:
    """What was written, and the time of each part (seconds, summed over threads)."""

    copied: int = 0
    merged: int = 0
    dtype: str = ""
    files: dict[str, str] = field(default_factory=dict)  # weight file → SHA-256
    base_files: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    untied: bool = False


def write_merged(plan: MergePlan, folder: Path, emit: Listener, hashes: Hashes) -> Written:
    """Write the plan's weight files and their index into a folder, and flush them.

    Copying, reading, multiplying, writing and hashing overlap: each tensor is a task that writes to its own place in
    the file.

    Args:
        hashes: Of the base's files, started earlier.
    """
    began = time.perf_counter()
    with _one_thread_each(), ExitStack() as open_files:
        written = _Writing(plan, emit, hashes, open_files).run(folder)
    _write_index(plan, folder)
    written.seconds["writing all"] = time.perf_counter() - began
    return written


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Limit torch to one thread per worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Writing:
    """The tasks of one merge."""

    def __init__(self, plan: MergePlan, emit: Listener, hashes: Hashes, open_files: ExitStack) -> None:
        self.plan = plan
        self.emit = emit
        self.hashes = hashes
        self.open_files = open_files
        self.written = Written(dtype=plan.dtype, untied=plan.untied)
        self._to_merge = sum(map(plan.touched, plan.tensors()))
        self._lock = threading.Lock()
        self._done = 0
        self._began = self._reported = time.monotonic()

    def run(self, folder: Path) -> Written:
        """Submit all tasks and wait for them; the first failure stops the merge."""
        files = {tensor.source.file for tensor in self.plan.tensors()}
        sources = {file: self._opened(file, os.O_RDONLY) for file in sorted(files)}
        workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        pool = ThreadPoolExecutor(workers)
        finishing = ThreadPoolExecutor(workers)  # flushes and hashes whole files; its tasks wait for those of `pool`
        try:
            tasks = []
            for name, tensors in self.plan.shards.items():
                target, starts = self._begun(folder / name, tensors)
                of_file = []
                for tensor in tensors:
                    source, to = sources[tensor.source.file], starts[tensor.name]
                    if self.plan.touched(tensor):
                        of_file.append(pool.submit(self._merge, tensor, target, to))
                    else:
                        of_file.append(pool.submit(self._copy, tensor, source, target, to))
                tasks += [*of_file, finishing.submit(self._finish, folder / name, target, of_file)]
            tasks += [finishing.submit(self._hash_base, file) for file in sources]
            for task in as_completed(tasks):
                task.result()
        finally:
            pool.shutdown(cancel_futures=True)
            finishing.shutdown(cancel_futures=True)
        self._report()
        return self.written

    def _opened(self, file: Path, flags: int) -> int:
        descriptor = os.open(file, flags, 0o644)
        self.open_files.callback(os.close, descriptor)
        return descriptor

    def _begun(self, file: Path, tensors: Sequence[OutputTensor]) -> tuple[int, dict[str, int]]:
        """Open a weight file of its final size with its header; also returns where each tensor starts."""
        header, starts = packed(tensors)
        target = self._opened(file, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.pwrite(target, header, 0)
        os.ftruncate(target, len(header) + sum(tensor.size for tensor in tensors))
        return target, starts

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        with self._lock:
            self.written.seconds[part] += time.perf_counter() - began

    def _copy(self, tensor: OutputTensor, source: int, target: int, to: int) -> None:
        with self._timed("copy"):
            copy_range(source, target, tensor.source.start, tensor.size, to, self._advance)
        with self._lock:
            self.written.copied += 1

    def _merge(self, tensor: OutputTensor, target: int, to: int) -> None:
        """Merge one tensor in blocks of rows."""
        changes = self.plan.changes.get(tensor.name, ())
        quantized = self.plan.onto if tensor.name in self.plan.quantized else None
        dtype = TORCH_DTYPES[tensor.dtype]
        opened = [change.open() for change in changes]
        for rows in _blocks(tensor.shape, quantized is not None or any(map(needs_all_rows, changes))):
            with self._timed("read"):
                block = load_tensor(tensor.source, rows)
            with self._timed("multiply"):
                block = block.to(dtype) if quantized is None else through_four_bits(block, quantized)
                for change in opened:
                    block = change(block, rows)
                block = block.to(dtype).contiguous()
                if tensor.dtype == "F16" and not torch.isfinite(block).all():
                    raise DataError(f"{tensor.name} overflows float16", hint="merge with `--dtype bfloat16`")
            data = memoryview(block.reshape(-1).view(torch.uint8).numpy())
            with self._timed("write"):
                _write_all(target, data, to)
            to += len(data)
            self._advance(len(data))
        with self._lock:
            self.written.merged += 1

    def _finish(self, file: Path, target: int, tasks: Sequence[Future[None]]) -> None:
        """Flush and hash a file after its tensors are written."""
        for task in tasks:
            task.result()
        with self._timed("flush"):
            os.fsync(target)
        with self._timed("hash"):
            self.written.files[file.name] = sha256(file)

    def _hash_base(self, file: Path) -> None:
        with self._timed("hash"):
            begun = self.hashes.get(file.name)
            self.written.base_files[file.name] = known_sha256(file) or (begun.result() if begun else sha256(file))

    def _advance(self, size: int) -> None:
        """Count written bytes, and report them from time to time."""
        with self._lock:
            self._done += size
            moment = time.monotonic()
            if moment - self._reported >= 1 / REPORTS_A_SECOND and self._done < self.plan.bytes:
                self._reported = moment
                self._report()

    def _report(self) -> None:
        seconds = time.monotonic() - self._began
        self.emit(WeightsWritten(self._done, self.plan.bytes, self.written.merged, self._to_merge, seconds))


def _write_all(target: int, data: memoryview, to: int) -> None:
    """Write all data: one system call may write only a part."""
    while data:
        done = os.pwrite(target, data, to)
        data, to = data[done:], to + done


def _blocks(shape: tuple[int, ...], whole: bool) -> Iterator[slice]:
    """A tensor's rows in blocks of about `BLOCK_ELEMENTS` elements; the rows are a multiple of `BLOCK_ROWS`."""
    if whole or not shape:
        yield slice(None)
        return
    width = max(1, math.prod(shape[1:]))
    rows = max(BLOCK_ROWS, BLOCK_ELEMENTS // width // BLOCK_ROWS * BLOCK_ROWS)
    count = max(1, shape[0] // rows)  # the last block takes the rest, so that none is small
    for index in range(count):
        yield slice(index * rows, shape[0] if index == count - 1 else (index + 1) * rows)


def through_four_bits(weight: torch.Tensor, how: Quantization) -> torch.Tensor:
    """A weight as training saw it: quantized to 4 bits and back with bitsandbytes."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    loaded = weight.to(getattr(torch, how.dtype))
    packed_weight, state = quantize_4bit(loaded, compress_statistics=how.nested, quant_type=how.kind)
    restored: torch.Tensor = dequantize_4bit(packed_weight, state)
    return restored


def _write_index(plan: MergePlan, folder: Path) -> None:
    """Write the index of several shards in transformers' format."""
    if list(plan.shards) == [SINGLE]:
        return
    placed = {tensor.name: name for name, tensors in plan.shards.items() for tensor in tensors}
    parameters = sum(math.prod(tensor.shape) for tensor in plan.tensors())
    index = {"metadata": {"total_parameters": parameters, "total_size": plan.bytes}, "weight_map": placed}
    write_json(folder / INDEX, index)


def write_config(plan: MergePlan, folder: Path, dtype: str | None) -> None:
    """Write the base's `config.json` with the merged weights' dtype and tying."""
    config = read_json(plan.folder / "config.json") or {}
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for part in parts:
        for key in ("dtype", "torch_dtype"):
            if dtype is not None and key in part:
                part[key] = dtype
    if dtype is not None and "torch_dtype" not in config:
        config["dtype"] = dtype
    if plan.untied:
        config["tie_word_embeddings"] = False
        for part in parts[1:]:
            if "tie_word_embeddings" in part or "vocab_size" in part:
                part["tie_word_embeddings"] = False
    write_json(folder / "config.json", config)


def require_room(needed: int, folder: Path) -> None:
    """
    Raises:
        SldsError: The disk has too little free space for the merged model.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SldsError(
            f"the merged model takes {needed / 2**30:.1f} GiB, and the disk has {free / 2**30:.1f} GiB left",
            str(folder),
            "make room, or choose another --output",
        )
