"""Weights on disk: safetensors files as headers and byte ranges, without torch.

The format: 8 bytes with the header's length, a JSON header with dtype, shape and range of each tensor, then the data
without gaps (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from headnote_cli.errors import DataError, UnreachableError

SINGLE = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"  # PEFT's
INDEX = "model.safetensors.index.json"
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
LENGTH_BYTES = 8
CHUNK = 2**26  # bytes copied between two progress reports
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
SAMPLES, SAMPLE_BYTES = 64, 2**16  # per file, for a fingerprint


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file: `size` bytes from offset `start` in the file."""

    name: str
    dtype: str  # safetensors' name, such as BF16
    shape: tuple[int, ...]
    file: Path
    start: int
    size: int


@dataclass(frozen=True)
class OutputTensor:
    """A tensor to write: a copy of `source`, or computed from it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Stored

    @property
    def size(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def read_header(file: Path) -> list[Stored]:
    """The tensors of a safetensors file in byte order. Their data is not read.

    Raises:
        DataError: It is not a complete safetensors file: truncated, wrong ranges, unknown dtypes.
    """
    stored = []
    try:
        # The library checks the header, the ranges and the file's length.
        with safe_open(str(file), "np") as reader, file.open("rb") as stream:
            start = LENGTH_BYTES + int.from_bytes(stream.read(LENGTH_BYTES), "little")
            for name in reader.offset_keys():
                tensor = reader.get_slice(name)
                dtype, shape = tensor.get_dtype(), tuple(tensor.get_shape())
                if dtype not in DTYPE_BYTES:
                    raise DataError(f"tensor {name} has the dtype {dtype}, which slds does not know", str(file))
                size = math.prod(shape) * DTYPE_BYTES[dtype]
                stored.append(Stored(name, dtype, shape, file, start, size))
                start += size
    except FileNotFoundError as error:
        raise DataError("is missing", str(file)) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"is not a whole safetensors file: {error}", str(file), "fetch or save it again") from error
    return stored


def read_weights(folder: Path) -> list[Stored]:
    """All tensors of a model folder: one file, or several with an index.

    Raises:
        UnreachableError: The folder has no safetensors weights.
        DataError: A file is broken, or the files do not match the index.
    """
    index = folder / INDEX
    if not has_weights(folder):
        raise _no_weights(folder)
    if not index.is_file():
        return read_header(folder / SINGLE)
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({str(name) for name in listed.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"is not an index of weights: {error!r}", str(index)) from error
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise DataError(f"names files outside the folder: {', '.join(outside)}", str(index))
    tensors = [tensor for name in files for tensor in read_header(folder / name)]
    actual = {tensor.name: tensor.file.name for tensor in tensors}
    if len(actual) != len(tensors) or actual != listed:
        differing = sorted(name for name in {*actual, *listed} if actual.get(name) != listed.get(name))
        raise DataError(f"does not agree with its files, first at {differing[:3]}", str(index))
    return tensors


def _no_weights(folder: Path) -> UnreachableError:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    hint = f"it holds: {', '.join(names) or 'nothing'}"
    if any(name.endswith(PICKLES) for name in names):
        hint += "; pickled weights can run code and are not read: save the model with transformers as safetensors"
    return UnreachableError("the folder holds no safetensors weights", str(folder), hint)


def fingerprint(folder: Path) -> str:
    """SHA-256 of each weight file's header, size and 64 samples: distinguishes bases within a second."""
    digest = hashlib.sha256()
    for file in sorted({tensor.file for tensor in read_weights(folder)}):
        size = file.stat().st_size
        digest.update(f"{size}\n".encode())
        with file.open("rb") as stream:
            begin = LENGTH_BYTES + int.from_bytes(stream.read(LENGTH_BYTES), "little")
            stream.seek(0)
            digest.update(stream.read(begin))
            for piece in range(SAMPLES):
                stream.seek(begin + (size - begin) * piece // SAMPLES)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()


def has_weights(folder: Path) -> bool:
    """Whether a folder has safetensors weights of a whole model."""
    return (folder / INDEX).is_file() or (folder / SINGLE).is_file()


def known_sha256(file: Path) -> str | None:
    """The hash in the file's name in the hub's cache, or None."""
    blob = file.resolve()
    return blob.name if blob.parent.name == "blobs" and len(blob.name) == 64 else None


def packed(tensors: Sequence[OutputTensor]) -> tuple[bytes, dict[str, int]]:
    """A safetensors header for tensors, and where in the file each starts.

    Wider dtypes come first, so that every tensor is aligned; else the order is kept.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    starts, position = {}, 0
    for tensor in sorted(tensors, key=lambda tensor: -DTYPE_BYTES[tensor.dtype]):
        end = position + tensor.size
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        starts[tensor.name], position = position, end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    begin = LENGTH_BYTES + len(text)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, {name: begin + at for name, at in starts.items()}


def in_shards(tensors: Iterable[OutputTensor], limit: int) -> dict[str, list[OutputTensor]]:
    """Tensors in order, by transformers' shard names; at most `limit` bytes each, unless one tensor is larger."""
    groups: list[list[OutputTensor]] = []
    room = 0
    for tensor in tensors:
        if not groups or tensor.size > room:
            groups.append([])
            room = limit
        groups[-1].append(tensor)
        room -= tensor.size
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups, 1)}


def copy_range(source: int, target: int, start: int, size: int, to: int, copied: Callable[[int], None]) -> None:
    """Copy bytes between two open files inside the kernel, which may share the blocks instead.

    Args:
        source, target: File descriptors.
        copied: Called with the size of each piece, in bytes.
    """
    while size:
        try:
            done = os.copy_file_range(source, target, min(size, CHUNK), start, to)
        except OSError:  # not supported between these file systems
            done = os.pwrite(target, os.pread(source, min(size, CHUNK), start), to)
        if not done:
            raise OSError(errno.EIO, "the file ends before its last tensor")
        start, to, size = start + done, to + done, size - done
        copied(done)
