"""What transformers, PEFT, TRL and Liger do on a GPU, emulated on a CPU: true by reading, kept true here."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from trl import SFTTrainer
from typer.testing import CliRunner

from headnote_cli.cli.app import app
from headnote_cli.config.layers import load_config
from headnote_cli.data.encoding import IGNORED
from headnote_cli.generation.decoder import Decoder, RowState
from headnote_cli.generation.sampling import Sampling
from headnote_cli.machine.plan import resolve
from headnote_cli.models.base import base_model, load_tokenizer
from headnote_cli.models.loading import this_machine
from headnote_cli.training import command
from tests.commands import losses
from tests.conftest import text_config
from tests.flash import install
from tests.trainers import completion_trainer

Trainer = Callable[..., Any]


def slds(*arguments: object) -> None:
    shown = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert shown.exit_code == 0, shown.stderr


@pytest.fixture
def trainer(tiny_training: Callable[..., Path]) -> Trainer:
    """The image-text class with 4-bit weights and adapters that are not zero, and a batch with padding."""

    def build(**keys: Any) -> Any:
        config = load_config(tiny_training("AutoModelForImageTextToText", **keys))
        plan = dataclasses.replace(resolve(config.settings, this_machine(), "gemma3"), dtype="bfloat16")
        dice = torch.Generator().manual_seed(0)
        ids = [torch.randint(5, 500, (length,), generator=dice).tolist() for length in (300, 200, 40)]
        rows = [{"input_ids": row, "labels": [IGNORED] * (len(row) - 20) + row[-20:]} for row in ids]
        return completion_trainer(config, plan, Dataset.from_list(rows), load_tokenizer(base_model(config)))

    return build


def batch_of(built: Any) -> dict[str, torch.Tensor]:
    batch: dict[str, torch.Tensor] = built.data_collator(list(built.train_dataset))
    return batch


def test_trls_loss_of_the_image_text_class_in_4_bits_is_that_of_the_whole_logits(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 under autocast, as on a GPU, where TRL scores label positions alone."""
    monkeypatch.setattr("trl.trainer.utils._use_triton", lambda device: True)
    built = trainer()
    batch = batch_of(built)
    with torch.autocast("cpu", torch.bfloat16):
        loss = SFTTrainer.compute_loss(built, built.model, dict(batch))
    loss.backward()
    found = {name: p.grad.clone() for name, p in built.model.named_parameters() if p.requires_grad}
    built.model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits = built.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), batch["labels"][:, 1:].flatten())
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=5e-3)
    assert found
    for name, parameter in built.model.named_parameters():
        if parameter.requires_grad:
            alike = torch.nn.functional.cosine_similarity(found[name].flatten(), parameter.grad.flatten(), dim=0)
            assert float(alike) > 0.99, name


def test_rows_without_token_types_are_read_as_text(trainer: Trainer) -> None:
    """Gemma 3's processor sends a zero for each token of text; ours are encoded by the tokenizer, which sends none."""
    built = trainer(load_in_4bit=False)
    batch = batch_of(built)
    assert "token_type_ids" not in batch
    batch.pop("labels")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        without = built.model(**batch).logits
        zeros = built.model(**batch, token_type_ids=torch.zeros_like(batch["input_ids"])).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(without[real], zeros[real])


# Liger


@pytest.mark.filterwarnings("ignore:`use_liger_kernel=True` is deprecated:FutureWarning")
def test_trl_keeps_its_own_head_and_loss_from_liger(
    tiny_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Liger's own head would replace the forward that TRL has extended; its default is to do so."""
    given: list[tuple[str, dict[str, Any]]] = []
    stand_in = ModuleType("liger_kernel.transformers")
    stand_in._apply_liger_kernel_to_instance = lambda model, **options: given.append(  # type: ignore[attr-defined]
        (type(model).__name__, options)
    )
    package = ModuleType("liger_kernel")
    package.__spec__ = ModuleSpec("liger_kernel", loader=None)
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", stand_in)
    monkeypatch.setattr("transformers.integrations.liger.is_liger_kernel_available", lambda: True)
    monkeypatch.setattr("transformers.training_args.is_liger_kernel_available", lambda: True, raising=False)
    _planned(monkeypatch, liger=True)
    slds("train", "--config", tiny_training("AutoModelForImageTextToText", use_liger_kernel=True, max_steps=1))
    assert given == [("Gemma3ForConditionalGeneration", {"fused_linear_cross_entropy": False})]


def test_ligers_patches_leave_trls_forward_alone(tiny_models: Callable[[str], Path]) -> None:
    """In a process of its own: they hold for whole classes."""
    pytest.importorskip("liger_kernel", reason="the `gpu` extra is not installed")
    code = f"""
from transformers import Gemma3ForConditionalGeneration
from trl.trainer.utils import add_fused_lm_head
from transformers.integrations.liger import apply_liger_kernel

model = Gemma3ForConditionalGeneration.from_pretrained({str(tiny_models("AutoModelForImageTextToText"))!r})
add_fused_lm_head(model)
forward, norm = model.forward, model.model.language_model.norm.forward
apply_liger_kernel(model, {{"fused_linear_cross_entropy": False}})
assert model.forward == forward
assert model.model.language_model.norm.forward != norm
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


# FlashAttention: transformers' masks and unpadding around an attention in plain PyTorch


@pytest.mark.filterwarnings("ignore")
def test_rows_written_together_are_the_same_with_flash_attentions_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of unlike length, some beyond the sliding window: our cache's columns, cut to each row's own by the mask."""
    flash = install(monkeypatch)
    lengths, dice = (300, 290, 180, 90, 20, 1), torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 500, (length,), generator=dice).tolist() for length in lengths]
    written = []
    for implementation in ("sdpa", "flash_attention_2"):
        torch.manual_seed(1)
        model = transformers.Gemma3ForCausalLM(text_config(500)).eval()
        model.set_attn_implementation(implementation)
        rows = [RowState(name, prompt, 0) for name, prompt in enumerate(prompts)]
        done = Decoder(model, [], slots=4).write(rows, Sampling(max_new_tokens=24))
        written.append({row.name: row.written for row in done})
    assert written[0] == written[1]
    assert flash.whole, "prompts have no padding"
    assert flash.varlen, "rows of a step have"


def test_padding_free_batches_are_trained_on_as_padded_ones(
    tiny_training: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows laid end to end do not see each other, and have the positions that they have alone."""
    flash = install(monkeypatch)
    found = []
    for name, planned in (
        ("padded", {"attention": "sdpa"}),
        ("free", {"attention": "flash_attention_2", "padding_free": True}),
    ):
        _planned(monkeypatch, **planned)
        keys = {"load_in_4bit": False, "padding_free": name == "free", "output_dir": str(tmp_path / name)}
        slds("train", "--config", tiny_training("AutoModelForImageTextToText", max_steps=3, **keys))
        found.append(losses(tmp_path / name))
    assert flash.varlen
    assert not flash.whole
    assert found[1] == pytest.approx(found[0], abs=1e-4)


# torchao's optimizer


def test_states_of_4_bit_adamw_survive_a_resume(tiny_training: Callable[..., Path], tmp_path: Path) -> None:
    keys = {"optim": "adamw_torch_4bit", "load_in_4bit": False, "lora_r": 64}  # 4,096 values or more are packed
    slds("train", "--config", tiny_training(output_dir=str(tmp_path / "whole"), **keys))
    record = json.loads((tmp_path / "whole" / "run.json").read_text(encoding="utf-8"))
    plan = {row["setting"]: row["effective"] for row in record["plan"]}
    if plan["optim"] != "adamw_torch_4bit":
        pytest.skip("torchao's optimizer needs a C++ compiler")
    cut = tmp_path / "cut"
    slds("train", "--config", tiny_training(output_dir=str(cut), **keys))
    shutil.rmtree(cut / "checkpoint-4")
    states = torch.load(cut / "checkpoint-2" / "optimizer.pt", weights_only=True)["state"].values()
    assert any("4" in type(state["exp_avg"]).__name__ for state in states), "some states are packed"
    slds("train", "--config", tiny_training(output_dir=str(cut), **keys))
    assert (cut / "checkpoint-4").is_dir()
    assert losses(cut) == losses(tmp_path / "whole")


def _planned(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let the plan say what this machine's would not."""
    monkeypatch.setattr(command, "resolve", lambda *args: dataclasses.replace(resolve(*args), **changes))
