"""What may change between a run and its continuation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.config.layers import load_config
from headnote_cli.machine.detect import Machine
from headnote_cli.machine.plan import resolve
from headnote_cli.runs.resuming import Changes, changes_since

MACHINE = Machine((), frozenset({"bitsandbytes", "torchao"}), "g++", cores=2, memory=2**34)


@pytest.fixture
def changes(write_config: Callable[..., Path]) -> Callable[..., Changes]:
    """The changes from one config to another, on the same machine unless said otherwise."""

    def find(before: dict[str, Any], after: dict[str, Any], machine: Machine = MACHINE, processes: int = 1) -> Changes:
        began, now = (load_config(write_config(**keys)) for keys in (before, after))
        plan = resolve(began.settings, MACHINE, "gemma3_text")
        record = {"config": began.written(), "plan": plan.to_json(), "num_processes": 1}
        return changes_since(record, now.settings, resolve(now.settings, machine, "gemma3_text"), processes)

    return find


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"seed": 42}),
        ({}, {"max_grad_norm": 1.0}),
        ({}, {"train_sampling_strategy": "group_by_length"}),
        ({"per_device_train_batch_size": 3}, {"per_device_train_batch_size": 3, "per_device_eval_batch_size": 3}),
        ({"bf16": True}, {"bf16": False}),  # a CPU trains in float32 either way
    ],
)
def test_a_value_that_was_in_effect_before_is_no_change(
    before: dict[str, Any], after: dict[str, Any], changes: Callable[..., Changes]
) -> None:
    assert changes(before, after) == Changes((), ())


def test_what_is_shown_and_kept_may_change_and_is_told(changes: Callable[..., Changes]) -> None:
    found = changes({"save_steps": 2}, {"save_steps": 5, "run_name": "second"})
    assert found == Changes(("run_name nothing → second", "save_steps 2 → 5"), ())


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ({}, {"seed": 1}, "seed 42 → 1"),
        ({}, {"train_sampling_strategy": "random"}, "train_sampling_strategy group_by_length → random"),
        ({"use_peft": True, "load_in_4bit": True}, {"use_peft": True}, "quantization 4-bit nf4 → none"),
        ({"optim": "adamw_torch"}, {"optim": "adamw_torch_8bit"}, "optim adamw_torch → adamw_torch_8bit"),
        ({"lora_r": 4}, {"lora_r": 8}, "lora_r 4 → 8"),
    ],
)
def test_what_is_learnt_may_not(
    before: dict[str, Any], after: dict[str, Any], line: str, changes: Callable[..., Changes]
) -> None:
    assert changes(before, after) == Changes((), (line,))


def test_when_a_run_is_evaluated_decides_its_end_under_early_stopping(changes: Callable[..., Changes]) -> None:
    before = {"eval_strategy": "steps", "eval_steps": 2}
    assert changes(before, before | {"eval_steps": 4}) == Changes(("eval_steps 2 → 4",), ())
    stopping = before | {"early_stopping": 2}
    assert changes(stopping, stopping | {"eval_steps": 4}) == Changes((), ("eval_steps 2 → 4",))


def test_another_machine_or_number_of_processes_is_another_run(changes: Callable[..., Changes]) -> None:
    keys = {"optim": "adamw_torch_4bit"}
    without = Machine((), frozenset({"bitsandbytes"}), None, cores=2, memory=2**34)
    assert changes(keys, keys, without).binding == ("optim adamw_torch_4bit → adamw_torch",)
    assert changes({}, {}, processes=2).binding == ("processes 1 → 2",)
