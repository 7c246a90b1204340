"""Detect GPUs, packages, compilers, cores and memory, without importing torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from headnote_cli.machine.memory import main_memory

# The package for each name in `report_to`.
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
AMPERE = (8, 0)  # first generation with bfloat16 and FlashAttention-2


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    name: str
    capability: tuple[int, int]
    memory: int  # bytes
    used: int = 0  # bytes held by other programs


@dataclass(frozen=True)
class Machine:
    """The facts that the plan depends on."""

    gpus: tuple[Gpu, ...]
    packages: frozenset[str]
    compiler: str | None
    cores: int
    memory: int  # bytes of main memory
    c_compiler: str | None = None
    has_python_headers: bool = False
    kernels_fault: str = ""  # why the installed `kernels` package cannot be used

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"packages": sorted(self.packages)}

    def capable_of(self, capability: tuple[int, int]) -> bool:
        """Whether there is a GPU and all GPUs have at least this compute capability."""
        return bool(self.gpus) and all(gpu.capability >= capability for gpu in self.gpus)


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
    """Why the installed `kernels` package cannot be used: transformers supports only some versions."""
    try:
        installed, transformers = version("kernels"), version("transformers")
    except PackageNotFoundError:
        return ""
    needs = [need for need in map(Requirement, requires("transformers") or ()) if need.name == "kernels"]
    ranges = [need.specifier for need in needs if need.marker and need.marker.evaluate({"extra": "kernels"})]
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
