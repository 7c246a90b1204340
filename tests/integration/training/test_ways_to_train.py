"""Ways to train beside plain QLoRA, and what a run tells: seeds, accumulation, samples, early stopping, runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from headnote_cli.runs.folders import tampered
from tests.commands import losses, slds
from tests.conftest import PROMPTS, SAMPLES

# The keys of the workshop's `sft_liger_peft.yaml`, with a smaller batch, wandb, workers and remote code.
RECIPE = """
mode: train
model_class: AutoModelForImageTextToText
dataset_name: {data}
dataset_train_split: train
dataset_eval_split: validation
dataset_test_split: test
prompts_path: {prompts}
fine_tuning_data_format: conversational_prompt_completion
model_name_or_path: {model}
trust_remote_code: true
dtype: bfloat16
attn_implementation: flash_attention_2
use_peft: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.1
lora_target_modules: all-linear
lora_task_type: CAUSAL_LM
load_in_4bit: true
use_liger_kernel: true
output_dir: {output}
dataset_num_proc: 8
max_length: 8192
per_device_train_batch_size: 3
per_device_eval_batch_size: 1
gradient_accumulation_steps: 1
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
ddp_find_unused_parameters: true
optim: adamw_torch_4bit
learning_rate: 2.0e-4
lr_scheduler_type: cosine
warmup_ratio: 0.1
num_train_epochs: 1
bf16: true
logging_steps: 1
logging_first_step: true
save_strategy: epoch
save_total_limit: 2
seed: 42
report_to: wandb
"""


def test_two_runs_of_one_config_are_the_same_bit_for_bit_with_and_without_samples(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"load_in_4bit": False, "lora_dropout": 0.2, "eval_strategy": "steps", "eval_steps": 2}
    adapters = []
    for name, options in (("one", []), ("two", ["--sample", "2"])):
        run = tmp_path / name
        shown = slds("train", "--config", tiny_training(output_dir=str(run), **keys), *options)
        assert shown.exit_code == 0, shown.stderr
        adapters.append((run / "checkpoint-4" / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]
    written = [json.loads(line) for line in (tmp_path / "two" / "samples" / "step-4.jsonl").read_text().splitlines()]
    assert len(written) == 2
    assert all(one["reference"] and one["name"] for one in written)
    assert "official:" in shown.stderr


def test_accumulated_batches_give_the_loss_of_one_large_batch(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    """Rows of different length: a mean of means would differ."""
    found = []
    for batch, steps in ((4, 1), (1, 4)):
        run = tmp_path / f"{batch}x{steps}"
        config = tiny_training(
            output_dir=str(run), load_in_4bit=False, per_device_train_batch_size=batch, max_steps=3,
            gradient_accumulation_steps=steps, train_sampling_strategy="sequential", learning_rate=1e-3,
        )  # fmt: skip
        assert slds("train", "--config", config).exit_code == 0
        found.append(losses(run))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize(
    "keys",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"lora_modules_to_save": ["q_norm"]},
        {"lora_target_modules": ["q_proj", "v_proj"]},
        {"use_peft": False, "learning_rate": 1e-4},
        {"lora_target_parameters": ["mlp.gate_proj.weight"], "lora_target_modules": None},
    ],
    ids=["rslora", "dora", "modules_to_save", "targets", "full", "target_parameters"],
)
def test_every_way_of_training_runs_and_learns(
    keys: dict[str, Any], tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    shown = slds("train", "--config", tiny_training(load_in_4bit=False, max_steps=4, **keys))
    assert shown.exit_code == 0, shown.stderr
    assert len(losses(tmp_path / "run")) == 4
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["model"]["trainable"] > 0
    assert "README.md" in {file.name for file in (tmp_path / "run" / "checkpoint-4").iterdir()}


def test_a_run_can_start_from_another_runs_adapter(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    keys = {"load_in_4bit": False, "max_steps": 8, "save_steps": 8, "learning_rate": 0.1}
    assert slds("train", "--config", tiny_training(output_dir=str(tmp_path / "first"), **keys)).exit_code == 0
    adapter = tmp_path / "first" / "checkpoint-8"
    barely = keys | {"max_steps": 1, "save_steps": 1, "learning_rate": 1e-9}
    config = tiny_training(output_dir=str(tmp_path / "second"), peft_peft_model_path=str(adapter), **barely)
    shown = slds("train", "--config", config)
    assert shown.exit_code == 0, shown.stderr
    assert f"starting from the adapter {adapter}" in shown.stderr
    first = load_file(adapter / "adapter_model.safetensors")
    second = load_file(tmp_path / "second" / "checkpoint-1" / "adapter_model.safetensors")
    assert max(float(weight.abs().max()) for name, weight in first.items() if "lora_B" in name) > 1e-3
    for name, weight in first.items():
        assert float((weight - second[name]).abs().max()) < 1e-5, "it goes on from where the other ended"


def test_early_stopping_ends_a_run_that_no_longer_improves(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    config = tiny_training(
        load_in_4bit=False, max_steps=40, save_steps=1, eval_strategy="steps", eval_steps=1, early_stopping=2,
        learning_rate=1e-12,
    )  # fmt: skip
    shown = slds("train", "--config", config, "--json")
    assert shown.exit_code == 0, shown.stderr
    assert json.loads(shown.stdout)["steps"] <= 4


def test_a_resumed_run_keeps_its_patience(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    """Nothing improves at so low a rate: the fourth evaluation is the third without a gain."""
    keys: dict[str, Any] = {
        "load_in_4bit": False, "max_steps": 40, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1,
        "early_stopping": 3, "learning_rate": 1e-12,
    }  # fmt: skip
    config = tiny_training(output_dir=str(tmp_path / "run"), **keys)
    assert json.loads(slds("train", "--config", config, "--json").stdout)["steps"] == 4
    for stopped_after in (2, 3, 4):  # as a kill leaves it, after the last step too
        shutil.rmtree(tmp_path / f"run/checkpoint-{stopped_after + 1}", ignore_errors=True)
        forget_the_end(tmp_path / "run")
        resumed = slds("train", "--config", config, "--json")
        assert resumed.exit_code == 0, resumed.stderr
        assert json.loads(resumed.stdout)["steps"] == 4, f"after step {stopped_after}"


def test_a_run_that_stops_early_keeps_what_it_learnt(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    config = tiny_training(
        load_in_4bit=False, max_steps=40, save_steps=30, eval_strategy="steps", eval_steps=1, early_stopping=1,
        learning_rate=1e-12,
    )  # fmt: skip
    shown = slds("train", "--config", config, "--json")
    assert shown.exit_code == 0, shown.stderr
    assert json.loads(shown.stdout)["checkpoint"] == str(tmp_path / "run" / "checkpoint-2")


def forget_the_end(run: Path) -> None:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps(record | {"state": "running"}), encoding="utf-8")


def test_a_finished_run_is_trained_again_where_its_last_checkpoint_is_gone(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config, run = tiny_training(), tmp_path / "run"
    assert slds("train", "--config", config).exit_code == 0
    before = losses(run)
    assert "this run is finished" in slds("train", "--config", config).stderr
    shutil.rmtree(run / "checkpoint-4")
    shown = slds("train", "--config", config)
    assert shown.exit_code == 0, shown.stderr
    assert "its checkpoint-4 is gone: it is trained again from what is left" in shown.stderr
    assert (run / "checkpoint-4").is_dir()
    assert losses(run) == before


def test_a_resume_tells_what_changed_and_goes_on_with_another_run_when_forced(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(load_in_4bit=False)
    assert slds("train", "--config", config).exit_code == 0
    same = slds("train", "--config", config, "--set", "seed=42", "--set", "save_steps=3")
    assert same.exit_code == 0, same.stderr
    assert "since the run began: save_steps 2 → 3" in same.stderr
    longer = ("train", "--config", config, "--set", "max_steps=6")
    refused = slds(*longer)
    assert refused.exit_code == 2
    assert "max_steps 4 → 6" in refused.stderr
    assert "--force" in refused.stderr
    forced = slds(*longer, "--force", "--json")
    assert forced.exit_code == 0, forced.stderr
    assert json.loads(forced.stdout)["steps"] == 6
    assert "max_steps 4 → 6; --force goes on all the same" in forced.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["num_processes"] == 1


def test_a_target_that_the_model_lacks_ends_the_command(tiny_training: Callable[..., Path]) -> None:
    config = tiny_training(load_in_4bit=False, lora_target_modules=["q_proj", "nonexistent_proj"])
    refused = slds("train", "--config", config)
    assert refused.exit_code == 2
    assert "the model has no nonexistent_proj; nearest: " in refused.stderr


@pytest.mark.slow
def test_the_recipes_own_file_trains_here(tiny_models: Callable[[str], Path], tmp_path: Path) -> None:
    """Unchanged but for the names of model, data, prompts and output; torchao compiles its optimizer step."""
    file = tmp_path / "recipe.yaml"
    file.write_text(
        RECIPE.format(
            model=tiny_models("AutoModelForImageTextToText"), data=SAMPLES, prompts=PROMPTS, output=tmp_path / "run"
        ),
        encoding="utf-8",
    )
    shown = slds("train", "--config", file, "--set", "max_steps=2", "--json")
    assert shown.exit_code == 0, shown.stderr
    plan = {row["setting"]: row for row in json.loads(shown.stdout)["plan"]}
    assert plan["optim"]["effective"] in ("adamw_torch_4bit", "adamw_torch"), "the latter without a compiler"
    assert plan["quantization"]["effective"] == "4-bit nf4"
    assert plan["trust_remote_code"]["effective"] == "false"
    assert plan["report_to"]["effective"] in ("none", "wandb (offline)")
    assert len(losses(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "checkpoint-2" / "adapter_model.safetensors").is_file()


def test_runs_are_listed_and_compared(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    for name, rate in (("one", 0.01), ("two", 0.02)):
        config = tiny_training(
            output_dir=str(tmp_path / "runs" / name), load_in_4bit=False, max_steps=1, save_steps=1, learning_rate=rate
        )
        assert slds("train", "--config", config).exit_code == 0
    listed = json.loads(slds("runs", tmp_path / "runs", "--json").stdout)["runs"]
    assert {(Path(one["run"]).name, one["state"], one["steps"]) for one in listed} == {
        ("one", "finished", 1), ("two", "finished", 1),
    }  # fmt: skip
    compared = slds("runs", "diff", tmp_path / "runs" / "one", tmp_path / "runs" / "two", "--json")
    changed = json.loads(compared.stdout)["differences"]
    assert changed["learning_rate"] == [0.01, 0.02]
    assert slds("runs", tmp_path / "nowhere").exit_code == 4
    assert "finished" in slds("runs", tmp_path / "runs").stdout
    assert "learning_rate" in slds("runs", "diff", tmp_path / "runs" / "one", tmp_path / "runs" / "two").stdout
    assert slds("runs", "diff", tmp_path / "runs" / "one", tmp_path / "nowhere").exit_code == 4


def test_the_record_explains_the_run_and_every_checkpoint_has_its_card(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    shown = slds("train", "--config", tiny_training(load_in_4bit=False, eval_strategy="steps", eval_steps=2))
    assert shown.exit_code == 0, shown.stderr
    run = tmp_path / "run"
    record = json.loads((run / "run.json").read_text())
    assert {"cores", "memory", "gpus", "device"} <= record["hardware"].keys()
    resolved = record["resolved"]
    assert (resolved["optim"], resolved["lora_r"], resolved["adam_beta2"]) == ("adamw_torch", 4, 0.999)
    assert resolved["train_sampling_strategy"] == "group_by_length", "a default of ours"
    assert "hub_token" not in resolved
    assert {"imports", "config", "data", "model", "trainer", "first step"} <= record["timings"].keys()
    assert all(seconds >= 0 for seconds in record["timings"].values())
    for step in (2, 4):
        card = (run / f"checkpoint-{step}" / "README.md").read_text(encoding="utf-8")
        assert f"| steps | {step} |" in card
        assert "not measured" not in card
        assert "license: gemma" in card
        assert tampered(run / f"checkpoint-{step}") is None
    assert not (run / "README.md").exists(), "no draft of the libraries"
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    for fact in ("model: ", "method: LoRA r=4", "data: train: 30 rows", "memory: ", "trainable: "):
        assert fact in shown.stderr


def test_the_best_checkpoint_is_uploaded_when_asked(
    tiny_training: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(huggingface_hub, "create_repo", lambda name, **options: f"https://huggingface.co/{name}")
    monkeypatch.setattr(huggingface_hub, "upload_folder", lambda **options: sent.append(options))
    config = tiny_training(load_in_4bit=False)
    assert slds("train", "--config", config).exit_code == 0
    assert not sent, "nothing goes up unasked"
    shown = slds("train", "--config", config, "--push", "me/headnotes")
    assert shown.exit_code == 0, shown.stderr
    assert [(one["repo_id"], one["folder_path"]) for one in sent] == [
        ("me/headnotes", str(tmp_path / "run" / "checkpoint-4"))
    ]
    assert "uploaded checkpoint-4 to https://huggingface.co/me/headnotes" in shown.stderr


@pytest.mark.parametrize(
    "key", ["save_only_model=true", "ignore_data_skip=true", "accelerator_config={use_seedable_sampler: false}"]
)
def test_what_breaks_a_resume_is_a_warning_at_the_start_and_refused_later(
    key: str, tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(max_steps=4, save_steps=2)
    name = key.partition("=")[0]
    shown = slds("train", "--config", config, "--set", key)
    assert shown.exit_code == 0, shown.stderr
    assert f"`{name}" in shown.stderr
    assert "a stopped run cannot go on" in shown.stderr
    run = tmp_path / "run"
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"state": "running"}))  # as a kill leaves it
    shutil.rmtree(run / "checkpoint-4")
    refused = slds("train", "--config", config, "--set", key)
    assert refused.exit_code == 2
    assert "cannot go on as the same run" in refused.stderr
    assert "--no-resume" in refused.stderr
    assert slds("train", "--config", config, "--set", key, "--force").exit_code == 0
    shutil.rmtree(run / "checkpoint-2")
    shutil.rmtree(run / "checkpoint-4")
    (run / "run.json").write_text(json.dumps(record | {"state": "running"}))
    assert slds("train", "--config", config, "--set", key).exit_code == 0, "from its start it is the same run"


def test_a_schedule_that_waits_for_a_plateau_binds_the_evaluations(tiny_training: Callable[..., Path]) -> None:
    keys = {"eval_strategy": "steps", "eval_steps": 2, "lr_scheduler_type": "reduce_lr_on_plateau"}
    config = tiny_training(load_in_4bit=False, **keys)
    assert slds("train", "--config", config).exit_code == 0
    refused = slds("train", "--config", config, "--set", "eval_steps=1")
    assert refused.exit_code == 2
    assert "eval_steps 2 → 1" in refused.stderr


def test_keys_that_are_done_otherwise_are_ignored_with_a_note(tiny_training: Callable[..., Path]) -> None:
    keys = {"assistant_only_loss": True, "enable_jit_checkpoint": True, "remove_unused_columns": False}
    shown = slds("train", "--config", tiny_training(max_steps=1, **keys))
    assert shown.exit_code == 0, shown.stderr
    for key in keys:
        assert f"`{key}` is ignored: " in shown.stderr


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("activation_offloading=true", "needs a GPU"),
        ("save_strategy=best", "needs evaluations"),
        ("lr_scheduler_type=cosine_with_min_lr", "`lr_scheduler_type: cosine_with_min_lr` cannot be used"),
        ("optim=galore_adamw", "`optim: galore_adamw` cannot be used"),
        ("optim=lomo", "`optim: lomo` cannot be used"),
    ],
)
def test_what_training_cannot_do_is_refused_before_anything_is_loaded(
    key: str, told: str, tiny_training: Callable[..., Path]
) -> None:
    for options in (["--dry-run"], []):
        refused = slds("train", "--config", tiny_training(), "--set", key, *options)
        assert refused.exit_code == 2, refused.stderr
        assert told in refused.stderr
