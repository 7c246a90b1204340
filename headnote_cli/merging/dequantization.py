"""A model whose weights lie on the disk in bitsandbytes' 4 bits → the same model in full, tensor by tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from headnote_cli.errors import DataError
from headnote_cli.models.adapters import TORCH_DTYPES, load_tensor
from headnote_cli.models.weights import SINGLE, OutputTensor, Stored, packed, read_weights

# What stands beside a packed weight (bitsandbytes' `QuantState.as_dict`), the last one with its shape and dtype.
_PARTS = r"absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__(?:nf4|fp4)"
_PART = re.compile(rf"(?P<weight>.+)\.(?P<part>{_PARTS})")
_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def write_dequantized(folder: Path, target: Path) -> None:
    """Write `config.json` and weights of a 4-bit model in full into another folder, in one file.

    Each weight gets the dtype that it had before it was quantized. Memory holds one weight at a time.

    Raises:
        DataError: Parts of a 4-bit weight are missing.
    """
    target.mkdir()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config")
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    stored = read_weights(folder)
    parts = _parts(stored)
    plain = [tensor for tensor in stored if not _PART.fullmatch(tensor.name)]
    planned = [_planned(tensor, parts.get(tensor.name)) for tensor in plain]
    header, starts = packed(planned)
    with (target / SINGLE).open("wb") as stream:
        stream.write(header)
        for tensor in plain:
            full = load_tensor(tensor) if tensor.name not in parts else _dequantized(tensor, parts[tensor.name])
            stream.seek(starts[tensor.name])
            stream.write(full.contiguous().view(torch.uint8).numpy().data if full.numel() else b"")


def _parts(stored: list[Stored]) -> dict[str, dict[str, Stored]]:
    """What stands beside each packed weight, by its name."""
    found: dict[str, dict[str, Stored]] = {}
    for tensor in stored:
        if match := _PART.fullmatch(tensor.name):
            found.setdefault(match["weight"], {})[match["part"]] = tensor
    return found


def _planned(tensor: Stored, parts: Mapping[str, Stored] | None) -> OutputTensor:
    if parts is None:
        return OutputTensor(tensor.name, tensor.dtype, tensor.shape)
    state = next((load_tensor(part) for name, part in parts.items() if name.startswith("quant_state")), None)
    if state is None:
        raise DataError(f"the 4-bit weight {tensor.name} has no quantization state", str(tensor.file))
    noted = json.loads(bytes(state.tolist()))
    return OutputTensor(tensor.name, _NAMES[getattr(torch, noted["dtype"])], tuple(noted["shape"]))


def _dequantized(tensor: Stored, parts: Mapping[str, Stored]) -> torch.Tensor:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    state = QuantState.from_dict({name: load_tensor(part) for name, part in parts.items()}, device=torch.device("cpu"))
    full: torch.Tensor = dequantize_4bit(load_tensor(tensor), state)
    return full
