"""What this machine has, and the plan: what was asked, what will be done here, and why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

from packaging.requirements import Requirement

from headnote_cli.config.settings import Settings
from headnote_cli.errors import ConfigError, UsageError
from headnote_cli.machine.libraries import allocator_setting
from headnote_cli.machine.memory import main_memory

# The package behind each name that `report_to` may hold.
REPORTERS = {
    "azure_ml": "azureml",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet_ml",
    "dagshub": "dagshub",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
PACKAGES = ("bitsandbytes", "flash_attn", "kernels", "liger_kernel", "torchao", "triton", *REPORTERS.values())
SIXTEEN_BIT = ("bfloat16", "float16")
AMPERE = (8, 0)  # the first with bfloat16 and FlashAttention-2


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    name: str
    capability: tuple[int, int]
    memory: int  # bytes
    used: int = 0  # bytes held by other programs


@dataclass(frozen=True)
class Machine:
    """The facts that decide the plan."""

    gpus: tuple[Gpu, ...]
    packages: frozenset[str]
    compiler: str | None
    cores: int
    memory: int  # bytes of main memory
    c_compiler: str | None = None
    has_python_headers: bool = False
    kernels_fault: str = ""  # why the `kernels` package that is installed cannot be used

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"packages": sorted(self.packages)}

    def capable_of(self, capability: tuple[int, int]) -> bool:
        """Whether there is a GPU, and every one is of that generation or later."""
        return bool(self.gpus) and all(gpu.capability >= capability for gpu in self.gpus)


T = TypeVar("T")


@dataclass(frozen=True)
class Quantization:
    """The form in which training sees the base's linear layers."""

    kind: str  # nf4, fp4 or int8
    nested: bool
    dtype: str  # of the weights before they were quantized, such as bfloat16

    def __str__(self) -> str:
        return "8-bit" if self.kind == "int8" else f"4-bit {self.kind}{' + nested' if self.nested else ''}"


@dataclass(frozen=True)
class Reporter:
    """Where metrics are sent; without a login they stay on this machine."""

    name: str
    is_offline: bool = False

    def __str__(self) -> str:
        return f"{self.name} (offline)" if self.is_offline else self.name


@dataclass(frozen=True)
class PlanRow(Generic[T]):
    """What was asked of one setting, what is done, and why that differs."""

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
    """A value of the plan as people read it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


@dataclass(frozen=True)
class Plan:
    """What a device does of what a config asks; `rows` say of each setting what was asked, and why it differs."""

    device: str  # cpu or cuda
    allocator: str | None  # the configuration of torch's allocator on a GPU
    dtype: str  # of the loaded weights
    bf16: bool
    fp16: bool
    tf32: bool
    attention: str
    padding_free: bool
    liger: bool
    optimizer: str
    quantization: Quantization | None
    reporters: tuple[Reporter, ...]
    workers: int
    compiles: bool
    remote_code: bool
    rows: tuple[PlanRow[Any], ...]

    @property
    def autocast(self) -> bool:
        return self.bf16 or self.fp16

    def changes(self) -> list[PlanRow[Any]]:
        """The settings where this machine cannot do what was asked."""
        return [row for row in self.rows if row.changed]

    def to_json(self) -> list[dict[str, str]]:
        return [row.to_json() for row in self.rows]

    def applied(self, settings: Settings) -> Settings:
        """The settings with the plan's answers in place of what cannot be done here."""
        four_bits = self.quantization is not None and self.quantization.kind != "int8"
        return settings.model_copy(
            update={
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
        )

    def require_unchanged(self) -> None:
        """`--strict`.

        Raises:
            UsageError: Any setting is not done as asked.
        """
        rows = (row.to_json() for row in self.changes())
        if told := "; ".join(f"{row['setting']}: {row['asked']} → {row['effective']} ({row['why']})" for row in rows):
            raise UsageError(f"--strict: this machine cannot do what the config asks: {told}")


def stored_quantization(config: Mapping[str, Any], name: str) -> Quantization | None:
    """How the weights of a model are quantized on the disk already, by its `config.json`; None if they are not.

    Raises:
        ConfigError: In a way that cannot be trained on.
    """
    stored = config.get("quantization_config")
    if not isinstance(stored, Mapping):
        return None
    if stored.get("quant_method", "bitsandbytes") == "bitsandbytes" and stored.get("load_in_4bit"):
        nested = bool(stored.get("bnb_4bit_use_double_quant"))
        return Quantization(str(stored.get("bnb_4bit_quant_type", "fp4")), nested, str(config.get("dtype", "bfloat16")))
    how = "8-bit bitsandbytes" if stored.get("load_in_8bit") else str(stored.get("quant_method", "an unknown method"))
    raise ConfigError(
        f"the weights of this model are quantized ({how}), which is not trained on",
        name,
        "name the model in 16 bits, or one in bitsandbytes' 4 bits",
    )


def noted_quantization(record: Mapping[str, Any]) -> Quantization | None:
    """The 4-bit form that a run's record says it trained on, None for another or none."""
    if "quantization" in record:
        noted = record["quantization"]
        return Quantization(**noted) if noted and noted["kind"] != "int8" else None
    # Records from before this key have the words of the plan alone.
    words = {row["setting"]: row["effective"] for row in record.get("plan", [])}
    kind, *rest = words.get("quantization", "none").removeprefix("4-bit ").split(" + ")
    return Quantization(kind, bool(rest), words["dtype"]) if kind in ("nf4", "fp4") else None


def detect() -> Machine:
    """This machine, without importing torch."""
    return Machine(
        gpus=tuple(_gpus()) if not _cpu_build_of_torch() else (),
        packages=frozenset(name for name in PACKAGES if find_spec(name)),
        compiler=shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++"),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=main_memory(),
        c_compiler=shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang"),
        has_python_headers=(Path(sysconfig.get_path("include")) / "Python.h").is_file(),
        kernels_fault=kernels_fault(),
    )


def kernels_fault() -> str:
    """Why the `kernels` package that is installed cannot be used: transformers takes some versions only."""
    try:
        installed, transformers = version("kernels"), version("transformers")
    except PackageNotFoundError:
        return ""
    asked = (Requirement(text) for text in requires("transformers") or ())
    ranges = [
        one.specifier
        for one in asked
        if one.name == "kernels" and one.marker and one.marker.evaluate({"extra": "kernels"})
    ]
    if all(installed in allowed for allowed in ranges):
        return ""
    return f"kernels {installed} is installed, and transformers {transformers} takes {ranges[0]}"


@cache
def _cpu_build_of_torch() -> bool:
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def _gpus() -> Iterator[Gpu]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return
    query = [tool, "--query-gpu=name,compute_cap,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return
    for line in listing.splitlines():
        name, *numbers = (part.strip() for part in line.rsplit(",", 3))
        try:
            capability, total, used = numbers
            major, _, minor = capability.partition(".")
            yield Gpu(name, (int(major), int(minor or 0)), int(total) * 2**20, int(used) * 2**20)
        except ValueError:  # [N/A]: unified memory, or a slice of a GPU
            continue


def resolve(
    settings: Settings,
    machine: Machine,
    model_type: str,
    allow_remote_code: bool = False,
    stored: Quantization | None = None,
) -> Plan:
    """The plan for a config on a machine.

    Args:
        model_type: `model_type` of the base model's config: Gemma 3 overflows in float16.
        stored: How the base's weights are quantized on the disk already.
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
    """What a GPU's first step compiles with: TRL's loss is a Triton kernel, whose launcher is built with a C compiler
    and Python's headers on the user's machine.

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
    """The dtype of the loaded weights; a forgotten one would double the activations."""
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


def _overflows(model_type: str) -> bool:
    """Whether activations go beyond float16 (unsloth#4014)."""
    return model_type.startswith("gemma3")


def _mixed_precision(
    settings: Settings, machine: Machine, model_type: str, dtype: str
) -> tuple[PlanRow[bool], PlanRow[bool], PlanRow[bool]]:
    on_gpu = _on_gpu(settings, machine)
    ampere = on_gpu and machine.capable_of(AMPERE)
    bf16 = settings.bf16 is True or (settings.bf16 is None and not settings.fp16 and dtype == "bfloat16")
    fp16, tf32 = settings.fp16, bool(settings.tf32)
    fp16_possible = on_gpu and dtype != "bfloat16" and not _overflows(model_type)
    return (
        PlanRow("bf16", bf16, bf16 and ampere, "" if ampere or not bf16 else "needs a GPU of compute capability 8.0"),
        PlanRow("fp16", fp16, fp16 and fp16_possible, "" if fp16_possible or not fp16 else "see dtype"),
        PlanRow("tf32", tf32, tf32 and ampere, "" if ampere or not tf32 else "needs an Ampere GPU or later"),
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
    """Off unless asked for: rows of like length stand together, so that padding is a few per cent of the tokens, and
    a padded batch needs the memory that was estimated. Only flash attention keeps rows in one sequence apart without
    a mask over all of their tokens together, which costs more than the padding.
    """
    asked = settings.padding_free
    possible = "flash" in attention
    why = "" if possible or not asked else "needs flash attention; rows of like length stand together instead"
    return PlanRow("padding_free", asked, asked and possible, why)


def _liger(settings: Settings, machine: Machine) -> PlanRow[bool]:
    asked = settings.use_liger_kernel
    why = ""
    if asked and not _on_gpu(settings, machine):
        why = "Liger's kernels need a CUDA GPU"
    elif asked and "triton" not in machine.packages:
        why = "Liger's kernels need the `triton` package"
    elif asked and "liger_kernel" not in machine.packages:
        why = "the `liger-kernel` package is not installed"
    return PlanRow("use_liger_kernel", asked, asked and not why, why)


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


@dataclass(frozen=True)
class _Login:
    """How a reporter logs in, and the environment variable that keeps it on this machine instead."""

    key: str
    file: str  # under the home folder
    mode: str
    offline: str


# The others never ask: trackio and MLflow write local files unless a server is named, the rest raise an error.
_LOGINS = {
    "wandb": _Login("WANDB_API_KEY", ".netrc", "WANDB_MODE", "offline"),
    "swanlab": _Login("SWANLAB_API_KEY", ".swanlab/.netrc", "SWANLAB_MODE", "local"),
}


def _reporters(settings: Settings, machine: Machine) -> PlanRow[tuple[Reporter, ...]]:
    """Reporting never asks for a login: without one it goes offline.

    Raises:
        UsageError: A name that no reporter has.
    """
    names = [settings.report_to] if isinstance(settings.report_to, str) else settings.report_to or []
    if names == ["all"]:
        names = [name for name, package in REPORTERS.items() if package in machine.packages]
    names = [name for name in names if name != "none"]
    if unknown := [name for name in names if name not in REPORTERS]:
        raise UsageError(f"`report_to: {', '.join(unknown)}`: write none, all, {', '.join(REPORTERS)}")
    missing = [name for name in names if REPORTERS[name] not in machine.packages]
    effective = [Reporter(name, name in _LOGINS and not _logged_in(name)) for name in names if name not in missing]
    reasons = [f"the `{REPORTERS[name]}` package is not installed" for name in missing]
    reasons += [f"no {one.name} login on this machine" for one in effective if one.is_offline]
    return PlanRow("report_to", tuple(map(Reporter, names)), tuple(effective), "; ".join(reasons))


def offline_environment(plan: Plan) -> dict[str, str]:
    """The environment that keeps reporters without a login on this machine."""
    logins = [_LOGINS[one.name] for one in plan.reporters if one.is_offline]
    return {login.mode: login.offline for login in logins}


def _logged_in(name: str) -> bool:
    """Whether a reporter has a key or was told where to write."""
    login = _LOGINS[name]
    if os.environ.get(login.key) or os.environ.get(login.mode):
        return True
    try:
        return name in (Path.home() / login.file).read_text(encoding="utf-8")
    except OSError:
        return False


def _workers(settings: Settings, machine: Machine) -> PlanRow[int]:
    asked = settings.dataset_num_proc or 1
    why = "" if asked <= machine.cores else f"{machine.cores} cores"
    return PlanRow("dataset_num_proc", asked, min(asked, machine.cores), why)


def _compile(settings: Settings, machine: Machine) -> PlanRow[bool]:
    asked = settings.torch_compile
    possible = machine.compiler is not None if not _on_gpu(settings, machine) else "triton" in machine.packages
    why = "" if possible or not asked else "no compiler for `torch.compile`"
    return PlanRow("torch_compile", asked, asked and possible, why)


def _remote_code(settings: Settings, allowed: bool) -> PlanRow[bool]:
    asked = settings.trust_remote_code
    why = "" if allowed or not asked else "only with --allow-remote-code, and these models need none"
    return PlanRow("trust_remote_code", asked, asked and allowed, why)
