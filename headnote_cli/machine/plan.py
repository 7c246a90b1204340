"""The plan: what a config asks for, what this device does instead, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

from headnote_cli.config.keys import Settings
from headnote_cli.errors import UsageError
from headnote_cli.machine.detect import AMPERE, Machine
from headnote_cli.machine.libraries import allocator_setting
from headnote_cli.machine.reporters import Tracker, reporters_of

SIXTEEN_BIT = ("bfloat16", "float16")
T = TypeVar("T")


@dataclass(frozen=True)
class Quantization:
    """The quantized form of the base's linear layers in training."""

    kind: str  # nf4, fp4 or int8
    nested: bool
    dtype: str  # of the weights before quantization, such as bfloat16

    def __str__(self) -> str:
        return "8-bit" if self.kind == "int8" else f"4-bit {self.kind}{' + nested' if self.nested else ''}"


@dataclass(frozen=True)
class PlanRow(Generic[T]):
    """One setting: what was asked for, what is used, and why that differs."""

    setting: str
    asked: T
    effective: T
    why: str = ""

    @property
    def changed(self) -> bool:
        return shown(self.asked) != shown(self.effective)

    def to_json(self) -> dict[str, str]:
        return asdict(self) | {"asked": shown(self.asked), "effective": shown(self.effective)}


def shown(value: object) -> str:
    """A plan value as shown to users."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


@dataclass(frozen=True)
class Plan:
    """What a device does for a config; `rows` say what was asked for and why something differs."""

    device: str  # cpu or cuda
    allocator: str | None  # of torch on a GPU
    dtype: str  # of the loaded weights
    bf16: bool
    fp16: bool
    tf32: bool
    attention: str
    padding_free: bool
    liger: bool
    optimizer: str
    quantization: Quantization | None
    reporters: tuple[Tracker, ...]
    workers: int
    compiles: bool
    remote_code: bool
    rows: tuple[PlanRow[Any], ...]

    @property
    def autocast(self) -> bool:
        return self.bf16 or self.fp16

    def changes(self) -> list[PlanRow[Any]]:
        """The settings that differ from what was asked for."""
        return [row for row in self.rows if row.changed]

    def to_json(self) -> list[dict[str, str]]:
        return [row.to_json() for row in self.rows]

    def values(self) -> dict[str, Any]:
        """What the plan decides, by config key."""
        four_bits = self.quantization is not None and self.quantization.kind != "int8"
        return {
            "dtype": self.dtype,
            "bf16": self.bf16,
            "fp16": self.fp16,
            "attn_implementation": self.attention,
            "optim": self.optimizer,
            "use_liger_kernel": self.liger,
            "use_cpu": self.device == "cpu",
            "padding_free": self.padding_free,
            "load_in_4bit": four_bits,
            "load_in_8bit": self.quantization is not None and not four_bits,
        }

    def applied(self, settings: Settings) -> Settings:
        """The settings with the plan's values."""
        return settings.model_copy(update=self.values())

    def require_unchanged(self) -> None:
        """Implements `--strict`.

        Raises:
            UsageError: A setting differs from what was asked for.
        """
        rows = (row.to_json() for row in self.changes())
        if lines := [f"{row['setting']}: {row['asked']} → {row['effective']} ({row['why']})" for row in rows]:
            raise UsageError(f"--strict: this machine cannot do what the config asks: {'; '.join(lines)}")


def resolve(
    settings: Settings,
    machine: Machine,
    model_type: str,
    allow_remote_code: bool = False,
    stored: Quantization | None = None,
) -> Plan:
    """The plan for a config on a machine.

    Args:
        model_type: Of the base model's config; Gemma 3 overflows in float16.
        stored: How the base's weights are already quantized on disk.
    """
    device = "cpu" if settings.use_cpu else machine.device
    allocator = allocator_setting() if device == "cuda" else None
    dtype = _dtype(settings, machine, model_type)
    attention = _attention(settings, machine, dtype.effective)
    bf16, fp16, tf32 = _mixed_precision(settings, machine, model_type, dtype.effective)
    rows: dict[str, PlanRow[Any]] = {
        "device": PlanRow("device", device, device),
        "allocator": PlanRow("allocator", allocator, allocator),
        "dtype": dtype,
        "bf16": bf16,
        "fp16": fp16,
        "tf32": tf32,
        "attention": attention,
        "padding_free": _padding_free(settings, attention.effective),
        "liger": _liger(settings, machine),
        "optimizer": _optimizer(settings, machine),
        "quantization": _quantization(settings, machine, dtype.effective, stored),
        "reporters": _reporters(settings, machine),
        "workers": _workers(settings, machine),
        "compiles": _compile(settings, machine),
        "remote_code": _remote_code(settings, allow_remote_code),
    }
    return Plan(**{name: row.effective for name, row in rows.items()}, rows=tuple(rows.values()))


def require_toolchain(plan: Plan, machine: Machine) -> None:
    """Check what the first step on a GPU compiles with: TRL's loss is a Triton kernel, whose launcher needs a C
    compiler and Python's headers.

    Raises:
        UsageError: Something is missing; the message names the packages.
    """
    if plan.device != "cuda":
        return
    needed = {
        "the `triton` package (`pip install triton`)": "triton" in machine.packages,
        "a C compiler (on Debian `apt install gcc`)": machine.c_compiler is not None,
        "Python's headers (on Debian `apt install python3-dev`)": machine.has_python_headers,
    }
    if missing := [what for what, is_there in needed.items() if not is_there]:
        raise UsageError(
            f"the first step compiles the loss with Triton, and this machine lacks {' and '.join(missing)}",
            hint="install what is missing, or set `use_cpu: true`",
        )


def _on_gpu(settings: Settings, machine: Machine) -> bool:
    return bool(machine.gpus) and not settings.use_cpu


def _dtype(settings: Settings, machine: Machine, model_type: str) -> PlanRow[str]:
    """The dtype of the loaded weights. It is always set: float32 by default would double the activations."""
    explicit = settings.dtype if "dtype" in settings.model_fields_set and settings.dtype != "auto" else None
    asked = explicit or ("float16" if settings.fp16 else "float32" if settings.bf16 is False else "bfloat16")
    if asked == "float32":
        return PlanRow("dtype", asked, asked)
    if not _on_gpu(settings, machine):
        return PlanRow("dtype", asked, "float32", "a CPU trains in float32")
    has_bf16 = machine.capable_of(AMPERE)
    if asked == "bfloat16" and not has_bf16:
        return PlanRow("dtype", asked, "float32", f"{machine.gpus[0].name} has no bfloat16")
    if asked == "float16" and _overflows(model_type):
        return PlanRow("dtype", asked, "bfloat16" if has_bf16 else "float32", "Gemma 3 overflows in float16")
    if asked == "float16" and settings.fp16 and not settings.use_peft:
        return PlanRow("dtype", asked, "float32", "a scaler of fp16 gradients steps float32 weights")
    return PlanRow("dtype", asked, asked)


def _switch(setting: str, asked: bool, obstacle: str) -> PlanRow[bool]:
    """A switch that is turned off if there is an obstacle."""
    return PlanRow(setting, asked, asked and not obstacle, obstacle if asked else "")


def _overflows(model_type: str) -> bool:
    """Whether activations exceed the range of float16 (unsloth#4014)."""
    return model_type.startswith("gemma3")


def _mixed_precision(
    settings: Settings, machine: Machine, model_type: str, dtype: str
) -> tuple[PlanRow[bool], PlanRow[bool], PlanRow[bool]]:
    on_gpu = _on_gpu(settings, machine)
    ampere = on_gpu and machine.capable_of(AMPERE)
    bf16 = settings.bf16 is True or (settings.bf16 is None and not settings.fp16 and dtype == "bfloat16")
    fp16_possible = on_gpu and dtype != "bfloat16" and not _overflows(model_type)
    return (
        _switch("bf16", bf16, "" if ampere else "needs a GPU of compute capability 8.0"),
        _switch("fp16", settings.fp16, "" if fp16_possible else "see dtype"),
        _switch("tf32", bool(settings.tf32), "" if ampere else "needs an Ampere GPU or later"),
    )


def _attention(settings: Settings, machine: Machine, dtype: str) -> PlanRow[str]:
    asked = settings.attn_implementation or "sdpa"
    if asked != "flash_attention_2":
        return PlanRow("attn_implementation", asked, asked)
    if not _on_gpu(settings, machine):
        why = "FlashAttention-2 needs a CUDA GPU"
    elif not machine.capable_of(AMPERE):
        why = f"FlashAttention-2 needs compute capability 8.0; {machine.gpus[0].name} is older"
    elif dtype not in SIXTEEN_BIT:
        why = f"FlashAttention-2 needs 16-bit tensors, not {dtype}"
    elif "flash_attn" in machine.packages:
        return PlanRow("attn_implementation", asked, asked)
    elif "kernels" not in machine.packages:
        why = "neither the `flash-attn` nor the `kernels` package is installed"
    elif machine.kernels_fault:
        why = machine.kernels_fault
    else:
        return PlanRow("attn_implementation", asked, asked, "prebuilt kernel of the `kernels` package")
    return PlanRow("attn_implementation", asked, "sdpa", why)


def _padding_free(settings: Settings, attention: str) -> PlanRow[bool]:
    """Off by default: batches of similar lengths have a few per cent of padding, and a padded batch needs the memory
    that was estimated. Only flash attention separates rows in one sequence without a mask over all their tokens, which
    would cost more than the padding."""
    obstacle = "" if "flash" in attention else "needs flash attention; rows of like length stand together instead"
    return _switch("padding_free", settings.padding_free, obstacle)


def _liger(settings: Settings, machine: Machine) -> PlanRow[bool]:
    obstacle = ""
    if not _on_gpu(settings, machine):
        obstacle = "Liger's kernels need a CUDA GPU"
    elif "triton" not in machine.packages:
        obstacle = "Liger's kernels need the `triton` package"
    elif "liger_kernel" not in machine.packages:
        obstacle = "the `liger-kernel` package is not installed"
    return _switch("use_liger_kernel", settings.use_liger_kernel, obstacle)


def _optimizer(settings: Settings, machine: Machine) -> PlanRow[str]:
    asked = settings.optim
    if asked not in ("adamw_torch_4bit", "adamw_torch_8bit"):
        return PlanRow("optim", asked, asked)
    why = ""
    if "torchao" not in machine.packages:
        why = "the `torchao` package is not installed"
    elif _on_gpu(settings, machine) and "triton" not in machine.packages:
        why = "torchao compiles its step with `triton`, which is not installed"
    elif machine.compiler is None:
        why = "torchao compiles its step with a C++ compiler, and there is none"
    return PlanRow("optim", asked, "adamw_torch" if why else asked, why)


def _quantization(
    settings: Settings, machine: Machine, dtype: str, stored: Quantization | None
) -> PlanRow[Quantization | None]:
    asked = None
    if settings.load_in_4bit:
        asked = Quantization(settings.bnb_4bit_quant_type, settings.use_bnb_nested_quant, dtype)
    elif settings.load_in_8bit:
        asked = Quantization("int8", False, dtype)
    if (asked or stored) and "bitsandbytes" not in machine.packages:
        return PlanRow("quantization", asked or stored, None, "the `bitsandbytes` package is not installed")
    if stored is not None:
        return PlanRow("quantization", asked, replace(stored, dtype=dtype), "the base's weights are quantized already")
    return PlanRow("quantization", asked, asked)


def _reporters(settings: Settings, machine: Machine) -> PlanRow[tuple[Tracker, ...]]:
    names, effective, why = reporters_of(settings.report_to, machine.packages)
    return PlanRow("report_to", tuple(map(Tracker, names)), effective, why)


def _workers(settings: Settings, machine: Machine) -> PlanRow[int]:
    asked = settings.dataset_num_proc or 1
    why = "" if asked <= machine.cores else f"{machine.cores} cores"
    return PlanRow("dataset_num_proc", asked, min(asked, machine.cores), why)


def _compile(settings: Settings, machine: Machine) -> PlanRow[bool]:
    possible = "triton" in machine.packages if _on_gpu(settings, machine) else machine.compiler is not None
    return _switch("torch_compile", settings.torch_compile, "" if possible else "no compiler for `torch.compile`")


def _remote_code(settings: Settings, allowed: bool) -> PlanRow[bool]:
    obstacle = "" if allowed else "only with --allow-remote-code, and these models need none"
    return _switch("trust_remote_code", settings.trust_remote_code, obstacle)
