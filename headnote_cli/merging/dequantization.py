"""Dequantize a model stored in bitsandbytes' 4 bits, tensor by tensor."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit

from headnote_cli.errors import DataError
from headnote_cli.models.adapters import TORCH_DTYPES, load_tensor
from headnote_cli.models.weights import SINGLE, OutputTensor, Stored, packed, read_weights
from headnote_cli.runs.files import read_json, write_json

# The tensors beside a packed weight (bitsandbytes' `QuantState.as_dict`); the last has its shape and dtype.
_PARTS = r"absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__(?:nf4|fp4)"
_PART = re.compile(rf"(?P<weight>.+)\.(?P<part>{_PARTS})")
_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
Parts = dict[str, Stored]  # parts of one weight, by name


def write_dequantized(folder: Path, target: Path) -> None:
    """Write the `config.json` and dequantized weights of a 4-bit model into another folder, as one file.

    Each weight gets the dtype from before quantization. Memory holds one weight at a time.

    Raises:
        DataError: Parts of a 4-bit weight are missing.
    """
    target.mkdir()
    config = read_json(folder / "config.json") or {}
    write_json(target / "config.json", {key: value for key, value in config.items() if key != "quantization_config"})
    weights: list[Stored] = []
    parts: dict[str, Parts] = {}  # by the weight's name
    for tensor in read_weights(folder):
        if match := _PART.fullmatch(tensor.name):
            parts.setdefault(match["weight"], {})[match["part"]] = tensor
        else:
            weights.append(tensor)
    header, starts = packed([_planned(tensor, parts.get(tensor.name)) for tensor in weights])
    with (target / SINGLE).open("wb") as stream:
        stream.write(header)
        for tensor in weights:
            full = load_tensor(tensor)
            if tensor.name in parts:
                full = dequantize_4bit(full, _state(tensor, parts[tensor.name]))
            stream.seek(starts[tensor.name])
            stream.write(full.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _planned(tensor: Stored, parts: Parts | None) -> OutputTensor:
    if parts is None:
        return OutputTensor(tensor.name, tensor.dtype, tensor.shape, tensor)
    state = _state(tensor, parts)
    return OutputTensor(tensor.name, _NAMES[state.dtype], tuple(state.shape), tensor)


def _state(tensor: Stored, parts: Parts) -> QuantState:
    if not any(name.startswith("quant_state") for name in parts):
        raise DataError(f"the 4-bit weight {tensor.name} has no quantization state", str(tensor.file))
    return QuantState.from_dict({name: load_tensor(part) for name, part in parts.items()}, device=torch.device("cpu"))
