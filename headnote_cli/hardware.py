"""What this machine has, and the plan: what was asked, what will be done here, and why."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headnote_cli.config import Settings
from headnote_cli.errors import ConfigError, UsageError
from headnote_cli.main_memory import main_memory

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
AMPERE = (8, 0)


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

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"packages": sorted(self.packages)}

    def capable_of(self, capability: tuple[int, int]) -> bool:
        """Whether there is a GPU, and every one is of that generation or later."""
        return bool(self.gpus) and all(gpu.capability >= capability for gpu in self.gpus)


@dataclass(frozen=True)
class PlanRow:
    """One row of the plan."""

    setting: str
    asked: str
    effective: str
    why: str = ""

    @property
    def changed(self) -> bool:
        return self.asked != self.effective


@dataclass(frozen=True)
class Plan:
    """Every setting that depends on the machine."""

    settings: tuple[PlanRow, ...]

    def effective(self, setting: str) -> str:
        """What will be done for a setting."""
        return next(row.effective for row in self.settings if row.setting == setting)

    def is_on(self, setting: str) -> bool:
        return self.effective(setting) == "true"

    def changes(self) -> list[PlanRow]:
        """The settings where this machine cannot do what was asked."""
        return [row for row in self.settings if row.changed]

    def rows(self) -> list[dict[str, str]]:
        """For JSON."""
        return [asdict(row) for row in self.settings]

    def require_unchanged(self) -> None:
        """`--strict`.

        Raises:
            UsageError: Any setting is not done as asked.
        """
        if changes := self.changes():
            told = "; ".join(f"{row.setting}: {row.asked} → {row.effective} ({row.why})" for row in changes)
            raise UsageError(f"--strict: this machine cannot do what the config asks: {told}")


@dataclass(frozen=True)
class Quantization:
    """The 4-bit form that training saw the base's linear layers in."""

    kind: str  # nf4 or fp4
    nested: bool
    dtype: str  # of the weights before they were quantized, such as bfloat16


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


def quantization_of(rows: Iterable[Mapping[str, str]]) -> Quantization | None:
    """The 4-bit form that a stored plan says a run used, None for another or none."""
    effective = {row["setting"]: row["effective"] for row in rows}
    kind, *rest = effective.get("quantization", "none").removeprefix("4-bit ").split(" + ")
    return Quantization(kind, bool(rest), effective["dtype"]) if kind in ("nf4", "fp4") else None


def detect() -> Machine:
    """This machine, without importing torch."""
    return Machine(
        gpus=tuple(_gpus()) if not _cpu_build_of_torch() else (),
        packages=frozenset(name for name in PACKAGES if find_spec(name)),
        compiler=shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++"),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=main_memory(),
    )


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
    dtype = _dtype(settings, machine, model_type)
    attention = _attention(settings, machine, dtype.effective)
    return Plan(
        (
            PlanRow("device", device, device),
            dtype,
            *_mixed_precision(settings, machine, dtype.effective),
            attention,
            _padding_free(settings, attention.effective),
            _liger(settings, machine),
            _optimizer(settings, machine),
            _quantization(settings, machine, stored),
            _report(settings, machine),
            _workers(settings, machine),
            _compile(settings, machine),
            _remote_code(settings, allow_remote_code),
        )
    )


def planned(settings: Settings, plan: Plan) -> Settings:
    """The settings with the plan's answers in place of what cannot be done here."""
    return settings.model_copy(
        update={
            "dtype": plan.effective("dtype"),
            "bf16": plan.is_on("bf16"),
            "fp16": plan.is_on("fp16"),
            "attn_implementation": plan.effective("attn_implementation"),
            "optim": plan.effective("optim"),
            "use_liger_kernel": plan.is_on("use_liger_kernel"),
            "use_cpu": plan.effective("device") == "cpu",
            "padding_free": plan.is_on("padding_free"),
            "load_in_4bit": plan.effective("quantization").startswith("4-bit"),
            "load_in_8bit": plan.effective("quantization").startswith("8-bit"),
        }
    )


def _flag(value: object) -> str:
    return "true" if value else "false"


def _on_gpu(settings: Settings, machine: Machine) -> bool:
    return bool(machine.gpus) and not settings.use_cpu


def _dtype(settings: Settings, machine: Machine, model_type: str) -> PlanRow:
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
    if asked == "float16" and model_type.startswith("gemma3"):
        return PlanRow("dtype", asked, "bfloat16" if has_bf16 else "float32", "Gemma 3 overflows in float16")
    return PlanRow("dtype", asked, asked)


def _mixed_precision(settings: Settings, machine: Machine, dtype: str) -> Iterator[PlanRow]:
    asked = settings.bf16 is True or (settings.bf16 is None and not settings.fp16 and dtype == "bfloat16")
    possible = _on_gpu(settings, machine) and machine.capable_of(AMPERE)
    why = "" if possible or not asked else "needs a GPU of compute capability 8.0 or later"
    yield PlanRow("bf16", _flag(asked), _flag(asked and possible), why)
    fp16_ok = _on_gpu(settings, machine) and dtype == "float16"
    yield PlanRow(
        "fp16",
        _flag(settings.fp16),
        _flag(settings.fp16 and fp16_ok),
        "" if fp16_ok or not settings.fp16 else "see dtype",
    )
    tf32 = bool(settings.tf32)
    yield PlanRow(
        "tf32", _flag(tf32), _flag(tf32 and possible), "" if possible or not tf32 else "needs an Ampere GPU or later"
    )


def _attention(settings: Settings, machine: Machine, dtype: str) -> PlanRow:
    asked = settings.attn_implementation or "sdpa"
    if asked != "flash_attention_2":
        return PlanRow("attn_implementation", asked, asked)
    if not _on_gpu(settings, machine):
        why = "FlashAttention-2 needs a CUDA GPU"
    elif not machine.capable_of(AMPERE):
        why = f"FlashAttention-2 needs compute capability 8.0; {machine.gpus[0].name} is older"
    elif dtype not in SIXTEEN_BIT:
        why = f"FlashAttention-2 needs 16-bit tensors, not {dtype}"
    elif not machine.packages & {"flash_attn", "kernels"}:
        why = "neither the `flash-attn` nor the `kernels` package is installed"
    else:
        prebuilt = "" if "flash_attn" in machine.packages else "prebuilt kernel of the `kernels` package"
        return PlanRow("attn_implementation", asked, asked, prebuilt)
    return PlanRow("attn_implementation", asked, "sdpa", why)


def _padding_free(settings: Settings, attention: str) -> PlanRow:
    """Off unless asked for: rows of like length stand together, so that padding is a few per cent of the tokens, and
    a padded batch needs the memory that was estimated. Only flash attention keeps rows in one sequence apart without
    a mask over all of their tokens together, which costs more than the padding.
    """
    asked = settings.padding_free
    possible = "flash" in attention
    why = "" if possible or not asked else "needs flash attention; rows of like length stand together instead"
    return PlanRow("padding_free", _flag(asked), _flag(asked and possible), why)


def _liger(settings: Settings, machine: Machine) -> PlanRow:
    asked = settings.use_liger_kernel
    why = ""
    if asked and not _on_gpu(settings, machine):
        why = "Liger's kernels need a CUDA GPU"
    elif asked and "triton" not in machine.packages:
        why = "Liger's kernels need the `triton` package"
    elif asked and "liger_kernel" not in machine.packages:
        why = "the `liger-kernel` package is not installed"
    return PlanRow("use_liger_kernel", _flag(asked), _flag(asked and not why), why)


def _optimizer(settings: Settings, machine: Machine) -> PlanRow:
    asked = settings.optim
    if asked not in ("adamw_torch_4bit", "adamw_torch_8bit"):
        return PlanRow("optim", asked, asked)
    why = ""
    if "torchao" not in machine.packages:
        why = "the `torchao` package is not installed"
    elif _on_gpu(settings, machine) and "triton" not in machine.packages:
        why = "torchao compiles its step with `triton`, which is not installed"
    elif not _on_gpu(settings, machine) and machine.compiler is None:
        why = "torchao compiles its step with a C++ compiler, and there is none"
    return PlanRow("optim", asked, "adamw_torch" if why else asked, why)


def _quantization(settings: Settings, machine: Machine, stored: Quantization | None) -> PlanRow:
    asked = "4-bit" if settings.load_in_4bit else "8-bit" if settings.load_in_8bit else "none"
    if (asked != "none" or stored) and "bitsandbytes" not in machine.packages:
        return PlanRow("quantization", asked, "none", "the `bitsandbytes` package is not installed")
    if asked == "4-bit":
        asked = _four_bits(settings.bnb_4bit_quant_type, settings.use_bnb_nested_quant)
    if stored is not None:
        effective = _four_bits(stored.kind, stored.nested)
        return PlanRow("quantization", asked, effective, "the base's weights are quantized already")
    return PlanRow("quantization", asked, asked)


def _four_bits(kind: str, nested: bool) -> str:
    return f"4-bit {kind}{' + nested' if nested else ''}"


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
_OFFLINE = " (offline)"


def _report(settings: Settings, machine: Machine) -> PlanRow:
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
    alone = [name for name in names if name not in missing and name in _LOGINS and not _logged_in(name)]
    effective = [name + _OFFLINE * (name in alone) for name in names if name not in missing]
    reasons = [f"the `{REPORTERS[name]}` package is not installed" for name in missing]
    reasons += [f"no {name} login on this machine" for name in alone]
    return PlanRow("report_to", ",".join(names) or "none", ",".join(effective) or "none", "; ".join(reasons))


def _logged_in(name: str) -> bool:
    """Whether a reporter has a key or was told where to write."""
    login = _LOGINS[name]
    if os.environ.get(login.key) or os.environ.get(login.mode):
        return True
    try:
        return name in (Path.home() / login.file).read_text(encoding="utf-8")
    except OSError:
        return False


def reporters(plan: Plan) -> tuple[list[str], dict[str, str]]:
    """The libraries' names of what reports, and the environment that keeps those without a login offline."""
    names = plan.effective("report_to").split(",")
    offline = [name.removesuffix(_OFFLINE) for name in names if name.endswith(_OFFLINE)]
    environment = {_LOGINS[name].mode: _LOGINS[name].offline for name in offline}
    return [name.removesuffix(_OFFLINE) for name in names], environment


def _workers(settings: Settings, machine: Machine) -> PlanRow:
    asked = settings.dataset_num_proc or 1
    return PlanRow(
        "dataset_num_proc",
        str(asked),
        str(min(asked, machine.cores)),
        "" if asked <= machine.cores else f"{machine.cores} cores",
    )


def _compile(settings: Settings, machine: Machine) -> PlanRow:
    asked = settings.torch_compile
    possible = machine.compiler is not None if not _on_gpu(settings, machine) else "triton" in machine.packages
    why = "" if possible or not asked else "no compiler for `torch.compile`"
    return PlanRow("torch_compile", _flag(asked), _flag(asked and possible), why)


def _remote_code(settings: Settings, allowed: bool) -> PlanRow:
    asked = settings.trust_remote_code
    why = "" if allowed or not asked else "only with --allow-remote-code, and these models need none"
    return PlanRow("trust_remote_code", _flag(asked), _flag(asked and allowed), why)
