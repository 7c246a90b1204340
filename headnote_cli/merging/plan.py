"""What a merge writes: which base tensors are copied, which are merged, and into which files."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from headnote_cli.models.adapters import NeedsPeft, WeightChange, changes_of, read_adapter
from headnote_cli.models.base import BaseModel, load_model_config, weights_folder
from headnote_cli.models.weights import OutputTensor, Stored, in_shards, read_weights

SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
NAMES_OF_DTYPES = {short: name for name, short in SAFETENSORS_DTYPES.items()}  # floating-point dtypes only
Rename = Callable[[str], str | None]


@dataclass(frozen=True)
class MergeJob:
    """What to merge, and how."""

    base: BaseModel
    adapters: tuple[Path, ...]  # merged in this order
    dtype: str | None = None  # of the merged weights; None: the base's own
    onto: Quantization | None = None  # None: the base's own weights
    shard_bytes: int | None = None  # None: shards as in the base
    trained: Quantization | None = None  # 4-bit form of the base in training, if any


def renaming(model: Any) -> Rename:
    """Map a weight's name in any layout that transformers loads to its name in `model`, by transformers' tables.

    The function raises `NeedsPeft` for a weight that transformers fuses or splits while loading.
    """
    transforms = get_model_conversion_mapping(model)
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    known = model.state_dict(keep_vars=True)

    def rename(name: str) -> str | None:
        if name in known:
            return name
        renamed, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
        if converter is not None:
            raise NeedsPeft(f"the weight {name}, which transformers converts while loading")
        return str(renamed) if renamed in known else None

    return rename


@dataclass(frozen=True)
class MergePlan:
    """Every tensor of the output and how it is made. Nothing is written yet."""

    folder: Path  # of the base's weights
    shards: Mapping[str, Sequence[OutputTensor]]  # by file name
    changes: Mapping[str, Sequence[WeightChange]]  # by output tensor, in the order of the adapters
    quantized: frozenset[str]  # output tensors quantized to 4 bits and back first
    onto: Quantization | None
    untied: bool

    def tensors(self) -> Iterator[OutputTensor]:
        return itertools.chain.from_iterable(self.shards.values())

    @property
    def bytes(self) -> int:
        return sum(tensor.size for tensor in self.tensors())

    def touched(self, tensor: OutputTensor) -> bool:
        """Whether a tensor's bytes differ from the base's."""
        return tensor.name in self.changes or tensor.name in self.quantized or tensor.source.dtype != tensor.dtype

    @property
    def dtype(self) -> str:
        """The dtype of most of the output's bytes."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors():
            sizes[tensor.dtype] += tensor.size
        most = max(sizes, key=sizes.__getitem__)
        return NAMES_OF_DTYPES.get(most, most)


def meta_model(base: BaseModel) -> Any:
    """The base's modules and names, without weights."""
    with torch.device("meta"):
        return getattr(transformers, base.model_class).from_config(
            load_model_config(base), trust_remote_code=base.trust_remote_code
        )


def plan_merge(job: MergeJob) -> MergePlan:
    """Match the adapters' tensors with the base's weights, and lay out the output.

    Raises:
        DataError: A file is broken, or an adapter's tensor matches no weight or one of another shape.
        NeedsPeft: Only PEFT itself can merge this.
    """
    folder = weights_folder(job.base)
    stored = read_weights(folder)
    adapters = [read_adapter(path) for path in job.adapters]
    model = meta_model(job.base)
    rename = renaming(model)
    on_disk = _on_disk(stored, rename)
    changes: dict[str, list[WeightChange]] = defaultdict(list)
    for adapter in adapters:
        for parameter, its_changes in changes_of(adapter, model, rename).items():
            changes[parameter] += its_changes
    heads = _heads_to_untie(model, on_disk, changes)
    tensors = {}
    for tensor in stored:
        dtype = SAFETENSORS_DTYPES[job.dtype] if job.dtype and tensor.dtype in NAMES_OF_DTYPES else tensor.dtype
        tensors[tensor.name] = OutputTensor(tensor.name, dtype, tensor.shape, tensor)
    for head, embedding in heads.items():
        name = _head_name(head, on_disk, rename)
        tensors[name] = replace(tensors[on_disk[embedding]], name=name)
        on_disk[head] = name
    missing = sorted(changes.keys() - on_disk.keys())
    if missing:
        raise DataError(f"the base has no weight {missing[0]} on the disk", str(folder))
    quantized = _quantizable(model) if job.onto else frozenset()
    return MergePlan(
        folder,
        _shards(job, list(tensors.values())),
        {on_disk[parameter]: its_changes for parameter, its_changes in changes.items()},
        frozenset(on_disk[name] for name in quantized if name in on_disk),
        job.onto,
        bool(heads),
    )


def _on_disk(stored: Sequence[Stored], rename: Rename) -> dict[str, str]:
    """Names on disk by the model's parameter names; tensors that the model lacks are left out."""
    names: dict[str, str] = {}
    for tensor in stored:
        parameter = rename(tensor.name)
        if parameter is not None and names.setdefault(parameter, tensor.name) != tensor.name:
            raise DataError(f"{names[parameter]} and {tensor.name} are the same weight", str(tensor.file))
    return names


def _heads_to_untie(model: Any, on_disk: Collection[str], touched: Collection[str]) -> dict[str, str]:
    """Tied output layers to untie → the embedding whose bytes they share.

    An adapter changes only one of the two, so the merged model cannot tie them.
    """
    aliases: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases[id(parameter)].append(name)
    heads = {}
    for names in aliases.values():
        if len(names) == 1 or not any(name in touched for name in names):
            continue
        stored = [name for name in names if name in on_disk]
        if len(names) != 2 or len(stored) != 1:
            raise NeedsPeft(f"tied weights {', '.join(names)}")
        [head] = set(names) - set(stored)
        heads[head] = stored[0]
    return heads


def _head_name(head: str, on_disk: Mapping[str, str], rename: Rename) -> str:
    """The output layer's name in the base's naming layout."""
    in_hub_layout = any(name.startswith("language_model.") for name in on_disk.values())
    nested = f"language_model.{head}"
    return nested if in_hub_layout and rename(nested) == head else head


def _quantizable(model: nn.Module) -> frozenset[str]:
    """The weights that transformers would quantize to 4 bits, by its own rule."""
    import bitsandbytes  # noqa: F401 (early: when two threads import it at once, each gets half of it)
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    left_out = get_keys_to_not_convert(model)
    return frozenset(
        f"{name}.weight"
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, left_out)
    )


def _shards(job: MergeJob, tensors: list[OutputTensor]) -> dict[str, list[OutputTensor]]:
    """The output files with their tensors: as in the base, or of at most `shard_bytes` each."""
    if job.shard_bytes is not None:
        return in_shards(tensors, job.shard_bytes)
    by_file: dict[str, list[OutputTensor]] = defaultdict(list)
    for tensor in tensors:
        by_file[tensor.source.file.name].append(tensor)
    return by_file
