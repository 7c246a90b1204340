"""The whole road, by the command line, with both Gemma 3 classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import slds, slds_json
from tests.conftest import sample_rows

CLASSES = ("AutoModelForCausalLM", "AutoModelForImageTextToText")


@pytest.mark.parametrize("model_class", CLASSES)
def test_train_merge_and_generate(model_class: str, tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    config = tiny_training(model_class, max_steps=12, save_steps=6, eval_strategy="steps", eval_steps=6)

    trained = slds_json("train", "--config", config)
    run = Path(trained["run"])
    record = json.loads((run / "run.json").read_text())
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert trained["state"] == record["state"] == "finished"
    assert trained["steps"] == len(losses) == 12
    assert sum(losses[-4:]) < sum(losses[:4]), "the loss fell"
    assert record["model"]["quantized_layers"] == (14 if model_class == CLASSES[0] else 14 + 6), (
        "2 × 7, and the tower has 6"
    )
    assert trained["checkpoint"] == str(run / "checkpoint-12")
    assert trained["eval_loss"] > 0

    merged = slds_json("merge", "--checkpoint", "checkpoint-12", "--config", config)
    assert merged["verified"] is True
    assert merged["tensors"]["merged"] == 14, "the language model's linear layers, and no vision tower"

    decision = tmp_path / "decision.txt"
    decision.write_text(sample_rows("test")[0]["decision"], encoding="utf-8")
    written = slds_json("generate", "--decision", decision, "--lang", "de", "--config", config, "--max-new-tokens", 8)
    assert written["lang"] == "de"
    assert written["tokens"]["completion"] <= 8
    assert written["tokens"]["cut"] > 0
    assert written["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("model_class", CLASSES)
def test_the_merged_folder_loads_in_plain_transformers_with_pefts_own_result(
    model_class: str, tiny_training: Callable[..., Path], tiny_models: Callable[[str], Path]
) -> None:
    import torch
    import transformers
    from peft import PeftModel

    config = tiny_training(model_class)
    trained = slds_json("train", "--config", config)
    merged = slds_json("merge", "--checkpoint", "latest", "--config", config)

    loader = getattr(transformers, model_class)
    base = loader.from_pretrained(tiny_models(model_class), dtype=torch.float32)
    with_adapter = PeftModel.from_pretrained(base, trained["checkpoint"]).eval()
    alone = loader.from_pretrained(merged["output"], dtype=torch.float32).eval()
    ids = torch.arange(10, 60)[None]
    with torch.inference_mode():
        expected = with_adapter(input_ids=ids).logits
        torch.testing.assert_close(alone(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    reference = with_adapter.merge_and_unload().state_dict()
    assert all(torch.equal(tensor, reference[name]) for name, tensor in alone.state_dict().items())
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged["output"])
    assert tokenizer.chat_template
    if model_class == "AutoModelForImageTextToText":
        assert (Path(merged["output"]) / "preprocessor_config.json").is_file()


def test_a_finished_run_is_not_trained_again(tiny_training: Callable[..., Path]) -> None:
    config = tiny_training(max_steps=2)
    first = slds_json("train", "--config", config)
    before = (Path(first["checkpoint"]) / "adapter_model.safetensors").stat().st_mtime_ns
    second = slds_json("train", "--config", config)
    assert second["steps"] == first["steps"]
    assert second["train_loss"] == first["train_loss"]
    assert (Path(first["checkpoint"]) / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_no_resume_sets_the_old_run_aside(tiny_training: Callable[..., Path]) -> None:
    config = tiny_training(max_steps=2)
    run = Path(slds_json("train", "--config", config)["run"])
    slds_json("train", "--config", config, "--no-resume")
    assert len(list(run.parent.glob("run.old-*/checkpoint-2"))) == 1


def test_a_changed_config_does_not_continue_another_run(tiny_training: Callable[..., Path]) -> None:
    config = tiny_training(max_steps=2)
    slds_json("train", "--config", config)
    result = slds("train", "--config", config, "--set", "lora_r=8")
    assert result.exit_code == 2
    assert "lora_r 4 → 8" in result.stderr
    assert "--no-resume" in result.stderr


def test_a_broken_checkpoint_is_set_aside_and_an_older_whole_one_taken(tiny_training: Callable[..., Path]) -> None:
    config = tiny_training(max_steps=4)
    run = Path(slds_json("train", "--config", config)["run"])
    whole = (run / "checkpoint-4" / "adapter_model.safetensors").read_bytes()
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"state": "running"}))
    (run / "checkpoint-4" / "optimizer.pt").unlink()
    result = slds("train", "--config", config)
    assert result.exit_code == 0, result.stderr
    assert "optimizer.pt is missing" in result.stderr
    assert "resuming from" in result.stderr
    assert "checkpoint-2" in result.stderr
    assert (run / "checkpoint-4" / "adapter_model.safetensors").read_bytes() == whole, "the resumed run is the same run"


def test_overflow_drop_with_no_row_left_is_an_error(tiny_training: Callable[..., Path]) -> None:
    result = slds("train", "--config", tiny_training(overflow="drop", max_length=256))
    assert result.exit_code == 5
    assert "no row is left" in result.stderr


def test_full_fine_tuning_and_plain_lora_train_too(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    full = tiny_training(
        use_peft=False, load_in_4bit=False, max_steps=2, output_dir=str(tmp_path / "full"), learning_rate=1e-4
    )
    assert slds_json("train", "--config", full)["steps"] == 2
    result = slds("merge", "--checkpoint", "latest", "--config", full)
    assert result.exit_code == 2
    assert "whole model" in result.stderr
    decision = tmp_path / "d.txt"
    decision.write_text("Erwägungen 1. Streitig ist Art. 41 OR.", encoding="utf-8")
    written = slds("generate", "--decision", decision, "--lang", "de", "--config", full, "--max-new-tokens", 3)
    assert written.exit_code == 0, written.stderr
    lora = tiny_training(load_in_4bit=False, max_steps=2, output_dir=str(tmp_path / "lora"))
    assert slds_json("train", "--config", lora)["steps"] == 2


def test_dry_run_trains_nothing(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    report = slds_json("train", "--config", tiny_training(), "--dry-run")
    assert report["state"] == "dry run"
    assert {row["setting"] for row in report["plan"]} >= {"dtype", "attn_implementation", "optim", "quantization"}
    assert not (tmp_path / "run").exists()


def test_strict_refuses_what_a_cpu_cannot_do(tiny_training: Callable[..., Path]) -> None:
    result = slds("train", "--config", tiny_training(attn_implementation="flash_attention_2"), "--strict")
    assert result.exit_code == 2
    assert "FlashAttention-2 needs a CUDA GPU" in result.stderr


def test_an_existing_merge_is_kept_unless_forced(tiny_training: Callable[..., Path]) -> None:
    config = tiny_training(max_steps=2)
    slds_json("train", "--config", config)
    output = Path(slds_json("merge", "--checkpoint", "checkpoint-2", "--config", config)["output"])
    again = slds("merge", "--checkpoint", "checkpoint-2", "--config", config)
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    forced = slds_json("merge", "--checkpoint", "checkpoint-2", "--config", config, "--force")
    assert Path(forced["output"]) == output
    assert not list(output.parent.glob(f"*{output.name}?*")), "the older one went when the new one was whole"


def test_generate_from_a_checkpoint_and_into_a_file(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    config = tiny_training(max_steps=2)
    checkpoint = slds_json("train", "--config", config)["checkpoint"]
    folder = tmp_path / "decisions"
    folder.mkdir()
    for row in sample_rows("test")[::3]:
        (folder / f"{row['decision_id']}.txt").write_text(row["decision"], encoding="utf-8")
    output = tmp_path / "headnotes.jsonl"
    arguments = (
        "generate",
        "--decision",
        folder,
        "--lang",
        "de",
        "--lang",
        "it",
        "--config",
        config,
        "--model",
        checkpoint,
    )
    result = slds(*arguments, "--max-new-tokens", 4, "--output", output)
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["lang"] for row in rows] == ["de", "it", "de", "it"]
    assert slds(*arguments, "--output", output).exit_code == 2, "an existing output is not overwritten"


def test_a_real_french_decision_goes_in_whole_length_and_a_headnote_comes_out(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    from tests.conftest import real_rows

    row = next(row for row in real_rows("test") if row["decision_language"] == "fr")
    decision = tmp_path / "real.txt"
    decision.write_text(row["decision"], encoding="utf-8")
    config = tiny_training(max_steps=2)
    slds_json("train", "--config", config)
    slds_json("merge", "--checkpoint", "latest", "--config", config)
    written = slds_json("generate", "--decision", decision, "--lang", "de", "--config", config, "--max-new-tokens", 4)
    assert written["tokens"]["cut"] > 1000
    assert written["tokens"]["prompt"] <= 768
