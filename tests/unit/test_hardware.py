"""The plan: what each generation of GPU, and a CPU, can do of what is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.config import Settings, load_config
from headnote_cli.errors import UsageError
from headnote_cli.hardware import Gpu, Machine, detect, resolve
from tests.conftest import ROOT

ALL = frozenset({"bitsandbytes", "flash_attn", "kernels", "liger_kernel", "torchao", "triton", "wandb", "tensorboard"})
GIB = 2**30


def machine(*capabilities: tuple[int, int], packages: frozenset[str] = ALL, compiler: str | None = "g++") -> Machine:
    gpus = tuple(Gpu(f"sm{major}{minor}", (major, minor), 24 * GIB) for major, minor in capabilities)
    return Machine(gpus, packages, compiler, cores=2, memory=24 * GIB)


@pytest.fixture
def recipe() -> Settings:
    return load_config(ROOT / "configs/ipst/slds/sft_liger_peft.yaml").settings


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (12, 0)])
def test_a_gpu_that_can_do_it_all_changes_nothing(recipe: Settings, capability: tuple[int, int]) -> None:
    plan = resolve(recipe, machine(capability), "gemma3")
    assert plan.changes() == []
    plan.require_unchanged()


@pytest.mark.parametrize("capability", [(7, 0), (7, 5)])
def test_a_gpu_before_ampere_computes_in_float32_without_flash_attention(
    recipe: Settings, capability: tuple[int, int]
) -> None:
    plan = resolve(recipe, machine(capability), "gemma3")
    assert plan.effective("dtype") == "float32"
    assert plan.effective("bf16") == "false"
    assert plan.effective("attn_implementation") == "sdpa"
    assert plan.is_on("use_liger_kernel")


def test_the_weakest_of_several_gpus_decides(recipe: Settings) -> None:
    assert resolve(recipe, machine((8, 0), (7, 5)), "gemma3").effective("attn_implementation") == "sdpa"


def test_a_cpu_trains_in_float32_without_gpu_kernels(recipe: Settings) -> None:
    plan = resolve(recipe, machine(), "gemma3")
    expected = {
        "device": "cpu",
        "dtype": "float32",
        "bf16": "false",
        "attn_implementation": "sdpa",
        "use_liger_kernel": "false",
        "optim": "adamw_torch_4bit",
        "quantization": "4-bit nf4 + nested",
    }
    assert {name: plan.effective(name) for name in expected} == expected
    with pytest.raises(UsageError, match="--strict"):
        plan.require_unchanged()


@pytest.mark.parametrize(
    ("missing", "setting", "effective"),
    [
        ({"flash_attn"}, "attn_implementation", "flash_attention_2"),
        ({"flash_attn", "kernels"}, "attn_implementation", "sdpa"),
        ({"liger_kernel"}, "use_liger_kernel", "false"),
        ({"triton"}, "use_liger_kernel", "false"),
        ({"triton"}, "optim", "adamw_torch"),
        ({"torchao"}, "optim", "adamw_torch"),
        ({"bitsandbytes"}, "quantization", "none"),
    ],
)
def test_a_missing_package_is_told(recipe: Settings, missing: set[str], setting: str, effective: str) -> None:
    plan = resolve(recipe, machine((8, 0), packages=ALL - missing), "gemma3")
    assert plan.effective(setting) == effective


def test_torchaos_optimizer_needs_a_compiler_on_a_cpu(recipe: Settings) -> None:
    assert resolve(recipe, machine(compiler=None), "gemma3").effective("optim") == "adamw_torch"


@pytest.mark.parametrize(("capability", "dtype"), [((8, 0), "bfloat16"), ((7, 5), "float32")])
def test_gemma_3_is_never_computed_in_float16(
    write_config: Callable[..., Path], capability: tuple[int, int], dtype: str
) -> None:
    settings = load_config(write_config(fp16=True)).settings
    plan = resolve(settings, machine(capability), "gemma3_text")
    assert (plan.effective("dtype"), plan.effective("fp16")) == (dtype, "false")
    assert resolve(settings, machine(capability), "llama").effective("dtype") == "float16"


@pytest.mark.parametrize(
    ("keys", "effective"),
    [
        ({}, "bfloat16"),
        ({"bf16": False}, "float32"),
        ({"dtype": "float32"}, "float32"),
        ({"dtype": "auto"}, "bfloat16"),
    ],
)
def test_the_load_dtype_is_always_explicit(
    write_config: Callable[..., Path], keys: dict[str, Any], effective: str
) -> None:
    assert (
        resolve(load_config(write_config(**keys)).settings, machine((8, 0)), "gemma3").effective("dtype") == effective
    )


def test_wandb_without_a_login_goes_offline(
    write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = load_config(write_config(report_to="wandb")).settings
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert resolve(settings, machine(), "gemma3").effective("report_to") == "wandb (offline)"
    assert resolve(settings, machine(packages=ALL - {"wandb"}), "gemma3").effective("report_to") == "none"
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert resolve(settings, machine(), "gemma3").effective("report_to") == "wandb"


def test_remote_code_only_with_the_option(write_config: Callable[..., Path]) -> None:
    settings = load_config(write_config(trust_remote_code=True)).settings
    assert not resolve(settings, machine(), "gemma3").is_on("trust_remote_code")
    assert resolve(settings, machine(), "gemma3", allow_remote_code=True).is_on("trust_remote_code")


def test_this_machine_is_detected_without_torch() -> None:
    here = detect()
    assert here.cores >= 1
    assert here.memory > 0
    assert "bitsandbytes" in here.packages
