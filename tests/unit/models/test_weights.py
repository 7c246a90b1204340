"""Safetensors files as bytes: read as the library reads them, broken ones named."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from headnote_cli.errors import DataError, SldsError, UnreachableError
from headnote_cli.models.weights import (
    INDEX,
    OutputTensor,
    Stored,
    fingerprint,
    in_shards,
    packed,
    read_header,
    read_weights,
)
from tests.conftest import examples


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    dice = np.random.default_rng(0)
    save_file(
        {
            "a": dice.standard_normal((3, 4), dtype=np.float32),
            "b": np.arange(5, dtype=np.int64),
            "c": dice.standard_normal((2, 2)).astype(np.float16),
            "empty": np.zeros((0, 4), np.float32),
        },
        file,
        metadata={"format": "pt"},
    )
    return file


def test_a_header_is_read_as_the_library_reads_it(stored: Path) -> None:
    with safe_open(stored, "np") as reference:
        tensors = read_header(stored)
        assert {tensor.name for tensor in tensors} == set(reference.keys())
        data = stored.read_bytes()
        for tensor in tensors:
            expected = reference.get_tensor(tensor.name)
            assert tensor.shape == expected.shape
            assert data[tensor.start : tensor.start + tensor.size] == expected.tobytes()


SOURCE = Stored("x", "F32", (), Path("x.safetensors"), 0, 4)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
planned = st.lists(st.tuples(st.sampled_from(["F32", "BF16", "F16", "I64", "U8"]), shapes), max_size=8).map(
    lambda parts: [OutputTensor(f"t{i} “ä”", dtype, shape, SOURCE) for i, (dtype, shape) in enumerate(parts)]
)


@given(planned)
@settings(max_examples=100)
def test_a_packed_header_is_one_that_the_library_accepts(
    tmp_path_factory: pytest.TempPathFactory, tensors: Any
) -> None:
    header, starts = packed(tensors)
    file = tmp_path_factory.mktemp("packed") / "x.safetensors"
    file.write_bytes(header + bytes(sum(tensor.size for tensor in tensors)))
    found = {tensor.name: tensor for tensor in read_header(file)}
    for tensor in tensors:
        assert (found[tensor.name].start, found[tensor.name].size) == (starts[tensor.name], tensor.size)
        assert found[tensor.name].shape == tensor.shape
        assert starts[tensor.name] % (8 if tensor.dtype == "I64" else 4 if tensor.dtype == "F32" else 1) == 0


@given(planned, st.integers(1, 200))
def test_shards_keep_the_order_and_the_limit(tensors: Any, limit: int) -> None:
    shards = in_shards(tensors, limit)
    assert [tensor for shard in shards.values() for tensor in shard] == tensors
    assert all(sum(tensor.size for tensor in shard) <= limit or len(shard) == 1 for shard in shards.values())


def _mangled(data: bytes, header: dict[str, Any] | None = None, length: int | None = None) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    text = data[8 : 8 + size] if header is None else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data[8 + size :]


def _header(data: bytes) -> dict[str, Any]:
    size = struct.unpack("<Q", data[:8])[0]
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    return header


@pytest.mark.parametrize("fault", ["cut", "nothing", "huge length", "overlap", "beyond", "odd dtype", "no JSON", "gap"])
def test_a_broken_file_is_named_and_nothing_large_is_allocated(fault: str, stored: Path) -> None:
    data = stored.read_bytes()
    header = _header(data)
    first = header["a"]["data_offsets"]
    match fault:
        case "cut":
            data = data[:-3]
        case "nothing":
            data = b""
        case "huge length":
            data = _mangled(data, length=2**62)
        case "overlap":
            header["c"]["data_offsets"] = header["b"]["data_offsets"]
            data = _mangled(data, header)
        case "beyond":
            header["a"]["data_offsets"] = [first[0], first[1] + 2**40]
            data = _mangled(data, header)
        case "odd dtype":
            header["a"]["dtype"] = "Q7"
            data = _mangled(data, header)
        case "no JSON":
            data = data[:8] + b"{" * (len(data) - 8)
        case "gap":
            data = _mangled(data, header) + b"tail"
    stored.write_bytes(data)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        read_header(stored)


@given(st.binary(max_size=400), st.integers(0, 300), st.binary(max_size=24))
@settings(max_examples=examples(300))
def test_any_bytes_are_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, patch: bytes
) -> None:
    folder = tmp_path_factory.mktemp("noise")
    save_file({"x": np.ones((4, 4), np.float32), "y": np.ones(3, np.float16)}, folder / "good.safetensors")
    good = (folder / "good.safetensors").read_bytes()
    (folder / "patched.safetensors").write_bytes(good[:at] + patch + good[at + len(patch) :])
    (folder / "noise.safetensors").write_bytes(noise)
    for name in ("patched", "noise"):
        told = ""
        try:
            sizes = [tensor.size for tensor in read_header(folder / f"{name}.safetensors")]
        except SldsError as error:
            sizes, told = [], str(error)
        assert all(0 <= size <= len(good) + len(patch) for size in sizes)
        assert not told or name in told


def test_files_and_index_must_agree(tmp_path: Path) -> None:
    save_file({"x": np.ones(2, np.float32)}, tmp_path / "one.safetensors")
    save_file({"y": np.ones(2, np.float32)}, tmp_path / "two.safetensors")

    def index(weight_map: Any) -> None:
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    index({"x": "one.safetensors", "y": "two.safetensors"})
    assert [tensor.name for tensor in read_weights(tmp_path)] == ["x", "y"]
    for wrong in (
        {"x": "one.safetensors", "z": "two.safetensors"},
        {"x": "../one.safetensors"},
        {"x": "three.safetensors"},
        ["x"],
        {"x": 3},
    ):
        index(wrong)
        with pytest.raises(DataError):
            read_weights(tmp_path)


def test_pickled_weights_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UnreachableError) as caught:
        read_weights(tmp_path)
    assert "can run code" in str(caught.value.hint)


def test_a_fingerprint_tells_other_weights_and_no_other_file(stored: Path) -> None:
    before = fingerprint(stored.parent)
    (stored.parent / "README.md").write_text("hello")
    assert fingerprint(stored.parent) == before
    data = bytearray(stored.read_bytes())
    data[-1] ^= 1
    stored.write_bytes(data)
    assert fingerprint(stored.parent) != before
