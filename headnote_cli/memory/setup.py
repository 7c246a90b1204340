"""The settings of a config that determine memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from headnote_cli.config.keys import Settings
from headnote_cli.errors import ConfigError
from headnote_cli.memory.forms import StepKind
from headnote_cli.memory.optimizers import OPTIMIZERS
from headnote_cli.memory.parallel import DIVIDED, sharding_of
from headnote_cli.memory.shapes import SLIDING, Shapes
from headnote_cli.models.fit import VISION_MODULES, keeps_off_vision

# Labelled tokens of a row if unknown: the longest of 273 real headnotes has 727 with Gemma's tokenizer.
HEADNOTE = 768
DEFAULT_LENGTH = 8192  # used if the config sets no `max_length`
SIXTEEN_BIT = ("bfloat16", "float16")
EMBEDDINGS = ("embed_tokens", "lm_head")
ALL_LINEAR = "all-linear"
KNOWN_ATTENTION = ("sdpa", "eager", "flash_attention_2", "kernels-community/flash-attn2")


@dataclass(frozen=True)
class Setup:
    """One training step, as far as memory is concerned.

    Attributes:
        loss: `fused` (TRL ≥ 1.16: tiles of labelled positions), `full` (all logits), `liger` (Liger's fused
            cross-entropy, in chunks of all positions) or `labelled` (slds on a CPU: logits of labelled positions).
        labels: Labelled tokens of a row.
        targets: Of LoRA, as PEFT reads them: a string is `all-linear` or must match a module's whole name; in a tuple,
            each is a suffix.
        vision_adapted: Whether targets may be in the vision tower.
        saved_modules: PEFT's `modules_to_save`: trained copies beside the frozen modules.
        quantization: `none`, `nf4`, `nf4 double` or `int8`.
        upcast: Unquantized weights are kept in float32, as PEFT's `prepare_model_for_kbit_training` does.
        gradients_stay: Gradient accumulation: gradients of earlier batches stay during the next one.
        sharding: `none`, or how `devices` share a step (see `parallel`).
        offloaded: Activations are kept in main memory until their backward.
        unknown: Settings whose memory is unknown; then the total is a lower bound.
    """

    kind: StepKind
    loss: str
    batch: int
    length: int
    labels: int
    optim: str = "adamw_torch_fused"
    rank: int = 0
    targets: str | tuple[str, ...] = ALL_LINEAR
    vision_adapted: bool = False
    saved_modules: tuple[str, ...] = ()
    quantization: str = "none"
    upcast: bool = False
    gradients_stay: bool = False
    evaluation_batch: int = 0
    devices: int = 1
    sharding: str = "none"
    offloaded: bool = False
    on_gpu: bool = True
    unknown: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Bytes of an unquantized weight; if all weights are sharded, the shards are the float32 masters."""
        masters = self.sharding == "full" and self.keeps_masters
        return 4 if self.kind.dtype == "float32" or masters else 2

    @property
    def keeps_masters(self) -> bool:
        """Whether float32 masters are kept: in sharded full fine-tuning in mixed precision (accelerate's
        `upcast_low_precision_parameters` for FSDP, DeepSpeed's master weights)."""
        sharded = self.sharding in ("full", "gradients", "states")
        return sharded and self.kind.amp and self.kind.method == "full"

    @property
    def unknown_weights(self) -> tuple[str, ...]:
        """What is unknown about the model itself, for any purpose."""
        return tuple(part for part in self.unknown if part.startswith("the weights of "))

    def share(self, part: str) -> int:
        """The number of devices that a part is divided among."""
        return self.devices if part in DIVIDED[self.sharding] else 1

    @property
    def adapter_width(self) -> int:
        return 4 if self.kind.adapters.startswith("float32") else 2

    @property
    def trained_width(self) -> int:
        """Bytes of a trained weight, and of its gradient."""
        return self.width if self.kind.method == "full" else self.adapter_width


def setup_of(
    settings: Settings,
    shapes: Shapes,
    stack: str = "slds",
    devices: int = 1,
    sharding: str | None = None,
    labels: int | None = None,
) -> Setup:
    """The setup of a config on a GPU, or on the CPU with `use_cpu`.

    Args:
        stack: Which code trains: `slds`; `trl`, plain TRL ≥ 1.16; or `workshop`, the recipe with TRL 0.24, where
            `load_in_4bit` has no effect, the vision tower is adapted, too, and only Liger avoids the full logits.
        sharding: How `devices` share a step, by the launcher; None: by the config.
        labels: Labelled tokens of a row, if known.

    Raises:
        ConfigError: Settings conflict on any machine, or targets match no module.
    """
    _refuse_impossible(settings)
    on_gpu = not settings.use_cpu
    quantization = "none" if stack == "workshop" else _quantization(settings)
    if shapes.quantized is not None:  # for every stack
        quantization = "nf4 double" if shapes.quantized.nested else "nf4"
    dtype = load_dtype(settings) if on_gpu else "float32"
    amp = (on_gpu and settings.bf16 is not False) or settings.fp16
    batch, length = settings.per_device_train_batch_size, settings.max_length or DEFAULT_LENGTH
    method = "full" if not settings.use_peft else "lora" if quantization == "none" else "qlora"
    targets = _targets(settings)
    # slds excludes the vision tower unless a target names it; plain TRL does not.
    off_vision = stack == "slds" and keeps_off_vision(settings.model_class, settings.lora_target_modules)
    vision = settings.use_peft and not off_vision
    adapted = adapted_ends(shapes, targets, vision) if settings.use_peft else frozenset()
    kind = StepKind(
        method=method,
        dtype="float32" if dtype == "float32" else "bfloat16",
        amp=amp,
        adapters=_adapters(stack, quantization, dtype),
        attention=_attention(settings, shapes, stack, batch, length),
        checkpointing=checkpoints_activations(settings),
        dropout=settings.use_peft and settings.lora_dropout > 0,
        liger=settings.use_liger_kernel and on_gpu,
        targets=_target_class(adapted) if settings.use_peft else "all",
    )
    return Setup(
        kind=kind,
        loss=_loss(settings, stack, on_gpu),
        batch=batch,
        length=length,
        labels=min(labels or HEADNOTE, length - 1),
        optim=settings.optim,
        rank=settings.lora_r if settings.use_peft else 0,
        targets=targets,
        saved_modules=_saved_modules(settings),
        vision_adapted=vision,
        quantization=quantization,
        gradients_stay=settings.gradient_accumulation_steps > 1,
        evaluation_batch=_evaluation_batch(settings, stack) if settings.eval_strategy != "no" else 0,
        devices=devices,
        sharding=(sharding or sharding_of(settings)) if devices > 1 else "none",
        offloaded=settings.activation_offloading,
        on_gpu=on_gpu,
        unknown=(*shapes.unknown, *_unknown(settings, stack, adapted)),
    )


@lru_cache(maxsize=64)
def adapted_modules(
    shapes: Shapes, targets: str | tuple[str, ...], vision: bool = False
) -> tuple[tuple[str, int, int], ...]:
    """Name, input and output width of the linear layers that get an adapter, matched as in PEFT
    (peft/tuners/tuners_utils.py, `check_target_module_exists`); the output layer only if it is named.

    Raises:
        ConfigError: No layer matches, or the targets are not a regular expression.
    """
    names = [module for module in shapes.module_names() if vision or not re.fullmatch(VISION_MODULES, module[0])]
    embeddings = [
        ("model.embed_tokens", shapes.vocabulary, shapes.hidden),
        ("lm_head", shapes.hidden, shapes.vocabulary),
    ]
    if targets == ALL_LINEAR:
        return tuple(names)
    try:
        adapted = tuple(module for module in (*names, *embeddings) if _matches(targets, module[0]))
    except re.error as error:
        raise ConfigError(f"`lora_target_modules: {targets}` is not a regular expression: {error}") from error
    if not adapted:
        ends = dict.fromkeys(name.rsplit(".", 1)[-1] for name, _, _ in (*names, *embeddings))
        asked = targets if isinstance(targets, str) else ", ".join(targets)
        raise ConfigError(
            f"`lora_target_modules: {asked}` matches no module of {shapes.name}",
            hint=f"write `all-linear`, a list of {', '.join(ends)}, or a regular expression for whole names such as "
            f"{names[0][0]} (TRL reads a list of one as such an expression)",
        )
    return adapted


@lru_cache(maxsize=64)
def adapted_ends(shapes: Shapes, targets: str | tuple[str, ...], vision: bool) -> frozenset[str]:
    """The last name parts of `adapted_modules`: `q_proj` and so on."""
    return frozenset(name.rsplit(".", 1)[-1] for name, _, _ in adapted_modules(shapes, targets, vision))


def _matches(targets: str | tuple[str, ...], name: str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _evaluation_batch(settings: Settings, stack: str) -> int:
    """Unless the config says otherwise, slds evaluates with the training batch size, TRL with eight rows."""
    given = stack != "slds" or "per_device_eval_batch_size" in settings.model_fields_set
    return settings.per_device_eval_batch_size if given else settings.per_device_train_batch_size


def _refuse_impossible(settings: Settings) -> None:
    problems = []
    if (settings.load_in_4bit or settings.load_in_8bit) and not settings.use_peft:
        bits = "4" if settings.load_in_4bit else "8"
        problems.append(f"`load_in_{bits}bit` without `use_peft`: quantized weights cannot be trained themselves")
    flash = settings.attn_implementation == "flash_attention_2"
    if flash and settings.use_cpu:
        problems.append("`attn_implementation: flash_attention_2` with `use_cpu`: it needs a CUDA GPU")
    elif flash and load_dtype(settings) == "float32" and settings.bf16 is False and not settings.fp16:
        problems.append("`attn_implementation: flash_attention_2` in float32: it takes 16-bit tensors only")
    if settings.use_liger_kernel and settings.use_cpu:
        problems.append("`use_liger_kernel` with `use_cpu`: Liger's kernels need a CUDA GPU")
    if problems:
        raise ConfigError("; ".join(problems), hint="change one of the two")


def checkpoints_activations(settings: Settings) -> bool:
    """The value of `activation_checkpointing`, or of its older name."""
    newer = settings.activation_checkpointing
    return bool(settings.gradient_checkpointing if newer is None else newer)


def load_dtype(settings: Settings) -> str:
    """The dtype of the loaded weights on a GPU that supports it."""
    if "dtype" in settings.model_fields_set and settings.dtype in (*SIXTEEN_BIT, "float32"):
        return str(settings.dtype)
    return "float16" if settings.fp16 else "float32" if settings.bf16 is False else "bfloat16"


def _quantization(settings: Settings) -> str:
    if settings.load_in_4bit:
        return "nf4 double" if settings.use_bnb_nested_quant else "nf4"
    return "int8" if settings.load_in_8bit else "none"


def _adapters(stack: str, quantization: str, dtype: str) -> str:
    """slds keeps adapters in float32 without casting inputs; TRL's are bfloat16 on a quantized base."""
    if stack == "slds" or dtype == "float32":
        return "float32"
    return "float32 cast" if quantization == "none" else "bfloat16"


def _attention(settings: Settings, shapes: Shapes, stack: str, batch: int, length: int) -> str:
    """The attention that is really computed. SDPA gets a mask if a layer has a sliding window and, except in slds, if
    rows are padded. transformers' Gemma 2 has no SDPA, because its scores are capped."""
    asked = settings.attn_implementation or "sdpa"
    if asked.startswith(("flash_attention", "kernels-community/")):
        return "flash_attention_2"
    if asked == "eager" or shapes.model_type == "gemma2":
        return "eager"
    masked = (batch > 1 and stack != "slds") or (shapes.model_type in SLIDING and length > (shapes.window or 0))
    return "sdpa" if masked else "sdpa_causal"


def _targets(settings: Settings) -> str | tuple[str, ...]:
    """TRL reads a list of one as a string (`ModelConfig.__post_init__`), a pattern for whole names."""
    asked = settings.lora_target_modules or ALL_LINEAR
    if isinstance(asked, list) and len(asked) == 1:
        asked = asked[0]
    if isinstance(asked, str):
        return ALL_LINEAR if asked.lower() == ALL_LINEAR else asked
    return tuple(asked)


def _saved_modules(settings: Settings) -> tuple[str, ...]:
    names = settings.lora_modules_to_save or [] if settings.use_peft else []
    return tuple(name.rsplit(".", 1)[-1] for name in ([names] if isinstance(names, str) else names))


def _target_class(names: frozenset[str]) -> str:
    """The counted target class that needs at least as much as these targets."""
    if names <= {"q_proj", "v_proj"}:
        return "qv"
    return "attention" if names <= {"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj"} else "all"


def _loss(settings: Settings, stack: str, on_gpu: bool) -> str:
    """In TRL 1.16, `dft` weights each token's fused loss and needs no more memory; on a CPU, TRL then computes it."""
    if settings.label_smoothing_factor:
        return "full"
    if stack == "workshop":
        return "liger" if settings.use_liger_kernel else "full"
    return "fused" if on_gpu or settings.loss_type == "dft" else "labelled"


def _unknown(settings: Settings, stack: str, adapted: frozenset[str]) -> tuple[str, ...]:
    """Settings that no term counts."""
    attention = settings.attn_implementation
    named = {
        f"the states of `optim: {settings.optim}`": settings.optim not in OPTIMIZERS,
        f"`attn_implementation: {attention}`": attention is not None and attention not in KNOWN_ATTENTION,
        "`torch_compile`": settings.torch_compile,
        "`packing`": settings.packing,
        "`padding_free`": settings.padding_free,
        "`activation_offloading`": settings.activation_offloading,
        "`neftune_noise_alpha`": bool(settings.neftune_noise_alpha),
        f"`loss_type: {settings.loss_type}`": stack == "workshop" and settings.loss_type != "nll",
        "`lora_target_parameters`": bool(settings.lora_target_parameters),
        "DoRA's norms": settings.use_dora,
        "DeepSpeed's buckets": bool(settings.deepspeed),
    }
    saved = [f"`lora_modules_to_save: {name}`" for name in _saved_modules(settings) if name not in EMBEDDINGS]
    adapters = [f"what the adapter of {name} holds" for name in EMBEDDINGS if name in adapted]
    return (*(name for name, holds in named.items() if holds), *saved, *adapters)
