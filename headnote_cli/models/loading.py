"""Load base models, quantized and with adapters as planned, and count their weights."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK, FLASH_ATTN_KERNEL_VERSIONS
from transformers.utils.logging import disable_progress_bar
from trl import ModelConfig, get_peft_config, get_quantization_config

from headnote_cli.config.keys import Settings
from headnote_cli.errors import ConfigError, UnreachableError
from headnote_cli.machine.detect import Gpu, Machine, detect
from headnote_cli.machine.plan import Plan, Quantization
from headnote_cli.machine.processes import own_gpu
from headnote_cli.models.base import BaseModel, eos_ids, reaching, stored_quantization_of
from headnote_cli.models.fit import VISION_MODULES, keeps_off_vision
from headnote_cli.upstream import keep_differentiable

if not os.environ.get("SLDS_DEBUG"):
    disable_progress_bar()


def this_machine() -> Machine:
    """The machine as torch sees it, which depends on `CUDA_VISIBLE_DEVICES` and torch's build.

    Memory in use is read only on this process's own GPU: reading it takes a CUDA context, half a gigabyte.
    """
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        used = 0
        if index == own_gpu(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            used = total - free
        gpus.append(Gpu(properties.name, (properties.major, properties.minor), properties.total_memory, used))
    return dataclasses.replace(detect(), gpus=tuple(gpus))


@contextmanager
def main_process_first(plan: Plan) -> Iterator[bool]:
    """Run the first of several processes alone, then the others; yields whether this is the first."""
    state = PartialState(cpu=plan.device == "cpu")
    with state.main_process_first():
        yield state.is_main_process


def load_model(
    base: BaseModel,
    dtype: torch.dtype,
    device: torch.device,
    attention: str | None = None,
    quantization: BitsAndBytesConfig | None = None,
) -> PreTrainedModel:
    """Load the weights with an explicit dtype on an explicit device.

    Without a device map, transformers puts quantized weights on the first visible GPU, whatever was planned.

    Args:
        quantization: Applied while loading; None keeps the weights as stored. Ignored if they are stored quantized.
    """
    loader = getattr(transformers, base.model_class)
    options: dict[str, Any] = {"attn_implementation": attention} if attention is not None else {}
    is_stored_quantized = stored_quantization_of(base) is not None
    if quantization is not None and not is_stored_quantized:
        options["quantization_config"] = quantization
    if quantization is not None or is_stored_quantized:
        options["device_map"] = {"": device}
    with reaching("model", base.name), _naming_the_kernel():
        model: PreTrainedModel = loader.from_pretrained(base.name, dtype=dtype, **base.options(), **options)
    if "device_map" not in options:
        model.to(device)
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":  # quantized weights keep the dtype they were saved with
            module.compute_dtype = dtype
    return model


FLASH_KERNEL = FLASH_ATTN_KERNEL_FALLBACK["flash_attention_2"]  # the prebuilt kernel's name on the hub
FETCH_KERNEL = f"hf download --repo-type kernel --revision v{FLASH_ATTN_KERNEL_VERSIONS[FLASH_KERNEL]} {FLASH_KERNEL}"


@contextmanager
def _naming_the_kernel() -> Iterator[None]:
    """Say what to do if the prebuilt FlashAttention-2 is neither cached nor available on the hub."""
    try:
        yield
    except (ImportError, ValueError, OSError) as error:
        if FLASH_KERNEL not in str(error):
            raise
        raise UnreachableError(
            f"the FlashAttention-2 kernel cannot be fetched: {str(error).strip().splitlines()[0]}",
            FLASH_KERNEL,
            "`attn_implementation: sdpa` goes on without it; for a machine without network, fill the hub's cache where "
            f"there is one: `{FETCH_KERNEL}`",
        ) from error


def load_for_training(base: BaseModel, settings: Settings, plan: Plan) -> PreTrainedModel:
    """The base model as planned, quantized if the plan says so.

    Raises:
        ConfigError: Quantization was asked for, but no layer was quantized.
    """
    how = get_quantization_config(_model_arguments(settings, plan)) if plan.quantization is not None else None
    device = own_device(plan) if plan.quantization is not None else torch.device("cpu")  # the Trainer moves others
    model = load_model(base, torch_dtype(plan.dtype), device, plan.attention, how)
    asked = settings.load_in_4bit or settings.load_in_8bit or plan.quantization is not None
    if asked and not quantized_layers(model):
        raise ConfigError("quantization was asked for, and after loading no layer is quantized", base.name)
    keep_differentiable(model)
    return model


def own_device(plan: Plan) -> torch.device:
    """This process's device."""
    if plan.device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", own_gpu(torch.cuda.device_count()))


def stop_ids(model: Any, turn_end: int) -> list[int]:
    """The tokens that end a headnote: the end of the assistant's turn, and the model's own end-of-text tokens."""
    return sorted({turn_end, *eos_ids(model.generation_config.eos_token_id)})


def four_bits(how: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """The 4-bit form that a run loaded its model in, computing in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=how.kind,
        bnb_4bit_use_double_quant=how.nested,
        bnb_4bit_compute_dtype=dtype,
    )


def quantized_layers(model: torch.nn.Module) -> list[str]:
    """Names of the 4-bit and 8-bit linear layers."""
    kinds = ("Linear4bit", "Linear8bitLt")  # of bitsandbytes, which is imported only where needed
    return [name for name, module in model.named_modules() if type(module).__name__ in kinds]


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of all parameters, and of the quantization tables of 4-bit ones."""
    total = 0
    for parameter in model.parameters():
        total += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        tables = state.as_dict(packed=True).values() if state is not None else ()
        total += sum(table.nbytes for table in tables if torch.is_tensor(table))
    return total


def unquantized_bytes(model: torch.nn.Module, dtype: torch.dtype) -> int:
    """Bytes that the weights would need if the 4-bit and 8-bit ones were in `dtype`."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        packed = state is not None or parameter.dtype == torch.int8
        count = state.shape.numel() if state is not None else parameter.numel()
        total += count * (dtype.itemsize if packed else parameter.element_size())
    return total


def _model_arguments(settings: Settings, plan: Plan) -> ModelConfig:
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    values = {name: getattr(settings, name) for name in names}
    return ModelConfig(**(values | {"dtype": plan.dtype}))


def lora_config(settings: Settings, plan: Plan) -> LoraConfig | None:
    """TRL's LoRA settings; the vision tower is excluded unless a target names it."""
    lora = get_peft_config(_model_arguments(settings, plan))
    if lora is None:
        return None
    targets = lora.target_modules
    if isinstance(settings.lora_target_modules, list) and settings.lora_target_modules != ["all-linear"]:
        lora.target_modules = set(settings.lora_target_modules)  # TRL turns a single name into a regex for whole paths
    if keeps_off_vision(settings.model_class, targets):
        lora.exclude_modules = VISION_MODULES
    return lora


def require_targets(model: torch.nn.Module, lora: LoraConfig) -> None:
    """Check that every name in the LoRA settings matches, by PEFT's rule; PEFT requires only one match.

    Raises:
        ConfigError: Some match nothing; the message lists the nearest names.
    """
    modules = dict(model.named_modules())
    linear = {name.rpartition(".")[2] for name, module in modules.items() if isinstance(module, torch.nn.Linear)}
    parameters = [name for name, _ in model.named_parameters()]
    faults = [
        *_unknown("lora_target_modules", _missing_targets(lora, list(modules)), linear),
        *_unknown("lora_target_parameters", _missing(lora.target_parameters, parameters), parameters),
        *_unknown("lora_modules_to_save", _missing(lora.modules_to_save, list(modules)), linear),
    ]
    if faults:
        hint = "a list names the ends of layers' names, a string is a regular expression for the whole name"
        raise ConfigError("; ".join(faults), hint=hint)


def _missing_targets(lora: LoraConfig, modules: list[str]) -> list[str]:
    wanted, missing = lora.target_modules, []
    if isinstance(wanted, str) and wanted.lower() == "all-linear":
        return []
    for target in [wanted] if isinstance(wanted, str) else sorted(wanted or ()):
        alone = copy.copy(lora)
        alone.target_modules = wanted if isinstance(wanted, str) else {target}
        if not any(check_target_module_exists(alone, name) for name in modules):
            missing.append(target)
    return missing


def _missing(wanted: list[str] | None, names: list[str]) -> list[str]:
    return [end for end in wanted or () if not any(name == end or name.endswith(f".{end}") for name in names)]


def _unknown(key: str, missing: list[str], known: Iterable[str]) -> Iterator[str]:
    """A message for each name that matches nothing."""
    for name in missing:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)[:12]
        yield f"`{key}`: the model has no {name}; nearest: {', '.join(near)}"


def torch_dtype(name: str) -> torch.dtype:
    """`"bfloat16"` → `torch.bfloat16`."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def with_adapter(model: torch.nn.Module, adapter: Path, is_trainable: bool = False) -> PeftModel:
    """The base model with an adapter, loaded with PEFT's defaults."""
    with reaching("adapter", str(adapter)):
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=is_trainable)
