"""What a GPU's path does, as far as a CPU can show it: 16-bit models under autocast, device maps, TRL's own loss."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_VERSIONS

from headnote_cli.errors import UnreachableError, is_out_of_memory
from headnote_cli.merging import verification
from headnote_cli.models import loading
from headnote_cli.training import callbacks, command
from tests.commands import slds
from tests.conftest import sample_rows

EVALUATED: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "max_steps": 4}


@pytest.fixture
def sixteen_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that trains as a GPU does: bfloat16 weights, autocast, float32 adapters."""
    resolve = command.resolve

    def as_on_a_gpu(*arguments: Any) -> Any:
        return dataclasses.replace(resolve(*arguments), dtype="bfloat16", bf16=True)

    monkeypatch.setattr(command, "resolve", as_on_a_gpu)


@pytest.mark.usefixtures("sixteen_bits")
@pytest.mark.parametrize("model_class", ["AutoModelForCausalLM", "AutoModelForImageTextToText"])
@pytest.mark.parametrize("four_bits", [True, False])
def test_samples_are_written_in_16_bits_with_float32_adapters(
    model_class: str, four_bits: bool, tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(model_class, load_in_4bit=four_bits, **EVALUATED)
    shown = slds("train", "--config", config, "--sample", "1")
    assert shown.exit_code == 0, shown.stderr
    assert "no sample is written" not in shown.stderr
    assert (tmp_path / "run" / "samples" / "step-4.jsonl").is_file()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"]["dtypes"].keys() <= {"bfloat16", "uint8"}


def test_a_sample_follows_the_saving_and_its_failure_ends_no_run(
    tiny_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = callbacks.SampleWriter._headnote

    def failing(self: Any, model: Any, row: Any) -> Any:
        if self.trainer.state.global_step == 4:
            raise RuntimeError("expected m1 and m2 to have the same dtype")
        return written(self, model, row)

    monkeypatch.setattr(callbacks.SampleWriter, "_headnote", failing)
    shown = slds("train", "--config", tiny_training(**EVALUATED), "--sample", "1")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stderr.index("checkpoint-2") < shown.stderr.index("written: ")
    assert "no sample is written after step 4: expected m1 and m2" in shown.stderr


# Each load goes where the plan says.


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The device maps of all loads."""
    given: list[Any] = []
    for loader in (transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText):
        own = loader.from_pretrained

        def recording(*arguments: Any, own: Any = own, **options: Any) -> Any:
            given.append(options.get("device_map", "none") if "quantization_config" in options else "whole")
            return own(*arguments, **options)

        monkeypatch.setattr(loader, "from_pretrained", recording)
    return given


def test_quantized_weights_are_loaded_onto_the_planned_device_by_every_command(
    maps: list[Any], tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    decision = tmp_path / "decision.txt"
    decision.write_text(sample_rows("test")[0]["decision"], encoding="utf-8")
    config = tiny_training(max_steps=2)
    assert slds("train", "--config", config).exit_code == 0
    assert slds("merge", "--checkpoint", "latest", "--config", config).exit_code == 0
    checkpoint = ("--model", tmp_path / "run" / "checkpoint-2", "--max-new-tokens", "2")
    assert slds("generate", "--decision", decision, "--lang", "de", "--config", config, *checkpoint).exit_code == 0
    on_the_cpu = {"": torch.device("cpu")}
    assert maps.count(on_the_cpu) == 3, "training, the merge's comparison with it, generation"
    assert "none" not in maps


def test_a_merge_that_cannot_be_verified_stays_under_a_name_that_says_so(
    tiny_training: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_training(max_steps=2)
    assert slds("train", "--config", config).exit_code == 0

    def failing(*_: Any) -> Any:
        raise RuntimeError("Expected all tensors to be on the same device")

    monkeypatch.setattr(verification, "_compare_models", failing)
    shown = slds("merge", "--checkpoint", "latest", "--config", config)
    assert shown.exit_code == 1
    kept = tmp_path / "run" / "checkpoint-2-merged-unverified"
    assert f"it lies unverified in {kept}" in shown.stderr
    assert "--no-verify" in shown.stderr
    transformers.AutoModelForCausalLM.from_pretrained(kept)
    assert not (tmp_path / "run" / "checkpoint-2-merged").exists()


def test_a_cpu_run_beside_a_gpu_asks_cuda_for_nothing(
    tiny_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: Any) -> Any:
        raise AssertionError("a context was opened")

    for name in ("max_memory_allocated", "max_memory_reserved", "current_device"):
        monkeypatch.setattr(torch.cuda, name, opened)
    config = tiny_training(max_steps=1)
    assert slds("train", "--config", config).exit_code == 0


# TRL's own loss, and the mask that it need not have.


def test_trls_loss_gets_no_mask_for_padding_on_the_right_and_is_the_same(
    tiny_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from headnote_cli.training.trainer import CompletionTrainer

    def losses(mask_is_dropped: bool) -> list[float]:
        seen: list[bool] = []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(CompletionTrainer, "_plain_loss", lambda self: False)
            if not mask_is_dropped:
                patched.setattr("headnote_cli.training.trainer._padded_right", lambda mask: False)
            forward = transformers.Gemma3TextModel.forward

            def noting(self: Any, *arguments: Any, **options: Any) -> Any:
                seen.append(options.get("attention_mask") is not None)
                return forward(self, *arguments, **options)

            patched.setattr(transformers.Gemma3TextModel, "forward", noting)
            config = tiny_training(load_in_4bit=False, max_steps=3, output_dir=str(folder / str(mask_is_dropped)))
            shown = slds("train", "--config", config)
        assert shown.exit_code == 0, shown.stderr
        assert set(seen) == {not mask_is_dropped}
        lines = (folder / str(mask_is_dropped) / "metrics.jsonl").read_text().splitlines()
        return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]

    folder = Path(json.loads(slds("train", "--config", tiny_training(), "--print-config", "--json").stdout)["config"]
                  ["output_dir"]).parent  # fmt: skip
    assert losses(True) == pytest.approx(losses(False), abs=1e-5)


# What is missing is named.


def test_a_kernel_that_cannot_be_fetched_is_named_with_what_goes_on_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UnreachableError) as caught, loading._naming_the_kernel():
        raise ValueError("An error occurred while trying to load from 'kernels-community/flash-attn2': offline.")
    assert "the FlashAttention-2 kernel cannot be fetched" in caught.value.message
    assert "attn_implementation: sdpa" in str(caught.value.hint)
    # The `kernels` package reads a cached kernel by the branch of its version, and as a repository of its own type.
    fetched = (
        f"--repo-type kernel --revision v{FLASH_ATTN_KERNEL_VERSIONS[loading.FLASH_KERNEL]} {loading.FLASH_KERNEL}"
    )
    assert f"`hf download {fetched}`" in str(caught.value.hint)
    with pytest.raises(ValueError, match="another"), loading._naming_the_kernel():
        raise ValueError("another")


def test_a_library_of_the_gpu_may_be_out_of_memory_too() -> None:
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:32"}, "max_split_size_mb:32"),
    ],
)
def test_segments_of_the_allocator_grow_unless_the_user_says_otherwise(given: dict[str, str], told: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.endswith("ALLOC_CONF")}
    code = (
        "import headnote_cli.models, os, sys; assert 'torch' not in sys.modules\n"
        "print(os.environ['PYTORCH_ALLOC_CONF'])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean | given)
    assert shown.stdout.strip() == told
