"""The plan: what each generation of GPU, and a CPU, can do of what is asked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.config.keys import Settings
from headnote_cli.config.layers import load_config
from headnote_cli.errors import UsageError
from headnote_cli.machine.detect import REPORTERS, Gpu, Machine, detect
from headnote_cli.machine.plan import Plan, require_toolchain, resolve, shown
from headnote_cli.machine.reporters import offline_environment
from headnote_cli.models.adapter_base import noted_quantization
from tests.conftest import ROOT

ALL = frozenset({"bitsandbytes", "flash_attn", "kernels", "liger_kernel", "torchao", "triton", "wandb", "tensorboard"})
GIB = 2**30


def machine(*capabilities: tuple[int, int], packages: frozenset[str] = ALL, compiler: str | None = "g++") -> Machine:
    gpus = tuple(Gpu(f"sm{major}{minor}", (major, minor), 24 * GIB) for major, minor in capabilities)
    return Machine(gpus, packages, compiler, cores=2, memory=24 * GIB)


def done(plan: Plan, setting: str) -> str:
    """What a plan shows for a setting."""
    return next(row["effective"] for row in plan.to_json() if row["setting"] == setting)


def reporting(plan: Plan) -> tuple[list[str], dict[str, str]]:
    return [one.name for one in plan.reporters], offline_environment(plan.reporters)


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
    assert done(plan, "dtype") == "float32"
    assert done(plan, "bf16") == "false"
    assert done(plan, "attn_implementation") == "sdpa"
    assert done(plan, "use_liger_kernel") == "true"


def test_the_weakest_of_several_gpus_decides(recipe: Settings) -> None:
    assert done(resolve(recipe, machine((8, 0), (7, 5)), "gemma3"), "attn_implementation") == "sdpa"


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
    assert {name: done(plan, name) for name in expected} == expected
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
    assert done(plan, setting) == effective


def test_torchaos_optimizer_needs_a_compiler_on_a_cpu(recipe: Settings) -> None:
    assert done(resolve(recipe, machine(compiler=None), "gemma3"), "optim") == "adamw_torch"


@pytest.mark.parametrize(("capability", "dtype"), [((8, 0), "bfloat16"), ((7, 5), "float32")])
def test_gemma_3_is_never_computed_in_float16(
    write_config: Callable[..., Path], capability: tuple[int, int], dtype: str
) -> None:
    settings = load_config(write_config(fp16=True)).settings
    plan = resolve(settings, machine(capability), "gemma3_text")
    assert (done(plan, "dtype"), done(plan, "fp16")) == (dtype, "false")
    adapted = load_config(write_config(fp16=True, use_peft=True)).settings
    assert done(resolve(adapted, machine(capability), "llama"), "dtype") == "float16"


def test_fp16_steps_float32_weights_in_full_fine_tuning(write_config: Callable[..., Path]) -> None:
    """A scaler cannot unscale gradients of float16 weights."""
    plan = resolve(load_config(write_config(fp16=True)).settings, machine((7, 5)), "llama")
    assert (plan.dtype, plan.fp16) == ("float32", True)


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
    assert done(resolve(load_config(write_config(**keys)).settings, machine((8, 0)), "gemma3"), "dtype") == effective


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "SWANLAB_API_KEY", "SWANLAB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)


@pytest.mark.usefixtures("no_login")
def test_wandb_without_a_login_goes_offline(
    write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = load_config(write_config(report_to="wandb")).settings
    plan = resolve(settings, machine(), "gemma3")
    assert done(plan, "report_to") == "wandb (offline)"
    assert reporting(plan) == (["wandb"], {"WANDB_MODE": "offline"})
    assert done(resolve(settings, machine(packages=ALL - {"wandb"}), "gemma3"), "report_to") == "none"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n", encoding="utf-8")
    assert reporting(resolve(settings, machine(), "gemma3")) == (["wandb"], {})
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert done(resolve(settings, machine(), "gemma3"), "report_to") == "wandb"


@pytest.mark.usefixtures("no_login")
@pytest.mark.parametrize("name", [name for name in REPORTERS if name not in ("wandb", "tensorboard")])
def test_a_reporter_without_its_package_is_left_out_and_told(write_config: Callable[..., Path], name: str) -> None:
    settings = load_config(write_config(report_to=[name, "tensorboard"])).settings
    plan = resolve(settings, machine(), "gemma3")
    assert reporting(plan)[0] == ["tensorboard"]
    assert plan.changes()[-1].why == f"the `{REPORTERS[name]}` package is not installed"
    installed = resolve(settings, machine(packages=ALL | {REPORTERS[name]}), "gemma3")
    assert reporting(installed)[0] == [name, "tensorboard"]


@pytest.mark.usefixtures("no_login")
def test_all_reporters_are_those_installed_and_an_unknown_one_is_refused(write_config: Callable[..., Path]) -> None:
    plan = resolve(load_config(write_config(report_to="all")).settings, machine(), "gemma3")
    assert reporting(plan) == (["tensorboard", "wandb"], {"WANDB_MODE": "offline"})
    with pytest.raises(UsageError, match="tensorbord"):
        resolve(load_config(write_config(report_to="tensorbord")).settings, machine(), "gemma3")


def test_padding_free_needs_flash_attention(write_config: Callable[..., Path]) -> None:
    flash = {"padding_free": True, "attn_implementation": "flash_attention_2"}
    settings = load_config(write_config(**flash)).settings
    assert done(resolve(settings, machine((8, 0)), "gemma3"), "padding_free") == "true"
    assert done(resolve(settings, machine(), "gemma3"), "padding_free") == "false"
    assert (
        done(resolve(load_config(write_config(padding_free=True)).settings, machine((8, 0)), "gemma3"), "padding_free")
        == "false"
    )


def test_remote_code_only_with_the_option(write_config: Callable[..., Path]) -> None:
    settings = load_config(write_config(trust_remote_code=True)).settings
    assert done(resolve(settings, machine(), "gemma3"), "trust_remote_code") == "false"
    assert done(resolve(settings, machine(), "gemma3", allow_remote_code=True), "trust_remote_code") == "true"


def test_this_machine_is_detected_without_torch() -> None:
    here = detect()
    assert here.cores >= 1
    assert here.memory > 0
    assert "bitsandbytes" in here.packages


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to a core")
@pytest.mark.parametrize(("environment", "threads"), [({}, 1), ({"OMP_NUM_THREADS": "2"}, 2)])
def test_torch_takes_as_many_threads_as_it_may(environment: dict[str, str], threads: int) -> None:
    """The cores that this process may use, or what the user said: so nothing has to be set."""
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); import torch; print(torch.get_num_threads())"
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    shown = subprocess.run([sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True)
    assert int(shown.stdout) == threads, shown.stderr


# The plan of the shipped recipe on each generation: with every package, and without each.

CARDS = {"T4": (7, 5), "RTX 3090": (8, 6), "L4": (8, 9), "A100": (8, 0), "H100": (9, 0)}
WHOLE = ("bfloat16", "flash_attention_2", True, "adamw_torch_4bit", "4-bit nf4 + nested")
WITHOUT: dict[str, dict[int, Any]] = {  # what changes, by its place in WHOLE
    "flash_attn kernels": {1: "sdpa"},
    "liger_kernel": {2: False},
    "triton": {2: False, 3: "adamw_torch"},
    "torchao": {3: "adamw_torch"},
    "bitsandbytes": {4: "none"},
}


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("missing", ["", *WITHOUT])
def test_the_plan_for_a_card_with_and_without_each_package(recipe: Settings, name: str, missing: str) -> None:
    plan = resolve(recipe, machine(CARDS[name], packages=ALL - set(missing.split())), "gemma3")
    expected = list(WHOLE if name != "T4" else ("float32", "sdpa", *WHOLE[2:]))
    for place, value in WITHOUT.get(missing, {}).items():
        expected[place] = value
    assert [plan.dtype, plan.attention, plan.liger, plan.optimizer, shown(plan.quantization)] == expected
    assert plan.bf16 is (name != "T4")
    assert plan.allocator == "expandable_segments:True"


def test_a_kernels_package_of_another_version_is_no_flash_attention(recipe: Settings) -> None:
    fault = "kernels 0.17.2 is installed, and transformers 5.23.0 takes <0.19,>=0.18.2"
    old = replace(machine((8, 6), packages=ALL - {"flash_attn"}), kernels_fault=fault)
    plan = resolve(recipe, old, "gemma3")
    assert plan.attention == "sdpa"
    assert fault in [row.why for row in plan.changes()]


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ({"c_compiler": None}, "a C compiler (on Debian `apt install gcc`)"),
        ({"has_python_headers": False}, "Python's headers (on Debian `apt install python3-dev`)"),
        ({"packages": ALL - {"triton"}}, "the `triton` package"),
    ],
)
def test_what_the_first_step_compiles_with_is_asked_for_before_anything_is_loaded(
    recipe: Settings, lacking: dict[str, Any], named: str
) -> None:
    whole = replace(machine((8, 6)), c_compiler="cc", has_python_headers=True)
    require_toolchain(resolve(recipe, whole, "gemma3"), whole)
    less = replace(whole, **lacking)
    with pytest.raises(UsageError, match=re.escape(named)):
        require_toolchain(resolve(recipe, less, "gemma3"), less)
    on_a_cpu = replace(less, gpus=())
    require_toolchain(resolve(recipe, on_a_cpu, "gemma3"), on_a_cpu)


def test_the_plan_is_written_in_words_and_read_back_by_nobody(recipe: Settings) -> None:
    plan = resolve(recipe, machine((8, 6)), "gemma3")
    record = {"quantization": asdict(plan.quantization)} if plan.quantization else {}
    assert noted_quantization(record) == plan.quantization
    assert noted_quantization({"quantization": None}) is None
    assert all(isinstance(value, str) for row in plan.to_json() for value in row.values())
