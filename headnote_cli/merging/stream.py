"""Adapters + base → one model folder, straight from safetensors to safetensors.

Tensors that no adapter touches are copied as bytes; the others are read, changed and written by blocks of rows, so
memory holds a few blocks, however large the model is. Until everything is written and flushed, nothing has the
output's name.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from headnote_cli.errors import DataError, SldsError
from headnote_cli.events import Listener, WeightsWritten
from headnote_cli.machine.plan import Quantization
from headnote_cli.merging.plan import MergePlan
from headnote_cli.models.adapters import TORCH_DTYPES, load_tensor
from headnote_cli.models.weights import (
    INDEX,
    SINGLE,
    OutputTensor,
    copy_range,
    known_sha256,
    packed,
)
from headnote_cli.runs.files import sha256

BLOCK_ELEMENTS = 2**20  # of a weight changed at a time by one thread: 4 MiB in float32
BLOCK_ROWS = 64  # at least: blocks of fewer rows take another kernel of the BLAS, with other last bits
MOST_WORKERS = 8
REPORTS_A_SECOND = 10
Hashes = Mapping[str, "Future[str]"]  # by file name


@dataclass
class Written:
    """What was written, and where the time went (seconds of all threads together)."""

    copied: int = 0
    merged: int = 0
    dtype: str = ""
    files: dict[str, str] = field(default_factory=dict)  # weight file → SHA-256
    base_files: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    untied: bool = False


def write_merged(plan: MergePlan, folder: Path, emit: Listener, hashes: Hashes | None = None) -> Written:
    """Write the plan's weight files and their index into a folder, and flush them.

    Copying, reading, multiplying, writing and hashing overlap: each tensor, and each run of untouched ones, is a task
    of its own, and each writes to its own place in the file.

    Args:
        hashes: Of the base's files, begun earlier.
    """
    written = Written(dtype=plan.dtype, untied=plan.untied)
    began = time.perf_counter()
    workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    with (
        _one_thread_each(),
        ThreadPoolExecutor(workers) as pool,
        ThreadPoolExecutor(workers) as finishing,
        contextlib.ExitStack() as open_files,
    ):
        tasks = _Tasks(plan, written, emit, pool, finishing, open_files, hashes or {})
        try:
            tasks.run(folder)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            finishing.shutdown(cancel_futures=True)
            raise
    _write_index(plan, folder)
    written.seconds["writing all"] = time.perf_counter() - began
    return written


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Each worker multiplies on its own core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Tasks:
    """The pieces of work of one merge."""

    def __init__(
        self,
        plan: MergePlan,
        written: Written,
        emit: Listener,
        pool: ThreadPoolExecutor,
        finishing: ThreadPoolExecutor,
        open_files: contextlib.ExitStack,
        hashes: Hashes,
    ) -> None:
        """
        Args:
            pool: Copies and computes; `finishing` flushes and hashes whole files, and may wait for the other.
        """
        self.plan = plan
        self.written = written
        self.emit = emit
        self.pool = pool
        self.finishing = finishing
        self.open_files = open_files
        self.hashes = hashes
        self._lock = threading.Lock()
        self._done = 0
        self._began = self._reported = time.monotonic()
        self._sources: dict[Path, int] = {}

    def run(self, folder: Path) -> None:
        """Submit everything, then watch until all is done; the first failure ends it."""
        work = [future for name, tensors in self.plan.shards for future in self._shard(folder / name, tensors)]
        work += [self.finishing.submit(self._hash_base, file) for file in sorted(self._sources)]
        for done in as_completed(work):
            done.result()
        self._tell()

    def _shard(self, file: Path, tensors: Sequence[OutputTensor]) -> list[Future[None]]:
        header, starts = packed(tensors)
        target = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self.open_files.callback(os.close, target)
        os.pwrite(target, header, 0)
        os.ftruncate(target, len(header) + sum(tensor.size for tensor in tensors))
        work = [self.pool.submit(self._copy, target, *run) for run in self._runs(tensors, starts)]
        work += [
            self.pool.submit(self._merge, target, tensor, starts[tensor.name])
            for tensor in tensors
            if self.plan.touched(tensor)
        ]
        return [*work, self.finishing.submit(self._close, file, target, work)]

    def _source(self, file: Path) -> int:
        with self._lock:
            if file not in self._sources:
                self._sources[file] = os.open(file, os.O_RDONLY)
                self.open_files.callback(os.close, self._sources[file])
            return self._sources[file]

    def _runs(self, tensors: Sequence[OutputTensor], starts: Mapping[str, int]) -> list[tuple[int, int, int, int]]:
        """Untouched tensors that lie side by side in source and target: source, its start, size, target's start."""
        runs: list[tuple[int, int, int, int]] = []
        for tensor in sorted(tensors, key=lambda one: starts[one.name]):
            assert tensor.source is not None
            source = self._source(tensor.source.file)
            if self.plan.touched(tensor):
                continue
            start, to = tensor.source.start, starts[tensor.name]
            if (
                runs
                and runs[-1][0] == source
                and runs[-1][1] + runs[-1][2] == start
                and runs[-1][3] + runs[-1][2] == to
            ):
                runs[-1] = (source, runs[-1][1], runs[-1][2] + tensor.size, runs[-1][3])
            else:
                runs.append((source, start, tensor.size, to))
            self.written.copied += 1
        return runs

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        with self._lock:
            self.written.seconds[part] += time.perf_counter() - began

    def _copy(self, target: int, source: int, start: int, size: int, to: int) -> None:
        with self._timed("copy"):
            copy_range(source, target, start, size, to, self._report)

    def _merge(self, target: int, tensor: OutputTensor, to: int) -> None:
        """One tensor, by blocks of rows."""
        assert tensor.source is not None
        steps = self.plan.edits.get(tensor.name, ())
        quantized = self.plan.onto if tensor.name in self.plan.quantized else None
        opened = [change.open() for step in steps for change in step.changes]
        whole = quantized is not None or any(step.whole for step in steps)
        for rows in _blocks(tensor.shape, whole):
            with self._timed("read"):
                block = load_tensor(tensor.source, rows)
            with self._timed("multiply"):
                if quantized is not None:
                    block = through_four_bits(block, quantized)
                else:
                    block = block.to(TORCH_DTYPES[tensor.dtype])
                for change in opened:
                    block = change(block, rows)
                block = block.to(TORCH_DTYPES[tensor.dtype]).contiguous()
                if tensor.dtype == "F16" and not torch.isfinite(block).all():
                    raise DataError(f"{tensor.name} overflows float16", hint="merge with `--dtype bfloat16`")
            with self._timed("write"):
                self._write(target, block, to)
            to += block.numel() * block.element_size()
            self._report(block.numel() * block.element_size())
        with self._lock:
            self.written.merged += 1

    def _write(self, target: int, block: torch.Tensor, to: int) -> None:
        data = memoryview(block.reshape(-1).view(torch.uint8).numpy())
        while len(data):
            done = os.pwrite(target, data, to)
            data, to = data[done:], to + done

    def _close(self, file: Path, target: int, work: Sequence[Future[None]]) -> None:
        for one in work:
            one.result()
        with self._timed("flush"):
            os.fsync(target)
        with self._timed("hash"):
            self.written.files[file.name] = sha256(file)

    def _hash_base(self, file: Path) -> None:
        with self._timed("hash"):
            begun = self.hashes.get(file.name)
            self.written.base_files[file.name] = known_sha256(file) or (begun.result() if begun else sha256(file))

    def _report(self, done: int) -> None:
        with self._lock:
            self._done += done
            moment = time.monotonic()
            if moment - self._reported >= 1 / REPORTS_A_SECOND and self._done < self.plan.bytes:
                self._reported = moment
                self._tell()

    def _tell(self) -> None:
        changed = sum(self.plan.touched(tensor) for _, tensors in self.plan.shards for tensor in tensors)
        seconds = time.monotonic() - self._began
        self.emit(WeightsWritten(self._done, self.plan.bytes, self.written.merged, changed, seconds))


def _blocks(shape: tuple[int, ...], whole: bool) -> Iterator[slice]:
    """Rows of a tensor in blocks of about `BLOCK_ELEMENTS`, a multiple of `BLOCK_ROWS` of them."""
    if whole or not shape:
        yield slice(None)
        return
    width = max(1, torch.Size(shape[1:]).numel())
    rows = max(BLOCK_ROWS, BLOCK_ELEMENTS // width // BLOCK_ROWS * BLOCK_ROWS)
    count = max(1, shape[0] // rows)  # the last block takes what is left, so that none is small
    for index in range(count):
        yield slice(index * rows, shape[0] if index == count - 1 else (index + 1) * rows)


def through_four_bits(weight: torch.Tensor, how: Quantization) -> torch.Tensor:
    """A weight as training saw it: to 4 bits and back, by bitsandbytes' own functions."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    loaded = weight.to(getattr(torch, how.dtype))
    packed_weight, state = quantize_4bit(loaded, compress_statistics=how.nested, quant_type=how.kind)
    back: torch.Tensor = dequantize_4bit(packed_weight, state)
    return back


def _write_index(plan: MergePlan, folder: Path) -> None:
    """The index of several shards, in transformers' form."""
    if [name for name, _ in plan.shards] == [SINGLE]:
        return
    placed = {tensor.name: name for name, tensors in plan.shards for tensor in tensors}
    parameters = sum(torch.Size(tensor.shape).numel() for _, tensors in plan.shards for tensor in tensors)
    index = {"metadata": {"total_parameters": parameters, "total_size": plan.bytes}, "weight_map": placed}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_config(plan: MergePlan, folder: Path, dtype: str | None) -> None:
    """The base's `config.json` with the dtype and the tie of the merged weights."""
    config = json.loads((plan.folder / "config.json").read_text(encoding="utf-8"))
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
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def require_room(needed: int, folder: Path) -> None:
    """
    Raises:
        SldsError: The disk has less room than the merged model takes.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise SldsError(
            f"the merged model takes {needed / 2**30:.1f} GiB, and the disk has {free / 2**30:.1f} GiB left",
            str(folder),
            "make room, or choose another --output",
        )
