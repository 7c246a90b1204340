"""What a merge writes: which tensors of the base are copied, which are merged, into which files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import Conv1D
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from headnote_cli.errors import DataError
from headnote_cli.machine.plan import Quantization
from headnote_cli.models.adapters import Adapter, Edit, NotOurs, edits, read_adapter
from headnote_cli.models.base import BaseModel, load_model_config, weights_folder
from headnote_cli.models.weights import (
    OutputTensor,
    Stored,
    in_shards,
    read_weights,
    shard_names,
)

FLOATING = ("F32", "F16", "BF16")
SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
NAMES_OF_DTYPES = {short: name for name, short in SAFETENSORS_DTYPES.items()}


@dataclass(frozen=True)
class MergeJob:
    """What is to be merged into what."""

    base: BaseModel
    adapters: tuple[Path, ...]  # merged one after the other
    dtype: str | None = None  # of the merged weights; None is the base's own
    onto: Quantization | None = None  # None: the base's own weights
    shard_bytes: int | None = None  # None: shards as in the base


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
    shards: tuple[tuple[str, tuple[OutputTensor, ...]], ...]
    edits: Mapping[str, tuple[Edit, ...]]  # by the output tensor's name: one for each adapter that touches it
    quantized: frozenset[str]  # output tensors that are first brought to 4 bits and back
    onto: Quantization | None
    untied: bool
    adapters: tuple[Adapter, ...]

    @property
    def bytes(self) -> int:
        return sum(tensor.size for _, tensors in self.shards for tensor in tensors)

    def touched(self, tensor: OutputTensor) -> bool:
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
        tensors.append(OutputTensor(tensor.name, dtype, tensor.shape, tensor))
    disk = {home: tensor.name for tensor in stored if (home := homes[tensor.name]) is not None}
    for head, source in heads.items():
        name = _head_name(head, disk, names)
        twin = next(tensor for tensor in tensors if tensor.name == disk[source])
        tensors.append(OutputTensor(name, twin.dtype, twin.shape, twin.source))
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


def _shards(job: MergeJob, tensors: list[OutputTensor]) -> tuple[tuple[str, tuple[OutputTensor, ...]], ...]:
    """Files with their tensors: as in the base, or of at most so many bytes."""
    if job.shard_bytes is not None:
        groups = in_shards(tensors, job.shard_bytes)
        return tuple(zip(shard_names(len(groups)), map(tuple, groups), strict=True))
    by_file: dict[str, list[OutputTensor]] = defaultdict(list)
    for tensor in tensors:
        assert tensor.source is not None
        by_file[tensor.source.file.name].append(tensor)
    return tuple((name, tuple(group)) for name, group in by_file.items())
