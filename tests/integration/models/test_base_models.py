"""Bases as people have them: moved, quantized, of another class, without the end of a turn, with older templates."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import slds, slds_json
from tests.conftest import CHAT_TEMPLATE, sample_rows

CAUSAL, IMAGE_TEXT = "AutoModelForCausalLM", "AutoModelForImageTextToText"


def copy_of(model: Path, target: Path) -> Path:
    shutil.copytree(model, target)
    return target


def changed(file: Path, **keys: Any) -> None:
    """Other values in a JSON file; None takes a key out."""
    held = json.loads(file.read_text(encoding="utf-8")) | keys
    file.write_text(json.dumps({key: value for key, value in held.items() if value is not None}), encoding="utf-8")


@pytest.fixture
def decision(tmp_path: Path) -> Path:
    file = tmp_path / "decision.txt"
    file.write_text(sample_rows("test")[0]["decision"], encoding="utf-8")
    return file


# A base that moved.


@pytest.fixture
def moved(tiny_training: Callable[..., Path], tiny_models: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """The config of a run, and where its base lies now."""
    before, now = copy_of(tiny_models(CAUSAL), tmp_path / "cluster"), tmp_path / "home"
    config = tiny_training(model_name_or_path=str(before), max_steps=2)
    assert slds("train", "--config", config).exit_code == 0
    before.rename(now)
    return config, now


def test_a_base_that_is_gone_is_named_with_the_key_that_says_where_it_is(
    moved: tuple[Path, Path], decision: Path, tmp_path: Path
) -> None:
    config, now = moved
    elsewhere = ("--config", config, "--set", f"model_name_or_path={now}")
    generate = ("generate", "--decision", decision, "--lang", "de", "--model", tmp_path / "run" / "checkpoint-2")
    for command in (("merge", "--checkpoint", "latest"), generate):
        refused = slds(*command, *elsewhere)
        assert refused.exit_code == 4, refused.stderr
        assert f"{tmp_path / 'cluster'}: the base model that the adapter was trained on is missing" in refused.stderr
        assert "peft_base_model_path" in refused.stderr
        assert "gated" not in refused.stderr
        assert "repo" not in refused.stderr.lower()


def test_the_same_weights_elsewhere_are_taken_by_their_fingerprint(
    moved: tuple[Path, Path], decision: Path, tmp_path: Path
) -> None:
    config, now = moved
    elsewhere = ("--config", config, "--set", f"model_name_or_path={now}", "--set", f"peft_base_model_path={now}")
    merged = slds_json("merge", "--checkpoint", "latest", *elsewhere)
    assert (merged["base"], merged["verified"]) == (str(now), True)
    adapter = tmp_path / "run" / "checkpoint-2"
    written = slds(
        "generate", "--decision", decision, "--lang", "de", "--model", adapter, "--max-new-tokens", 4, *elsewhere
    )
    assert written.exit_code == 0, written.stderr


def test_other_weights_in_the_place_of_a_base_that_is_gone_are_refused(moved: tuple[Path, Path]) -> None:
    from safetensors.torch import load_file, save_file

    config, now = moved
    weights = load_file(now / "model.safetensors")
    save_file({name: one + 1 for name, one in weights.items()}, now / "model.safetensors", {"format": "pt"})
    refused = slds("merge", "--checkpoint", "latest", "--config", config, "--set", f"peft_base_model_path={now}")
    assert refused.exit_code == 5
    assert "their fingerprint differs" in refused.stderr


def test_a_relative_base_that_is_gone_is_no_hub_id(
    tiny_training: Callable[..., Path], tiny_models: Callable[[str], Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    copy_of(tiny_models(CAUSAL), tmp_path / "base")
    config = tiny_training(model_name_or_path="base", max_steps=1)
    assert slds("train", "--config", config).exit_code == 0
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    refused = slds("merge", "--checkpoint", "latest", "--config", config)
    assert refused.exit_code == 4
    assert "base: the base model that the adapter was trained on is missing" in refused.stderr
    wrong = slds("merge", "--checkpoint", "latest", "--config", config, "--set", "peft_base_model_path=/nowhere")
    assert wrong.exit_code == 4
    assert "/nowhere: the `peft_base_model_path` is not there" in wrong.stderr
    assert slds_json("merge", "--checkpoint", "latest", "--config", config, "--set", "peft_base_model_path=elsewhere")


def test_a_path_where_nothing_lies_is_said_to_be_missing_by_every_command(
    tiny_training: Callable[..., Path], decision: Path
) -> None:
    config = tiny_training(model_name_or_path="/gone/model")
    generate = ("generate", "--decision", decision, "--lang", "de", "--model", "/gone/model")
    commands = (("train",), ("train", "--dry-run"), ("check-memory",), generate)
    for command in commands:
        refused = slds(*command, "--config", config)
        assert refused.exit_code == 4, (command, refused.stderr)
        assert re.search("/gone/model: the (model|tokenizer) is not there: no such file or folder", refused.stderr)
    shown = slds("preview-prompts", "--config", config, "-n", 1)  # shows the messages all the same
    assert "/gone/model: the tokenizer is not there" in shown.stderr
    whole = tiny_training(chat_template_path="nowhere.jinja")
    refused = slds("train", "--config", whole)
    assert refused.exit_code == 4
    assert "nowhere.jinja: the chat template is not there" in refused.stderr


def test_a_run_goes_on_with_the_same_weights_at_another_place(
    tiny_training: Callable[..., Path], tiny_models: Callable[[str], Path], tmp_path: Path
) -> None:
    before, now = copy_of(tiny_models(CAUSAL), tmp_path / "before"), tmp_path / "now"
    keys = {"max_steps": 4, "save_steps": 2, "load_in_4bit": False}
    assert slds("train", "--config", tiny_training(model_name_or_path=str(before), **keys)).exit_code == 0
    record = tmp_path / "run" / "run.json"
    changed(record, state="running")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    before.rename(now)
    shown = slds("train", "--config", tiny_training(model_name_or_path=str(now), **keys))
    assert shown.exit_code == 0, shown.stderr
    assert f"since the run began: model_name_or_path {before} → {now}" in shown.stderr


# A base that is quantized already.


@pytest.fixture
def quantized(tiny_models: Callable[[str], Path], tmp_path: Path) -> Path:
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    source = tiny_models(CAUSAL)
    AutoModelForCausalLM.from_pretrained(source, quantization_config=how, dtype=torch.float32).save_pretrained(
        tmp_path / "base-bnb-4bit"
    )
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "base-bnb-4bit")
    return tmp_path / "base-bnb-4bit"


@pytest.mark.parametrize("asked", [True, False])
def test_a_quantized_base_trains_and_merges_onto_what_its_weights_stand_for(
    asked: bool, quantized: Path, tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = tiny_training(model_name_or_path=str(quantized), load_in_4bit=asked)
    trained = slds_json("train", "--config", config)
    row = next(row for row in trained["plan"] if row["setting"] == "quantization")
    assert row["effective"] == "4-bit nf4 + nested"
    assert "already" in row["why"]
    merged = slds_json("merge", "--checkpoint", "latest", "--config", config)
    assert merged["base"] == str(quantized)
    assert not (tmp_path / "run" / ".checkpoint-4-merged.writing").exists()
    folder = Path(merged["output"])
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    alone = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with_adapter = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(quantized, dtype=torch.float32), trained["checkpoint"]
    ).eval()
    for module in with_adapter.modules():  # else the reference multiplies in bfloat16
        if type(module).__name__ == "Linear4bit":
            module.compute_dtype, module.support_avx512bf16_for_cpu = torch.float32, False
    ids = torch.arange(10, 60)[None]
    with torch.inference_mode():
        torch.testing.assert_close(
            alone(input_ids=ids).logits, with_adapter(input_ids=ids).logits, rtol=1e-3, atol=1e-4
        )


def test_onto_nf4_is_the_same_for_a_quantized_base_and_16_bit_weights_can_be_named(
    quantized: Path, tiny_models: Callable[[str], Path], tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(model_name_or_path=str(quantized), load_in_4bit=False, max_steps=2)
    assert slds("train", "--config", config).exit_code == 0
    outputs = {
        "onto-base": (),
        "onto-nf4": ("--onto", "nf4"),
        "whole": ("--set", f"peft_base_model_path={tiny_models(CAUSAL)}"),
    }
    for name, options in outputs.items():
        merged = slds_json("merge", "--checkpoint", "latest", "--config", config, "--output", tmp_path / name, *options)
        assert merged["verified"] is True
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in outputs}
    assert weights["onto-base"] == weights["onto-nf4"] != weights["whole"]
    assert merged["base"] == str(tiny_models(CAUSAL))


def test_a_quantized_base_is_estimated_in_four_bits(
    quantized: Path, tiny_models: Callable[[str], Path], tiny_training: Callable[..., Path]
) -> None:
    def weights(model: Path) -> Any:
        config = tiny_training(model_name_or_path=str(model), load_in_4bit=False)
        (run,) = slds_json("check-memory", "--config", config)["runs"]
        return run["components"]["weights"], run["method"]

    (packed, method), (plain, _) = weights(quantized), weights(tiny_models(CAUSAL))
    assert packed < plain
    assert method == "QLoRA r=4"


def test_quantized_weights_are_not_trained_whole_and_other_methods_are_named(
    quantized: Path, tiny_training: Callable[..., Path]
) -> None:
    whole = tiny_training(model_name_or_path=str(quantized), load_in_4bit=False, use_peft=False)
    refused = slds("train", "--config", whole, "--dry-run")
    assert refused.exit_code == 2
    assert "quantized weights cannot be trained" in refused.stderr
    changed(quantized / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    for command in ("train", "check-memory"):
        refused = slds(command, "--config", whole)
        assert refused.exit_code == 2
        assert "quantized (gptq), which is not trained on" in refused.stderr


# A class that does not load the base.


def test_an_image_text_class_on_a_text_only_model_is_refused_by_every_command(
    tiny_models: Callable[[str], Path], tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(max_steps=1)
    assert slds("train", "--config", config).exit_code == 0
    (tmp_path / "run" / "run.json").unlink()  # an adapter of another tool
    wrong = tiny_training(model_class=IMAGE_TEXT, model_name_or_path=str(tiny_models(CAUSAL)))
    commands = (
        ("train", "--dry-run"),
        ("train",),
        ("preview-prompts",),
        ("check-memory",),
        ("merge", "--checkpoint", "latest"),
    )
    for command in commands:
        refused = slds(*command, "--config", wrong)
        assert refused.exit_code == 2, (command, refused.stderr)
        assert f"`model_class: {IMAGE_TEXT}` does not load" in refused.stderr
        assert f"write `model_class: {CAUSAL}`" in refused.stderr


# Where it stops.


def test_a_merged_model_stops_where_its_template_ends_a_turn(
    tiny_models: Callable[[str], Path], tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    base = copy_of(tiny_models(CAUSAL), tmp_path / "pretrained")
    changed(base / "generation_config.json", eos_token_id=1)
    config = tiny_training(model_name_or_path=str(base), max_steps=1)
    assert slds("train", "--config", config).exit_code == 0
    folder = Path(slds_json("merge", "--checkpoint", "latest", "--config", config)["output"])
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [end, 1]
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == [end, 1]
    assert tokenizer.eos_token == "<end_of_turn>"
    assert slds("merge", "--check", folder).exit_code == 0


def test_what_stops_at_the_turn_already_stays_and_the_rest_follows(
    tiny_models: Callable[[str], Path], tiny_training: Callable[..., Path], gemma_tokenizer: Any, tmp_path: Path
) -> None:
    base = copy_of(tiny_models(CAUSAL), tmp_path / "chat")
    both = [1, gemma_tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    changed(base / "generation_config.json", eos_token_id=both)
    config = tiny_training(model_name_or_path=str(base), max_steps=1)
    assert slds("train", "--config", config).exit_code == 0
    folder = Path(slds_json("merge", "--checkpoint", "latest", "--config", config)["output"])
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == both
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == [both[1], 1]
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<end_of_turn>"


def test_a_checkpoint_of_full_fine_tuning_stops_there_too(
    tiny_training: Callable[..., Path], gemma_tokenizer: Any, tmp_path: Path
) -> None:
    config = tiny_training(use_peft=False, load_in_4bit=False, learning_rate=1e-4, max_steps=2)
    assert slds("train", "--config", config).exit_code == 0
    folder = tmp_path / "run" / "checkpoint-2"
    for name in ("generation_config.json", "config.json"):
        stops = json.loads((folder / name).read_text())["eos_token_id"]
        assert gemma_tokenizer.convert_tokens_to_ids("<end_of_turn>") in stops
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<end_of_turn>"


def test_trls_eos_token_is_applied_or_refused(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    config = tiny_training(max_steps=1)
    refused = slds("train", "--config", config, "--dry-run", "--set", "eos_token=<end_of_tern>")
    assert refused.exit_code == 2
    assert "did you mean <end_of_turn>?" in refused.stderr
    assert slds("train", "--config", config, "--set", "eos_token=<unk>").exit_code == 0
    saved = json.loads((tmp_path / "run" / "checkpoint-1" / "tokenizer_config.json").read_text())
    assert saved["eos_token"] == "<unk>"
    folder = Path(slds_json("merge", "--checkpoint", "latest", "--config", config)["output"])
    stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert 3 in stops, "<unk>"
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<unk>"


def test_the_merged_folder_holds_one_chat_template_that_of_training(
    tiny_models: Callable[[str], Path], tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    """As google/gemma-3-4b-it on the hub: a template for the processor beside the tokenizer's."""
    from transformers.processing_utils import ProcessorMixin

    base = copy_of(tiny_models(IMAGE_TEXT), tmp_path / "base")
    (base / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}), encoding="utf-8")
    changed(base / "tokenizer_config.json", chat_template=CHAT_TEMPLATE)
    template = tmp_path / "new.jinja"
    template.write_text("{# new #}" + CHAT_TEMPLATE, encoding="utf-8")
    config = tiny_training(
        IMAGE_TEXT, model_name_or_path=str(base), chat_template_path=str(template), max_steps=1, load_in_4bit=False
    )
    assert slds("train", "--config", config).exit_code == 0
    folder = Path(slds_json("merge", "--checkpoint", "latest", "--config", config)["output"])
    assert (folder / "chat_template.jinja").read_text().startswith("{# new #}")
    assert not (folder / "chat_template.json").exists()
    assert "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text())
    values, _ = ProcessorMixin.get_processor_dict(folder)
    assert "{# new #}" in values["chat_template"]


# Rows longer than the model was made for.


def test_a_length_beyond_the_models_positions_is_a_warning_of_every_command(
    tiny_models: Callable[[str], Path], tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    base = copy_of(tiny_models(CAUSAL), tmp_path / "short")
    changed(base / "config.json", max_position_embeddings=128)
    config = tiny_training(model_name_or_path=str(base), max_length=4000)
    for command in (("train", "--dry-run"), ("preview-prompts", "-n", "1"), ("check-memory",)):
        shown = slds(*command, "--config", config)
        assert shown.exit_code == 0, shown.stderr
        assert "`max_length: 4,000` is beyond the 128 positions that the model was made for" in shown.stderr
    within = slds("train", "--dry-run", "--config", config, "--set", "max_length=128", "--set", "overflow=drop")
    assert "positions" not in within.stderr
