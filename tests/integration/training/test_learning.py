"""Training changes what it should: in 4 bits beside evaluations, adapter by adapter, or the run ends."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from headnote_cli.errors import UnsoundTrainingError
from headnote_cli.machine.libraries import refusing_unsound_warnings
from headnote_cli.models import loading
from headnote_cli.training import movement
from tests.commands import slds

EVALUATED: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}


def adapter(run: Path, step: int = 4) -> Path:
    return run / f"checkpoint-{step}" / "adapter_model.safetensors"


def test_a_4_bit_run_with_evaluations_and_samples_is_the_run_without_them_bit_for_bit(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    for name, keys, options in (("alone", {}, []), ("evaluated", EVALUATED, ["--sample", "1"])):
        shown = slds("train", "--config", tiny_training(output_dir=str(tmp_path / name), **keys), *options)
        assert shown.exit_code == 0, shown.stderr
    assert adapter(tmp_path / "alone").read_bytes() == adapter(tmp_path / "evaluated").read_bytes()
    second = {name: one for name, one in load_file(adapter(tmp_path / "evaluated")).items() if "lora_B" in name}
    assert second
    assert all(one.any() for one in second.values())


@pytest.fixture
def repacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes believes that the processor has AVX512-BF16, whatever it has."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)


@pytest.mark.usefixtures("repacking")
def test_an_evaluation_does_not_repack_the_4_bit_layers(
    monkeypatch: pytest.MonkeyPatch, tiny_training: Callable[..., Path]
) -> None:
    loaded: list[Any] = []
    keep = loading.keep_differentiable
    monkeypatch.setattr(loading, "keep_differentiable", lambda model: (keep(model), loaded.append(model)))
    assert slds("train", "--config", tiny_training(**EVALUATED)).exit_code == 0
    states = [one.quant_state for one in loaded[0].parameters() if getattr(one, "quant_state", None) is not None]
    assert len(states) == 14
    assert not any(getattr(state, "packing_format_for_cpu", False) for state in states)


def test_repacked_layers_end_the_run_where_the_processor_has_the_kernel_without_a_backward(
    monkeypatch: pytest.MonkeyPatch, tiny_training: Callable[..., Path]
) -> None:
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this processor has no AVX512-BF16, for which bitsandbytes repacks layers")
    monkeypatch.setattr(loading, "keep_differentiable", lambda model: None)
    shown = slds("train", "--config", tiny_training(max_steps=8, **EVALUATED))
    assert shown.exit_code == 1, "this is the fault that keep_differentiable prevents"
    assert "warns that results are wrong" in shown.stderr or "is zero for" in shown.stderr


@pytest.mark.parametrize(
    "text",
    [
        "an autograd kernel was not registered to the Autograd key(s); this may lead to silently incorrect behavior",
        "This operator has no autograd support",
        "This will lead to INCORRECT gradients",
    ],
)
def test_a_warning_of_incorrect_results_is_an_error_while_training(text: str) -> None:
    import logging

    with pytest.raises(UnsoundTrainingError, match="results are wrong"), refusing_unsound_warnings():
        warnings.warn(text, UserWarning, stacklevel=1)
    with pytest.raises(UnsoundTrainingError, match=r"^transformers warns"), refusing_unsound_warnings():
        logging.getLogger("transformers.trainer").warning(text)


def test_other_warnings_stay_warnings() -> None:
    with pytest.warns(UserWarning, match="rather slow"), refusing_unsound_warnings():
        warnings.warn("this is rather slow", UserWarning, stacklevel=1)


def silenced(monkeypatch: pytest.MonkeyPatch, chosen: Callable[[str], bool]) -> None:
    """Adapters whose gradient is zero, as behind a kernel without a backward."""
    found = movement.second_matrices

    def with_hooks(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        adapters = found(model)
        for name, parameter in adapters.items():
            if chosen(name):
                parameter.register_hook(torch.zeros_like)
        return adapters

    monkeypatch.setattr(movement, "second_matrices", with_hooks)


def test_an_adapter_without_gradient_ends_the_run_after_the_first_steps(
    monkeypatch: pytest.MonkeyPatch, tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    silenced(monkeypatch, lambda name: "layers.0.self_attn" in name)
    shown = slds("train", "--config", tiny_training(max_steps=40, save_steps=40))
    assert shown.exit_code == 1
    assert "the gradient of 4 of 14 adapters" in shown.stderr
    assert "layers.0.self_attn.k_proj" in shown.stderr
    assert "is zero for 5 steps, up to step 5" in shown.stderr
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) < 6
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


def test_gradients_that_vanish_later_end_the_run_too(
    monkeypatch: pytest.MonkeyPatch, tiny_training: Callable[..., Path]
) -> None:
    found, calls = movement.second_matrices, 0

    def vanishing(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gradient if calls <= 6 else torch.zeros_like(gradient)

    def with_hook(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        adapters = found(model)
        adapters["base_model.model.model.layers.1.mlp.up_proj"].register_hook(vanishing)
        return adapters

    monkeypatch.setattr(movement, "second_matrices", with_hook)
    shown = slds("train", "--config", tiny_training(max_steps=40, save_steps=40))
    assert shown.exit_code == 1
    assert "the gradient of 1 of 14 adapters" in shown.stderr
    assert "up to step 11" in shown.stderr


def test_full_fine_tuning_without_gradients_ends_too(
    monkeypatch: pytest.MonkeyPatch, tiny_training: Callable[..., Path]
) -> None:
    from headnote_cli.training.trainer import CompletionTrainer

    whole = CompletionTrainer.compute_loss
    monkeypatch.setattr(CompletionTrainer, "compute_loss", lambda *a, **k: whole(*a, **k) * 0 + 5)
    shown = slds("train", "--config", tiny_training(use_peft=False, load_in_4bit=False, max_steps=9))
    assert shown.exit_code == 1
    assert "all gradients are zero for 5 steps" in shown.stderr


def test_an_adapter_that_did_not_move_ends_a_short_run_with_an_error(
    monkeypatch: pytest.MonkeyPatch, tiny_training: Callable[..., Path]
) -> None:
    silenced(monkeypatch, lambda name: name.endswith("layers.1.mlp.down_proj"))
    shown = slds("train", "--config", tiny_training(max_steps=2))
    assert shown.exit_code == 1
    assert "training did not change 1 of 14 adapters" in shown.stderr
    assert "a kernel without a backward is likely" in shown.stderr


def test_a_learning_rate_of_zero_is_named_as_the_cause(tiny_training: Callable[..., Path]) -> None:
    shown = slds("train", "--config", tiny_training(learning_rate=0.0))
    assert shown.exit_code == 1
    assert "training did not change 14 of 14 adapters" in shown.stderr
    assert "the learning rate was 0 in every step" in shown.stderr


def test_the_report_says_how_many_adapters_changed(tiny_training: Callable[..., Path]) -> None:
    config = tiny_training()
    printed = json.loads(slds("train", "--config", config, "--json").stdout)
    assert printed["movement"] == {"moved": 14, "adapters": 14}
    shown = slds("train", "--config", config)  # finished: told from its record
    assert "all 14 changed" in shown.stdout


def test_adapters_of_the_unused_vision_tower_are_no_fault(tiny_training: Callable[..., Path]) -> None:
    everywhere = r".*\.(q_proj|v_proj|fc1|vision_tower_none)"
    config = tiny_training("AutoModelForImageTextToText", lora_target_modules=everywhere, load_in_4bit=False)
    shown = slds("train", "--config", config)
    assert shown.exit_code == 0, shown.stderr
    assert "the others are in parts that text does not use" in shown.stdout


def test_a_run_without_adapters_reports_none(tiny_training: Callable[..., Path]) -> None:
    config = tiny_training(use_peft=False, load_in_4bit=False, learning_rate=1e-4, max_steps=2)
    assert json.loads(slds("train", "--config", config, "--json").stdout)["movement"] is None


def test_an_evaluation_takes_no_time_of_a_step() -> None:
    from types import SimpleNamespace

    from headnote_cli.events import Event, StepDone
    from headnote_cli.runs.timings import Laps
    from headnote_cli.training.callbacks import Reporter

    told: list[Event] = []
    reporter = Reporter(Path("nowhere"), told.append, 0, Laps(), on_gpu=False)
    state = SimpleNamespace(global_step=0, max_steps=11, is_world_process_zero=True)
    clock = iter([100.0, 102.0])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("headnote_cli.training.callbacks.time", SimpleNamespace(monotonic=lambda: next(clock)))
        reporter.on_train_begin(None, state, None)  # an evaluation of minutes follows, which asks for no time
        reporter.on_prediction_step(None, state, None, eval_dataloader=[None] * 9)
        reporter.on_step_begin(None, state, None)
        state.global_step = 1
        reporter.on_step_end(None, state, None)
    done = reporter._step(state, {"loss": 1.0, "num_tokens": 500})
    assert isinstance(done, StepDone)
    assert (done.seconds_left, done.tokens_per_second) == (20.0, 250.0)


def test_a_resumed_run_keeps_the_highest_peak_of_all_its_processes(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training()
    assert slds("train", "--config", config).exit_code == 0
    file = tmp_path / "run" / "run.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    higher = record["measured_memory"]["peak_rss"] + 10**12
    file.write_text(json.dumps(record | {"state": "running", "measured_memory": {"peak_rss": higher}}))
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    assert slds("train", "--config", config).exit_code == 0
    assert json.loads(file.read_text(encoding="utf-8"))["measured_memory"]["peak_rss"] == higher
