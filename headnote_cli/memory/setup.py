"""A config, reduced to what decides memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from headnote_cli.config import Settings
from headnote_cli.errors import ConfigError
from headnote_cli.memory.forms import Kind
from headnote_cli.memory.shapes import SLIDING, Shapes

# Labelled tokens of a row where no data say better: the longest of 273 real headnotes has 727 with Gemma's tokenizer.
HEADNOTE = 768
DEFAULT_LENGTH = 8192  # where the config sets no `max_length`
SIXTEEN_BIT = ("bfloat16", "float16")
EMBEDDINGS = ("embed_tokens", "lm_head")
STACKS = ("slds", "trl", "workshop")


@dataclass(frozen=True)
class Setup:
    """One training step, as far as memory goes.

    Attributes:
        loss: `fused` (TRL ≥ 1.16: tiles of labelled positions), `full` (all logits), `liger` (Liger's own fused
            cross-entropy, in chunks of all positions) or `labelled` (slds on a CPU: logits of labelled positions).
        labels: Labelled tokens of a row.
        targets: Names of LoRA's linear layers, or `all-linear`.
        saved_modules: PEFT's `modules_to_save`, trained whole beside the frozen ones.
        quantization: `none`, `nf4`, `nf4 double` or `int8`.
        upcast: What is not quantized is held in float32, as PEFT's `prepare_model_for_kbit_training` does.
        gradients_stay: Gradient accumulation: those of earlier batches live through the next one.
        sharding: `none`, `ddp`, or `full` (FSDP, ZeRO-3) over `devices`.
        unknown: Settings whose memory is not known; then the total is a lower bound.
    """

    kind: Kind
    loss: str
    batch: int
    length: int
    labels: int
    optim: str = "adamw_torch_fused"
    rank: int = 0
    targets: tuple[str, ...] = ("all-linear",)
    vision_adapted: bool = False
    saved_modules: tuple[str, ...] = ()
    quantization: str = "none"
    upcast: bool = False
    gradients_stay: bool = False
    evaluation_batch: int = 0
    devices: int = 1
    sharding: str = "none"
    on_gpu: bool = True
    unknown: tuple[str, ...] = field(default=())

    @property
    def width(self) -> int:
        """Bytes of an unquantized weight. Sharded full fine-tuning in mixed precision keeps float32 shards
        (accelerate's `upcast_low_precision_parameters` for FSDP, DeepSpeed's master weights)."""
        masters = self.sharding == "full" and self.kind.amp and self.kind.method == "full"
        return 4 if self.kind.dtype == "float32" or masters else 2

    @property
    def adapter_width(self) -> int:
        return 4 if self.kind.adapters.startswith("float32") else 2

    @property
    def trained_width(self) -> int:
        """Bytes of a trained weight, and of its gradient."""
        return self.width if self.kind.method == "full" else self.adapter_width


def setup_of(settings: Settings, shapes: Shapes, stack: str = "slds", devices: int = 1) -> Setup:
    """What a config asks of a GPU, or of the CPU with `use_cpu`.

    Args:
        stack: Which code trains: `slds`; `trl`, plain TRL ≥ 1.16; or `workshop`, the recipe's own TRL 0.24, where
            `load_in_4bit` reaches no weight, the vision tower is adapted too, and only Liger spares the logits.

    Raises:
        ConfigError: Settings that no machine can do together.
    """
    _refuse_impossible(settings)
    on_gpu = not settings.use_cpu
    workshop = stack == "workshop"
    quantization = "none" if workshop else _quantization(settings)
    dtype = load_dtype(settings) if on_gpu else "float32"
    amp = (on_gpu and settings.bf16 is not False) or settings.fp16
    batch, length = settings.per_device_train_batch_size, settings.max_length or DEFAULT_LENGTH
    method = "full" if not settings.use_peft else "lora" if quantization == "none" else "qlora"
    targets = _targets(settings)
    kind = Kind(
        method=method,
        dtype="float32" if dtype == "float32" else "bfloat16",
        amp=amp,
        adapters=_adapters(stack, quantization, dtype),
        attention=_attention(settings, shapes, batch, length),
        checkpointing=checkpoints_activations(settings),
        dropout=settings.use_peft and settings.lora_dropout > 0,
        liger=settings.use_liger_kernel and on_gpu,
        targets=_target_class(targets) if settings.use_peft else "all",
    )
    return Setup(
        kind=kind,
        loss=_loss(settings, stack, on_gpu),
        batch=batch,
        length=length,
        labels=min(length - 1, HEADNOTE) if settings.completion_only_loss is not False else length - 1,
        optim=settings.optim,
        rank=settings.lora_r if settings.use_peft else 0,
        targets=targets,
        saved_modules=_saved_modules(settings),
        vision_adapted=workshop and settings.use_peft and targets == ("all-linear",) and shapes.vision_linear > 0,
        quantization=quantization,
        gradients_stay=settings.gradient_accumulation_steps > 1,
        evaluation_batch=(settings.per_device_eval_batch_size or batch) if settings.eval_strategy != "no" else 0,
        devices=devices,
        sharding=_sharding(settings, devices),
        on_gpu=on_gpu,
        unknown=_unknown(settings),
    )


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
    """`activation_checkpointing`, or its older name."""
    newer = settings.activation_checkpointing
    return bool(settings.gradient_checkpointing if newer is None else newer)


def load_dtype(settings: Settings) -> str:
    """The dtype of the loaded weights on a GPU that can do it."""
    if "dtype" in settings.model_fields_set and settings.dtype in (*SIXTEEN_BIT, "float32"):
        return str(settings.dtype)
    return "float16" if settings.fp16 else "float32" if settings.bf16 is False else "bfloat16"


def _quantization(settings: Settings) -> str:
    if settings.load_in_4bit:
        return "nf4 double" if settings.use_bnb_nested_quant else "nf4"
    return "int8" if settings.load_in_8bit else "none"


def _adapters(stack: str, quantization: str, dtype: str) -> str:
    """slds holds adapters in float32 and casts nothing to it; TRL's are bfloat16 on a quantized base."""
    if stack == "slds" or dtype == "float32":
        return "float32"
    return "float32 cast" if quantization == "none" else "bfloat16"


def _attention(settings: Settings, shapes: Shapes, batch: int, length: int) -> str:
    """What is really done: SDPA is given a mask where rows are padded or a layer sees a window only."""
    asked = settings.attn_implementation or "sdpa"
    if asked.startswith(("flash_attention", "kernels-community/")):
        return "flash_attention_2"
    if asked == "eager":
        return "eager"
    masked = batch > 1 or (shapes.model_type in SLIDING and length > (shapes.window or 0))
    return "sdpa" if masked else "sdpa_causal"


def _targets(settings: Settings) -> tuple[str, ...]:
    asked = settings.lora_target_modules or "all-linear"
    names = [asked] if isinstance(asked, str) else list(asked)
    return tuple(names)


def _saved_modules(settings: Settings) -> tuple[str, ...]:
    names = settings.lora_modules_to_save or [] if settings.use_peft else []
    return tuple(name.rsplit(".", 1)[-1] for name in ([names] if isinstance(names, str) else names))


def _target_class(targets: tuple[str, ...]) -> str:
    """The counted kind that holds at least what these targets hold."""
    names = {name.rsplit(".", 1)[-1] for name in targets}
    if names <= {"q_proj", "v_proj"}:
        return "qv"
    return "attention" if names <= {"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"} else "all"


def _loss(settings: Settings, stack: str, on_gpu: bool) -> str:
    if settings.label_smoothing_factor:
        return "full"
    if stack == "workshop":
        return "liger" if settings.use_liger_kernel else "full"
    return "fused" if on_gpu else "labelled"


def _sharding(settings: Settings, devices: int) -> str:
    if settings.fsdp or settings.deepspeed:
        return "full"
    return "ddp" if devices > 1 else "none"


def _unknown(settings: Settings) -> tuple[str, ...]:
    """What no term counts."""
    from headnote_cli.memory.estimate import OPTIMIZERS

    found = [] if settings.optim in OPTIMIZERS else [f"the states of `optim: {settings.optim}`"]
    found += [f"`lora_modules_to_save: {name}`" for name in _saved_modules(settings) if name not in EMBEDDINGS]
    if settings.lora_target_parameters:
        found.append("`lora_target_parameters`")
    if settings.use_dora:
        found.append("DoRA's norms")
    return tuple(found)
