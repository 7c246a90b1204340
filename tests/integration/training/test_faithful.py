"""What is trained is what TRL would train: ids, labels, loss and gradients, against TRL itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import create_model

from headnote_cli.config import upstream_keys
from headnote_cli.config.layers import load_config
from headnote_cli.config.upstream_keys import UpstreamKeys
from headnote_cli.data.encoding import Encoder
from headnote_cli.data.prompts import PromptTemplates
from headnote_cli.errors import ConfigError
from headnote_cli.machine.plan import resolve
from headnote_cli.models.base import base_model
from headnote_cli.models.loading import (
    load_for_training,
    load_model,
    lora_config,
    require_targets,
    this_machine,
    unquantized_bytes,
    weight_bytes,
)
from headnote_cli.training.job import same_attention
from scripts.generate_keys import differences
from tests.conftest import PROMPTS, ROOT, sample_rows
from tests.trainers import completion_trainer


@pytest.mark.parametrize("name", ["gemma_tokenizer", "chatml_tokenizer"])
def test_ids_and_labels_are_those_that_trl_makes(
    name: str, request: pytest.FixtureRequest, tiny_models: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch
    from datasets import Dataset
    from transformers import Gemma3ForCausalLM
    from trl import SFTConfig, SFTTrainer

    from tests.conftest import text_config

    tokenizer = request.getfixturevalue(name)
    encoder = Encoder(tokenizer, PromptTemplates(PROMPTS))
    encoded = [encoder.encode(row) for row in sample_rows("train")]
    rows = [{"prompt": e.conversation.prompt, "completion": e.conversation.completion} for e in encoded if e]
    torch.manual_seed(0)
    arguments = SFTConfig(str(tmp_path), max_length=None, use_cpu=True, bf16=False, activation_checkpointing=False)
    trainer = SFTTrainer(
        Gemma3ForCausalLM(text_config(len(tokenizer))),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    for mine, theirs in zip(encoded, trainer.train_dataset, strict=True):
        assert mine is not None
        assert mine.example() == {"input_ids": theirs["input_ids"], "labels": theirs["labels"]}


@pytest.fixture
def trainer(tiny_training: Callable[..., Path]) -> Callable[..., Any]:
    """A CompletionTrainer on a tiny model, as `slds train` builds it."""

    def build(**keys: Any) -> Any:

        from headnote_cli.config.layers import load_config
        from headnote_cli.data.encoding import encoder_for
        from headnote_cli.data.preparation import prepare
        from headnote_cli.data.sources import load_split
        from headnote_cli.machine.plan import resolve
        from headnote_cli.models.base import base_model, load_tokenizer
        from headnote_cli.models.loading import this_machine

        config = load_config(tiny_training(**keys))
        plan = resolve(config.settings, this_machine(), "gemma3_text")
        base = base_model(config)
        encoder = encoder_for(config, PromptTemplates(PROMPTS), load_tokenizer(base))
        rows = prepare(load_split(config, "train"), encoder, workers=1).dataset.select(range(8))
        return completion_trainer(config, plan, rows, encoder.tokenizer)

    return build


def gradients(model: Any) -> dict[str, Any]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("model_class", ["AutoModelForCausalLM", "AutoModelForImageTextToText"])
def test_scoring_label_positions_alone_gives_trls_own_loss_and_gradients(
    model_class: str, trainer: Callable[..., Any]
) -> None:
    import torch
    from trl import SFTTrainer

    built = trainer(model_class=model_class, load_in_4bit=False)
    batch = built.data_collator([built.train_dataset[index] for index in range(4)])
    assert len({len(row) for row in built.train_dataset[:4]["input_ids"]}) > 1, "rows of different length"
    results = []
    for compute in (built.compute_loss, lambda *a, **k: SFTTrainer.compute_loss(built, *a, **k)):
        built.model.zero_grad()
        loss = compute(built.model, dict(batch), num_items_in_batch=torch.tensor(500))
        loss.backward()
        results.append((loss.detach(), gradients(built.model)))
    (mine, my_gradients), (theirs, their_gradients) = results
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    assert my_gradients.keys() == their_gradients.keys()
    for name, gradient in my_gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name], rtol=1e-4, atol=1e-6)


def test_the_loss_equals_an_independent_computation_from_logits(trainer: Callable[..., Any]) -> None:
    import torch

    built = trainer(load_in_4bit=False)
    built.model.eval()
    rows = [built.train_dataset[index] for index in range(3)]
    total, count = 0.0, 0
    for row in rows:  # one by one, no padding, by hand
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            logits = built.model(input_ids=ids).logits[0]
        log_probabilities = logits[:-1].float().log_softmax(-1)
        for position, label in enumerate(labels[1:].tolist()):
            if label != -100:
                total -= float(log_probabilities[position, label])
                count += 1
    with torch.no_grad():
        loss = built.compute_loss(built.model, built.data_collator(rows))
    assert float(loss) == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 5])
def test_the_evaluation_loss_is_the_mean_over_all_labels_of_the_split(batch: int, trainer: Callable[..., Any]) -> None:
    """Whatever the batch: a mean of the batches' means would be another number."""
    import torch

    built = trainer(load_in_4bit=False, per_device_eval_batch_size=batch)
    rows = built.train_dataset.select(range(7))
    total, count = 0.0, 0
    built.model.eval()
    for row in rows:  # one by one, no padding, by hand
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            logits = built.model(input_ids=ids).logits[0, :-1].double()
        total += float(torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum"))
        count += int((labels[1:] != -100).sum())
    assert built.evaluate(rows)["eval_loss"] == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"lora_target_modules": ["q_proj", "k_porj"]}, "no k_porj; nearest: k_proj"),
        ({"lora_target_modules": ["nonexistent"]}, "no nonexistent; nearest: down_proj"),
        ({"lora_target_modules": "q_proj"}, "no q_proj"),  # a string is a regular expression for the whole name
        ({"lora_modules_to_save": ["q_nrom"]}, "no q_nrom"),
        ({"lora_target_parameters": ["mlp.gate.weight"], "lora_target_modules": None}, "no mlp.gate.weight"),
    ],
)
def test_a_target_that_the_model_lacks_is_named_with_the_nearest(
    keys: dict[str, Any], said: str, tiny_training: Callable[..., Path]
) -> None:
    lora, model = lora_and_model(tiny_training(**keys))
    with pytest.raises(ConfigError, match=re.escape(said)):
        require_targets(model, lora)


@pytest.mark.parametrize(
    ("keys", "adapted"),
    [
        ({"lora_target_modules": ["q_proj"]}, 2),
        ({"lora_target_modules": ["layers.0.self_attn.q_proj", "v_proj"]}, 3),
        ({"lora_target_modules": r".*\.(q|v)_proj"}, 4),
        ({"lora_target_modules": "all-linear"}, 14),
        ({"lora_target_modules": ["all-linear"]}, 14),
    ],
)
def test_targets_are_found_by_pefts_rule(
    keys: dict[str, Any], adapted: int, tiny_training: Callable[..., Path]
) -> None:
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    lora, model = lora_and_model(tiny_training(**keys))
    require_targets(model, lora)
    assert sum(isinstance(module, LoraLayer) for module in get_peft_model(model, lora).modules()) == adapted


def lora_and_model(file: Path) -> tuple[Any, Any]:
    """A config's LoRA settings, and its base model."""
    config = load_config(file)
    plan = resolve(config.settings, this_machine(), "gemma3_text")
    model = load_model(base_model(config), torch.float32, torch.device("cpu"))
    return lora_config(config.settings, plan), model


def test_flash_attention_of_the_kernels_package_is_the_planned_one() -> None:
    from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK

    assert same_attention("flash_attention_2", "flash_attention_2")
    assert same_attention("flash_attention_2", FLASH_ATTN_KERNEL_FALLBACK["flash_attention_2"])
    assert same_attention("sdpa", "sdpa")
    assert not same_attention("flash_attention_2", "sdpa")
    assert not same_attention("flash_attention_2", FLASH_ATTN_KERNEL_FALLBACK["flash_attention_3"])


def test_the_bytes_before_and_after_4_bit_are_told(tiny_training: Callable[..., Path]) -> None:
    config = load_config(tiny_training())
    base, plan = base_model(config), resolve(config.settings, this_machine(), "gemma3_text")
    whole, packed = load_model(base, torch.float32, torch.device("cpu")), load_for_training(base, config.settings, plan)
    assert unquantized_bytes(packed, torch.float32) == unquantized_bytes(whole, torch.float32) == weight_bytes(whole)
    assert weight_bytes(packed) < weight_bytes(whole)


def test_adapters_are_float32_and_on_the_language_model_alone(trainer: Callable[..., Any]) -> None:
    import torch

    built = trainer(model_class="AutoModelForImageTextToText")
    trainable = [(name, p) for name, p in built.model.named_parameters() if p.requires_grad]
    assert len(trainable) == 2 * 7 * 2
    assert all(parameter.dtype == torch.float32 for _, parameter in trainable)
    assert all("language_model" in name for name, _ in trainable)


def test_the_key_table_is_that_of_the_installed_versions() -> None:
    """Newer ones than ours too, by `make test-latest`."""
    assert differences() == []


def test_a_key_that_the_installed_version_should_lack_or_lacks_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {
        name: (f.annotation, f) for name, f in UpstreamKeys.model_fields.items() if name != "lora_r"
    }
    monkeypatch.setattr("scripts.generate_keys.UpstreamKeys", create_model("Known", new_key=(int, 3), **fields))
    assert [line.partition(":")[0] for line in differences()] == ["lora_r", "new_key"]


def test_the_key_table_was_generated_with_the_pinned_versions() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    header = " ".join(str(upstream_keys.__doc__).split())
    for library in ("trl", "transformers"):
        (version,) = (line.partition("==")[2] for line in pins if line.startswith(f"{library}=="))
        assert f"{library} {version}" in header, "run scripts/generate_keys.py"
