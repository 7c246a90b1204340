"""The canary: private names of other libraries are in one file, and are still there. An upgrade fails here first."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest

from headnote_cli import upstream
from tests.conftest import ROOT, text_config

PACKAGE = ROOT / "headnote_cli"


def test_private_names_of_others_stand_in_one_file() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for file in PACKAGE.rglob("*.py")
        if file.name != "upstream.py"
        for node in foreign_private_names(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert found == []


def foreign_private_names(tree: ast.Module) -> list[ast.expr]:
    """Attributes with a leading underscore that no class or assignment of the same file defines."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign) and _is_name(node.target)}
    own |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value)
    }
    private = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_"))
    return [node for node in private if not node.attr.startswith("__") and node.attr not in own]


def _is_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def test_the_trainers_overridden_methods_have_the_parameters_that_we_rely_on() -> None:
    from transformers import Trainer

    from headnote_cli.training.trainer import CompletionTrainer

    private = (name for name in vars(CompletionTrainer) if name.startswith("_") and not name.startswith("__"))
    overridden = {name for name in private if hasattr(Trainer, name)}
    assert overridden == set(upstream.OVERRIDDEN)
    for name, parameters in upstream.OVERRIDDEN.items():
        assert tuple(inspect.signature(getattr(Trainer, name)).parameters) == parameters, name


def test_a_models_attention_is_known_by_its_config() -> None:
    from transformers import Gemma3ForCausalLM

    assert (
        upstream.attention_of(Gemma3ForCausalLM._from_config(text_config(10), attn_implementation="eager")) == "eager"
    )


def test_trl_counts_tokens_where_we_add_them() -> None:
    from trl import SFTTrainer

    source = inspect.getsource(SFTTrainer.compute_loss)
    assert "self._total_train_tokens += " in source
    assert 'self._metrics[mode]["num_tokens"] = [self._total_train_tokens]' in source


def test_the_number_of_gpus_of_a_trainer_can_be_set(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    assert arguments.n_gpu == 0
    arguments._n_gpu = 4
    upstream.train_on_one_gpu(arguments)
    assert arguments.n_gpu == 1


def test_a_4_bit_layer_decides_its_layout_by_the_attribute_that_we_set() -> None:
    import bitsandbytes
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = bitsandbytes.nn.Linear4bit(8, 8)

    model = Model()
    assert hasattr(model.layer, "support_avx512bf16_for_cpu")
    upstream.keep_differentiable(model)
    assert model.layer.support_avx512bf16_for_cpu is False


def test_a_lora_layer_can_leave_its_inputs_dtype() -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8)), LoraConfig(target_modules=["0"]))
    layer = model.base_model.model[0]
    assert layer.cast_input_dtype_enabled is True
    upstream.compute_without_casts(layer)
    assert layer.cast_input_dtype_enabled is False


def test_onednns_operator_is_a_linear_layer() -> None:
    import torch

    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    states, weights, bias = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5)
    with torch.no_grad():
        torch.testing.assert_close(
            upstream.linear_by_onednn(states, weights, bias), torch.nn.functional.linear(states, weights, bias)
        )


def test_sacrebleus_statistics_add_up_to_its_own_score() -> None:
    from sacrebleu.metrics import BLEU

    texts, references = ["the court decides", "the appeal is allowed"], ["the court decided", "the appeal is allowed"]
    metric: Any = BLEU()
    sums = [sum(parts) for parts in zip(*upstream.corpus_statistics(metric, texts, references), strict=True)]
    assert upstream.corpus_score(metric, sums) == pytest.approx(metric.corpus_score(texts, [references]).score)


def test_bert_score_keeps_its_model_and_tokenizer_where_we_share_them() -> None:
    import bert_score

    source = inspect.getsource(bert_score.BERTScorer.__init__)
    assert "self._tokenizer = " in source
    assert "self._model = " in source


def test_a_data_set_has_a_fingerprint() -> None:
    from datasets import Dataset

    one, other = (Dataset.from_list([{"a": value}]) for value in (1, 2))
    assert upstream.fingerprint_of(one) != upstream.fingerprint_of(other)


def test_bitsandbytes_still_asks_where_we_say() -> None:
    """An upgrade that asks elsewhere shows here."""
    spec = importlib.util.find_spec("bitsandbytes")
    assert spec is not None
    assert spec.submodule_search_locations
    (folder,) = spec.submodule_search_locations
    asking = [file for file in Path(folder).rglob("*.py") if "from kernels import" in file.read_text(encoding="utf-8")]
    names = [".".join(file.relative_to(Path(folder).parent).with_suffix("").parts) for file in asking]
    assert set(names) - {"bitsandbytes.backends.mps.ops"} == {upstream.ASKS_THE_HUB}, "the other is a Mac's"
