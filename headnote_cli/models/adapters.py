"""What an adapter does to each weight of its base, in PEFT's own arithmetic.

The bits equal those of PEFT's default `merge_and_unload` on a base loaded with the same dtype: products and sums in
float32, rounded once. PEFT itself is not imported, because that takes longer than merging.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Conv1D

from headnote_cli.errors import DataError, UnreachableError, UsageError, counted
from headnote_cli.models.weights import ADAPTER_WEIGHTS, PICKLES, Stored, read_header
from headnote_cli.runs.files import read_json
from headnote_cli.runs.folders import ADAPTER_CONFIG

PREFIX = "base_model.model."
TORCH_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
# Keys of an adapter's config that do not affect the merge, or that are read below.
KNOWN = frozenset(
    "alpha_pattern auto_mapping base_model_name_or_path bias corda_config eva_config exclude_modules fan_in_fan_out "
    "inference_mode init_lora_weights layers_pattern layers_to_transform lora_alpha lora_bias lora_dropout "
    "lora_ga_config loftq_config megatron_config megatron_core modules_to_save peft_type peft_version "
    "qalora_group_size r rank_pattern revision runtime_config target_modules task_type use_dora use_rslora".split()
)
# Initialisations that change the base: added to the original base, such an adapter makes another model.
CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class NeedsPeft(Exception):
    """A feature that this module does not reproduce bit for bit, so PEFT itself must merge."""


# A change of a weight: `open` reads the adapter's tensors once and returns a function that changes some rows.
Block = Callable[[torch.Tensor, slice], torch.Tensor]


@dataclass(frozen=True)
class Replaced:
    """`modules_to_save`, trained biases: the saved tensor replaces the base's, in the base's dtype."""

    tensor: Stored

    def open(self) -> Block:
        return lambda block, rows: load_tensor(self.tensor, rows).to(block.dtype)


@dataclass(frozen=True)
class LowRank:
    """W + s·B·A. LoRA, https://arxiv.org/abs/2106.09685; `scaling` is alpha / r, or alpha / √r for rsLoRA."""

    a: Stored  # (r, in)
    b: Stored  # (out, r)
    scaling: float
    transposed: bool = False  # the weight is stored as (in, out)
    rounded: bool = False  # PEFT rounds an embedding's delta before adding it

    def open_delta(self) -> Callable[[slice], torch.Tensor]:
        """A function that returns s·B·A for some rows of the weight."""
        a, b = as_float32(self.a), as_float32(self.b)
        if self.transposed:
            return lambda rows: (b @ a[:, rows]).T.mul_(self.scaling)
        return lambda rows: (b[rows] @ a).mul_(self.scaling)

    def open(self) -> Block:
        delta_of = self.open_delta()

        def add(block: torch.Tensor, rows: slice) -> torch.Tensor:
            delta = delta_of(rows)
            if self.rounded:
                delta = delta.to(block.dtype).float()
            # Same as `block += delta`, which is 14 times slower: with different dtypes torch adds one by one.
            return delta.add_(block.float()).to(block.dtype)

        return add


@dataclass(frozen=True)
class WeightDecomposed:
    """(m / ‖W + s·B·A‖) · (W + s·B·A), one norm per output. DoRA, https://arxiv.org/abs/2402.09353."""

    low_rank: LowRank
    magnitude: Stored  # (out,)

    def open(self) -> Block:
        delta_of, magnitude = self.low_rank.open_delta(), as_float32(self.magnitude)

        def scale(block: torch.Tensor, rows: slice) -> torch.Tensor:
            delta = delta_of(rows)
            if self.low_rank.transposed:  # needs all rows; the norm's bits depend on the memory layout
                factor = (magnitude / torch.linalg.norm(block.T + delta.T, dim=1)).view(1, -1)
                return (factor * (block + delta)).to(block.dtype)
            changed = delta.add_(block.float())
            factor = (magnitude[rows] / torch.linalg.norm(changed, dim=1)).view(-1, 1)
            return changed.mul_(factor).to(block.dtype)

        return scale


@dataclass(frozen=True)
class ScaledBias:
    """`lora_bias`: b + s·b_B."""

    bias: Stored
    scaling: float

    def open(self) -> Block:
        def add(block: torch.Tensor, rows: slice) -> torch.Tensor:
            block += as_float32(self.bias)[rows] * self.scaling
            return block

        return add


WeightChange = Replaced | LowRank | WeightDecomposed | ScaledBias


def needs_all_rows(change: WeightChange) -> bool:
    """Whether a change cannot be made in blocks of rows: DoRA's norms of a transposed weight run over all rows."""
    return isinstance(change, WeightDecomposed) and change.low_rank.transposed


@dataclass(frozen=True)
class Adapter:
    """An adapter folder whose files have been checked."""

    folder: Path
    config: dict[str, Any]
    tensors: tuple[Stored, ...]


def read_adapter(folder: Path) -> Adapter:
    """Read the config and tensors of a LoRA adapter.

    Raises:
        UnreachableError: The weights are missing.
        UsageError: Its weights are a pickle, or its training changed the base.
        DataError: A file is broken, or a tensor has values that are not finite.
        NeedsPeft: It is not LoRA, or has a feature that is not supported here.
    """
    config = read_json(folder / ADAPTER_CONFIG) or {}
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        if any(file.name.startswith("adapter_model") and file.suffix in PICKLES for file in folder.iterdir()):
            hint = "load it once with PEFT where you trust it, and save it again with `save_pretrained`"
            raise UsageError("the adapter is a pickle, which can run code and is not read", str(folder), hint)
        raise UnreachableError(f"the folder holds no {ADAPTER_WEIGHTS}", str(folder))
    _require_known(config, folder)
    tensors = tuple(read_header(weights))
    for tensor in tensors:
        if tensor.dtype not in TORCH_DTYPES:
            raise DataError(f"the tensor {tensor.name} has the dtype {tensor.dtype}", str(weights))
        if not torch.isfinite(load_tensor(tensor)).all():
            raise DataError(f"the tensor {tensor.name} holds numbers that are not finite", str(weights))
    return Adapter(folder, config, tensors)


def _require_known(config: Mapping[str, Any], folder: Path) -> None:
    kind = str(config.get("peft_type", "")).upper()
    if kind != "LORA":
        raise NeedsPeft(f"an adapter of the kind {kind or 'unknown'}")
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(CHANGED_BASE):
        raise UsageError(
            f"the adapter began as {start}, which changes the base: added to the untouched base it is another model",
            str(folder),
            "convert it with PEFT: `save_pretrained(…, path_initial_model_for_weight_conversion=…)`",
        )
    for name, value in config.items():
        if name not in KNOWN and value not in (None, False, [], {}, ""):
            raise NeedsPeft(f"`{name}: {value}` in {ADAPTER_CONFIG}")
    numbers = [config.get("r"), config.get("lora_alpha", 8)]
    for patterns in ("rank_pattern", "alpha_pattern"):
        by_pattern = config.get(patterns) or {}
        numbers += by_pattern.values() if isinstance(by_pattern, dict) else [None]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) and number > 0 for number in numbers):
        raise DataError("r, lora_alpha or their patterns are not positive numbers", str(folder / ADAPTER_CONFIG))


def load_tensor(tensor: Stored, rows: slice | None = None) -> torch.Tensor:
    """A stored tensor, or some of its rows, read into new memory.

    Raises:
        DataError: The file ends before its data.
    """
    shape, start, size = tensor.shape, tensor.start, tensor.size
    if not size:
        return torch.empty(shape, dtype=TORCH_DTYPES[tensor.dtype])
    if rows is not None and shape:
        first, last, _ = rows.indices(shape[0])
        row = size // shape[0]
        start, size, shape = start + first * row, (last - first) * row, (last - first, *shape[1:])
    data = np.fromfile(tensor.file, np.uint8, size, offset=start)
    if data.size < size:
        raise DataError("ends before its last tensor", str(tensor.file))
    return torch.from_numpy(data).view(TORCH_DTYPES[tensor.dtype]).reshape(shape)


def as_float32(tensor: Stored) -> torch.Tensor:
    """An adapter's tensor as PEFT loads it, with 16-bit dtypes converted to float32."""
    loaded = load_tensor(tensor)
    return loaded.float() if loaded.dtype in (torch.float16, torch.bfloat16) else loaded


def changes_of(
    adapter: Adapter, model: nn.Module, rename: Callable[[str], str | None]
) -> dict[str, list[WeightChange]]:
    """An adapter's changes to its base, by parameter name in `model`, in the order of application.

    Args:
        model: The base on the meta device.
        rename: Maps a parameter's name in any layout that transformers loads to its name in `model`, or None.

    Raises:
        DataError: A tensor of the adapter matches no weight, or one of another shape.
        NeedsPeft: A module type is not supported here.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    modules = dict(model.named_modules(remove_duplicate=False))
    parts, replaced, unmatched = _by_module(adapter, rename)
    if unmatched:
        raise _unmatched(adapter, unmatched, shapes)
    changes: dict[str, list[WeightChange]] = {}
    for name, stored in replaced.items():
        _require_shape(stored, shapes[name])
        changes[name] = [Replaced(stored)]
    _require_patterns_used(adapter, parts)
    for module, of_module in parts.items():
        for name, change in _module_changes(adapter, module, modules[module], of_module, shapes):
            changes.setdefault(name, []).append(change)
    return changes


_LORA_KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(?:\.weight)?)"
)


def _by_module(
    adapter: Adapter, rename: Callable[[str], str | None]
) -> tuple[dict[str, dict[str, Stored]], dict[str, Stored], list[str]]:
    """The tensors by module, those that replace a whole parameter, and the names that match nothing."""
    parts: dict[str, dict[str, Stored]] = {}
    replaced: dict[str, Stored] = {}
    unmatched = []
    for tensor in adapter.tensors:
        name = tensor.name.removeprefix(PREFIX)
        match = _LORA_KEY.fullmatch(name)
        if match is None and ".lora_" in name:
            raise NeedsPeft(f"the tensor {tensor.name}")
        parameter = rename(f"{match['module']}.weight" if match else name.replace(".base_layer.", "."))
        if parameter is None:
            unmatched.append(tensor.name)
            continue
        group, key = replaced, parameter
        if match:
            group = parts.setdefault(parameter.removesuffix(".weight"), {})
            key = match["part"].removesuffix(".weight")
        if key in group:
            raise DataError(f"{tensor.name} and {group[key].name} mean the same weight", str(tensor.file))
        group[key] = tensor
    return parts, replaced, unmatched


def _unmatched(adapter: Adapter, names: list[str], shapes: Mapping[str, Any]) -> DataError:
    """An error that lists the names, each with the nearest weights."""
    lines = []
    for name in names[:5]:
        wanted = re.sub(r"\.lora_.*", ".weight", name.removeprefix(PREFIX))
        near = difflib.get_close_matches(wanted, shapes, n=2, cutoff=0.0)
        lines.append(f"  {name} (nearest: {', '.join(near)})")
    more = f"\n  … and {len(names) - 5} more" if len(names) > 5 else ""
    return DataError(
        f"no weight of this base fits {counted(len(names), 'tensor')} of the adapter:\n" + "\n".join(lines) + more,
        str(adapter.folder),
        "was it trained on another base? name that one with `peft_base_model_path`",
    )


def _require_shape(stored: Stored, shape: tuple[int, ...]) -> None:
    if stored.shape == shape:
        return
    resized = len(shape) == 2 and len(stored.shape) == 2 and stored.shape[1] == shape[1]
    raise DataError(
        f"{stored.name} has the shape {stored.shape}, and the base's weight {shape}",
        str(stored.file),
        "the vocabulary was resized in training, which a merge into this base cannot express" if resized else
        "was it trained on another base?",
    )  # fmt: skip


def _module_changes(
    adapter: Adapter,
    module: str,
    layer: nn.Module,
    tensors: Mapping[str, Stored],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[tuple[str, WeightChange]]:
    """LoRA's changes to one module's weight and bias."""
    weight, bias = f"{module}.weight", f"{module}.bias"
    scaling, rank = scaling_of(adapter.config, module)
    embedding = isinstance(layer, nn.Embedding)
    if not isinstance(layer, nn.Linear | nn.Embedding | Conv1D):
        raise NeedsPeft(f"an adapted {type(layer).__name__} ({module})")
    first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    if first not in tensors or second not in tensors:
        raise DataError(f"{module} has one half of an adapter only: {', '.join(tensors)}", str(adapter.folder))
    transposed = embedding or isinstance(layer, Conv1D)
    rows, columns = shapes[weight][::-1] if transposed else shapes[weight]
    _require_shape(tensors[first], (rank, columns))
    _require_shape(tensors[second], (rows, rank))
    low_rank = LowRank(tensors[first], tensors[second], scaling, transposed, rounded=embedding)
    changes: list[tuple[str, WeightChange]] = [(weight, low_rank)]
    if magnitude := tensors.get("lora_magnitude_vector"):
        if embedding:
            raise NeedsPeft(f"DoRA on an embedding ({module})")
        _require_shape(magnitude, (rows,))
        changes = [(weight, WeightDecomposed(low_rank, magnitude))]
    if added := tensors.get("lora_B.bias"):
        if bias not in shapes:
            raise DataError(f"{added.name} belongs to a layer without bias", str(adapter.folder))
        _require_shape(added, shapes[bias])
        changes.append((bias, ScaledBias(added, scaling)))
    return changes


def _require_patterns_used(adapter: Adapter, modules: Iterable[str]) -> None:
    """A pattern that matches no adapted module may be for another naming layout."""
    for patterns in ("rank_pattern", "alpha_pattern"):
        for pattern in adapter.config.get(patterns) or {}:
            try:
                used = any(_fits(pattern, module) for module in modules)
            except re.error as error:
                where = str(adapter.folder / ADAPTER_CONFIG)
                raise DataError(f"`{patterns}`: {pattern} is not a regular expression: {error}", where) from error
            if not used:
                raise NeedsPeft(f"`{patterns}: {pattern}`, which fits no adapted module")


def _fits(pattern: str, module: str) -> bool:
    """PEFT's rule for keys of `rank_pattern` and `alpha_pattern`."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def scaling_of(config: Mapping[str, Any], module: str) -> tuple[float, int]:
    """A module's factor of B·A and its rank, by PEFT's rule for patterns."""

    def of_module(key: str, default: float) -> float:
        patterns: Mapping[str, float] = config.get(key) or {}
        return next((value for pattern, value in patterns.items() if _fits(pattern, module)), default)

    rank, alpha = of_module("rank_pattern", config["r"]), of_module("alpha_pattern", config.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), int(rank)
