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
from typing import Any

import torch
import transformers
from torch import nn
from transformers import Conv1D
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from headnote_cli.errors import DataError, SldsError
from headnote_cli.events import Listener, WeightsWritten
from headnote_cli.machine.plan import Quantization
from headnote_cli.models.adapters import TORCH_DTYPES, Adapter, Edit, NotOurs, edits, load_tensor, read_adapter
from headnote_cli.models.base import BaseModel, load_model_config, weights_folder
from headnote_cli.models.weights import (
    INDEX,
    SINGLE,
    Planned,
    Stored,
    copy_range,
    in_shards,
    known_sha256,
    packed,
    read_weights,
    shard_names,
)
from headnote_cli.runs.files import sha256

BLOCK_ELEMENTS = 2**20  # of a weight changed at a time by one thread: 4 MiB in float32
BLOCK_ROWS = 64  # at least: blocks of fewer rows take another kernel of the BLAS, with other last bits
MOST_WORKERS = 8
FLOATING = ("F32", "F16", "BF16")
SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
NAMES_OF_DTYPES = {short: name for name, short in SAFETENSORS_DTYPES.items()}
REPORTS_A_SECOND = 10

Hashes = Mapping[str, "Future[str]"]  # by file name


@dataclass(frozen=True)
class MergeJob:
    """What is to be merged into what."""

    base: BaseModel
    adapters: tuple[Path, ...]  # merged one after the other
    dtype: str | None = None  # of the merged weights; None is the base's own
    onto: Quantization | None = None  # None: the base's own weights
    shard_bytes: int | None = None  # None: shards as in the base


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


class ParameterNames:
    """A weight's name in any layout that transformers loads → the parameter's name in the model, by its own tables."""

    def __init__(self, model: nn.Module) -> None:
        transforms = get_model_conversion_mapping(model)
        self._converters = [one for one in transforms if isinstance(one, WeightConverter)]
        self._renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
        self._known = model.state_dict(keep_vars=True)
        self._prefix = model.base_model_prefix

    def __call__(self, name: str) -> str | None:
        """
        Raises:
            NotOurs: transformers fuses or splits this weight while loading.
        """
        if name in self._known:
            return name
        renamed, converter = rename_source_key(name, self._renamings, self._converters, self._prefix, self._known)
        if converter is not None:
            raise NotOurs(f"the weight {name}, which transformers converts while loading")
        return str(renamed) if renamed in self._known else None


@dataclass(frozen=True)
class MergePlan:
    """Every tensor of the output with what is done to it. Nothing is written yet."""

    folder: Path  # of the base's weights
    shards: tuple[tuple[str, tuple[Planned, ...]], ...]
    edits: Mapping[str, tuple[Edit, ...]]  # by the output tensor's name: one for each adapter that touches it
    quantized: frozenset[str]  # output tensors that are first brought to 4 bits and back
    onto: Quantization | None
    untied: bool
    adapters: tuple[Adapter, ...]

    @property
    def bytes(self) -> int:
        return sum(tensor.size for _, tensors in self.shards for tensor in tensors)

    def touched(self, tensor: Planned) -> bool:
        """Whether a tensor's bytes are other than the base's."""
        source = tensor.source
        if tensor.name in self.edits or tensor.name in self.quantized:
            return True
        return source is not None and source.dtype != tensor.dtype

    @property
    def dtype(self) -> str:
        """The dtype of most of the output's bytes."""
        sizes: dict[str, int] = defaultdict(int)
        for _, tensors in self.shards:
            for tensor in tensors:
                sizes[tensor.dtype] += tensor.size
        most = max(sizes, key=lambda name: sizes[name])
        return NAMES_OF_DTYPES.get(most, most)


def meta_model(base: BaseModel) -> Any:
    """The base's modules and names without its weights."""
    with torch.device("meta"):
        return getattr(transformers, base.model_class).from_config(
            load_model_config(base), trust_remote_code=base.trust_remote_code
        )


def plan_merge(job: MergeJob) -> MergePlan:
    """Find each adapter tensor its weight, and lay out the output.

    Raises:
        DataError: A file is broken, or a tensor of an adapter finds no weight, or one of another shape.
        NotOurs: Something whose arithmetic is not known here to the bit.
    """
    folder = weights_folder(job.base)
    stored = read_weights(folder)
    adapters = tuple(read_adapter(path) for path in job.adapters)
    model = meta_model(job.base)
    names = ParameterNames(model)
    homes = _homes(stored, names)
    changes = [edits(adapter, model, names) for adapter in adapters]
    touched = {name for one in changes for name in one}
    heads = _heads_to_untie(model, homes, touched)
    tensors = []
    for tensor in stored:
        dtype = SAFETENSORS_DTYPES[job.dtype] if job.dtype and tensor.dtype in FLOATING else tensor.dtype
        tensors.append(Planned(tensor.name, dtype, tensor.shape, tensor))
    disk = {home: tensor.name for tensor in stored if (home := homes[tensor.name]) is not None}
    for head, source in heads.items():
        name = _head_name(head, disk, names)
        twin = next(tensor for tensor in tensors if tensor.name == disk[source])
        tensors.append(Planned(name, twin.dtype, twin.shape, twin.source))
        disk[head] = name
    missing = sorted(touched - disk.keys())
    if missing:
        raise DataError(f"the base has no weight {missing[0]} on the disk", str(folder))
    quantized = _quantizable(model) if job.onto else frozenset()
    return MergePlan(
        folder,
        _shards(job, tensors),
        {disk[name]: tuple(one[name] for one in changes if name in one) for name in touched},
        frozenset(disk[name] for name in quantized if name in disk),
        job.onto,
        bool(heads),
        adapters,
    )


def _homes(stored: Sequence[Stored], names: ParameterNames) -> dict[str, str | None]:
    """Where each of the base's tensors goes in the model.

    Raises:
        DataError: Two go to the same place.
    """
    homes: dict[str, str | None] = {}
    taken: dict[str, str] = {}
    for tensor in stored:
        home = homes[tensor.name] = names(tensor.name)
        if home is not None and taken.setdefault(home, tensor.name) != tensor.name:
            raise DataError(f"{taken[home]} and {tensor.name} are the same weight", str(tensor.file))
    return homes


def _heads_to_untie(model: Any, homes: Mapping[str, str | None], touched: set[str]) -> dict[str, str]:
    """The output layer of a tied pair that an adapter touches, and the embedding that its bytes are.

    An adapter changes the one or the other, so a merged model cannot tie them.
    """
    aliases: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases[id(parameter)].append(name)
    found = {}
    on_disk = set(homes.values())
    for names in aliases.values():
        if len(names) == 1 or not touched.intersection(names):
            continue
        held = [name for name in names if name in on_disk]
        if len(names) != 2 or len(held) != 1:
            raise NotOurs(f"tied weights {', '.join(names)}")
        found[next(name for name in names if name not in held)] = held[0]
    return found


def _head_name(head: str, disk: Mapping[str, str], names: ParameterNames) -> str:
    """The name of the output layer in the base's layout of names."""
    in_hub_layout = any(name.startswith("language_model.") for name in disk.values())
    nested = f"language_model.{head}"
    return nested if in_hub_layout and names(nested) == head else head


def _quantizable(model: nn.Module) -> frozenset[str]:
    """The weights that transformers brings to 4 bits, by its own rule."""
    import bitsandbytes  # noqa: F401 (here and now: two threads that import it at once each find half of it)
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    left_out = get_keys_to_not_convert(model)
    return frozenset(
        f"{name}.weight"
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, left_out)
    )


def _shards(job: MergeJob, tensors: list[Planned]) -> tuple[tuple[str, tuple[Planned, ...]], ...]:
    """Files with their tensors: as in the base, or of at most so many bytes."""
    if job.shard_bytes is not None:
        groups = in_shards(tensors, job.shard_bytes)
        return tuple(zip(shard_names(len(groups)), map(tuple, groups), strict=True))
    by_file: dict[str, list[Planned]] = defaultdict(list)
    for tensor in tensors:
        assert tensor.source is not None
        by_file[tensor.source.file.name].append(tensor)
    return tuple((name, tuple(group)) for name, group in by_file.items())


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

    def _shard(self, file: Path, tensors: Sequence[Planned]) -> list[Future[None]]:
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

    def _runs(self, tensors: Sequence[Planned], starts: Mapping[str, int]) -> list[tuple[int, int, int, int]]:
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

    def _merge(self, target: int, tensor: Planned, to: int) -> None:
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
