"""Ways to train: devices that share a step, optimizers tensor by tensor, targets as PEFT reads them, what is named."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headnote_cli.config.keys import Settings
from headnote_cli.errors import ConfigError
from headnote_cli.memory.estimate import (
    Estimate,
    estimate,
    gradients,
    nearest_kind,
    optimizer_states,
    trained_parameters,
    trained_tensors,
)
from headnote_cli.memory.optimizers import OPTIMIZERS, Tensor
from headnote_cli.memory.parallel import launched
from headnote_cli.memory.setup import Setup, setup_of
from headnote_cli.memory.shapes import Shapes
from tests.unit.memory.given import gemma, shipped, sizes


def estimated(settings: Settings, **how: Any) -> Estimate:
    return estimate(gemma(), setup_of(settings, gemma(), **how))


# Devices that share a step.


@pytest.mark.parametrize("keys", [{"fsdp": "full_shard"}, {"deepspeed": {"zero_optimization": {"stage": 3}}}])
def test_one_device_has_nobody_to_share_with(keys: dict[str, Any]) -> None:
    assert estimated(shipped("sft", **keys)).total == estimated(shipped("sft")).total


@pytest.mark.parametrize(
    ("keys", "sharding"),
    [
        ({"fsdp": "full_shard auto_wrap"}, "full"),
        ({"fsdp": "shard_grad_op"}, "gradients"),
        ({"fsdp": "no_shard"}, "ddp"),
        ({"fsdp": "true", "fsdp_config": {"reshard_after_forward": False}}, "gradients"),
        ({"deepspeed": {}}, "ddp"),
        ({"deepspeed": {"zero_optimization": {"stage": 1}}}, "states"),
        ({"deepspeed": {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "none"}}}}, "gradients"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "full"),
        ({}, "ddp"),
    ],
)
def test_what_is_shared_follows_from_the_value(keys: dict[str, Any], sharding: str) -> None:
    assert setup_of(shipped("sft", **keys), gemma(), devices=4).sharding == sharding


def test_each_stage_divides_more() -> None:
    """ZeRO (arXiv:1910.02054, figure 1): 16 bytes a weight; the states' 12, the gradients' 2, the weights' 2."""
    found = []
    for stage in (1, 2, 3):
        setup = setup_of(shipped("sft", deepspeed={"zero_optimization": {"stage": stage}}), gemma(), devices=8)
        found.append((estimate(gemma(), setup).components, gradients(gemma(), setup)))
    weights, trained = 2 * gemma().parameters, trained_parameters(gemma(), setup)
    (one, whole), (two, eighth), (three, _) = found
    assert one["weights"] == two["weights"] == weights
    assert one["optimizer states"] == two["optimizer states"] == pytest.approx(12 * trained / 8)
    assert (whole, eighth) == (2 * trained, -(-2 * trained // 8))
    assert three["weights"] == pytest.approx(4 * gemma().parameters / 8), "float32 shards are the masters"


def test_a_file_says_the_stage_and_a_missing_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}}), encoding="utf-8")
    assert setup_of(shipped("sft", deepspeed=str(file)), gemma(), devices=2).sharding == "gradients"
    with pytest.raises(ConfigError, match="there is no"):
        setup_of(shipped("sft", deepspeed=str(tmp_path / "none.json")), gemma(), devices=2)
    with pytest.raises(ConfigError, match="no strategy is called sideways"):
        setup_of(shipped("sft", fsdp="sideways"), gemma(), devices=2)


@pytest.mark.parametrize(
    "keys",
    [
        {"fsdp": "full_shard offload"},
        {"fsdp": "full_shard", "fsdp_config": {"cpu_offload": True}},
        {"deepspeed": {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}},
    ],
)
def test_offloading_is_refused_and_not_guessed(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="offloads to main memory"):
        setup_of(shipped("sft", **keys), gemma(), devices=4)


FSDP = {"WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO = {"WORLD_SIZE": "4", "ACCELERATE_USE_DEEPSPEED": "true"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (1, None)),
        ({"WORLD_SIZE": "4"}, (4, None)),
        (FSDP | {"FSDP_RESHARD_AFTER_FORWARD": "true"}, (4, "full")),
        (FSDP | {"FSDP_RESHARD_AFTER_FORWARD": "false"}, (4, "gradients")),
        (FSDP | {"FSDP_VERSION": "1", "FSDP_SHARDING_STRATEGY": "SHARD_GRAD_OP"}, (4, "gradients")),
        (FSDP | {"FSDP_VERSION": "1", "FSDP_SHARDING_STRATEGY": "1"}, (4, "full")),
        (ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, (4, "full")),
        (ZERO, (4, "gradients")),
        (ZERO | {"WORLD_SIZE": "1"}, (1, None)),
    ],
)
def test_the_launcher_says_how_many_and_how(environment: dict[str, str], expected: tuple[int, str | None]) -> None:
    assert launched(environment) == expected


def test_the_launchers_offload_is_refused() -> None:
    with pytest.raises(ConfigError, match="offloads"):
        launched(FSDP | {"FSDP_OFFLOAD_PARAMS": "true"})


# Optimizers, tensor by tensor.


@pytest.fixture
def fresh_overrides() -> Iterator[None]:
    """bitsandbytes keeps the Trainer's override for the rest of the process."""
    from bitsandbytes.optim import GlobalOptimManager

    yield
    GlobalOptimManager._instance = None


class Small:
    """A tied and an untied model with an embedding, linear layers and vectors on either side of the rules."""

    def __new__(cls, tied: bool) -> Any:
        import torch

        class Model(torch.nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.embed = torch.nn.Embedding(100, 96)
                self.big = torch.nn.Linear(96, 128, bias=False)  # 12,288: divisible by 256
                self.odd = torch.nn.Linear(96, 43, bias=False)  # 4,128: not divisible by 256
                self.small = torch.nn.Linear(32, 96, bias=True)  # 3,072 and 96: too small
                self.head = torch.nn.Linear(96, 100, bias=False)
                if tied:
                    self.head.weight = self.embed.weight

        return Model()


@pytest.mark.parametrize("name", ["adamw_torch_4bit", "adamw_torch_8bit", "adamw_bnb_8bit", "lion_8bit", "adamw_torch"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.usefixtures("fresh_overrides")
def test_states_are_what_the_trainers_optimizer_holds(name: str, tied: bool, tmp_path: Path) -> None:
    """The optimizer that transformers' Trainer makes, its states after a step, byte by byte."""
    import torch
    from transformers import Trainer, TrainingArguments

    model = Small(tied)
    arguments = TrainingArguments(str(tmp_path), optim=name, use_cpu=True, report_to=[])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = Trainer(model=model, args=arguments).create_optimizer()
    held = 0
    for group in optimizer.param_groups:
        for index, weight in enumerate(group["params"]):
            held += sum(_bytes(state) for state in _states(optimizer, group, index, weight))
    embedded = {id(model.embed.weight)}
    counted = sum(
        weight.numel() * OPTIMIZERS[name].per_weight(Tensor(weight.numel(), embedding=id(weight) in embedded), 4)
        for weight in model.parameters()
    )
    assert held == pytest.approx(counted, rel=0.002), "tables of 16 and 256 numbers are left out"
    assert isinstance(model, torch.nn.Module)


def _states(optimizer: Any, group: dict[str, Any], index: int, weight: Any) -> list[Any]:
    """The state tensors that the optimizer makes for a weight."""
    import torch

    inner = getattr(optimizer, "optimizer", optimizer)
    if type(inner).__module__.startswith("torchao"):
        buffers = [inner._new_buffer(weight, signed) for signed in (True, False)]
        return (
            [getattr(one, part) for one in buffers for part in ("codes", "scale")]
            if hasattr(buffers[0], "codes")
            else buffers
        )
    if type(inner).__module__.startswith("bitsandbytes"):
        inner.check_overrides()
        inner.init_state(group, weight, inner.param_groups.index(group), index)
        return [state for key, state in inner.state[weight].items() if torch.is_tensor(state) and "qmap" not in key]
    weight.grad = torch.zeros_like(weight)
    inner.step()
    return [state for state in inner.state[weight].values() if torch.is_tensor(state) and state.numel() > 1]


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def test_an_8_bit_optimizer_of_bitsandbytes_keeps_the_embedding_in_32_bits() -> None:
    """Gemma 3 4B: 671,252,480 weights at 8 bytes instead of 2.03."""
    full = shipped("sft", optim="adamw_bnb_8bit")
    torchao = shipped("sft", optim="adamw_torch_8bit")
    by_library = [optimizer_states(gemma(), setup_of(one, gemma())) for one in (full, torchao)]
    small = 2 * (8 - 2 * 2) * gemma().norms / 2  # the norms: float32 instead of 16 bits
    assert by_library[0] - by_library[1] == pytest.approx((8 - 2 * (1 + 4 / 256)) * 671_252_480 + small, rel=1e-3)


def test_small_matrices_of_an_adapter_stay_unquantized() -> None:
    """Rank 1: A of 2,560 is too small for 4 bits, B of 10,240 is not."""
    setup = setup_of(shipped("sft_liger_peft", lora_r=1, lora_target_modules=["up_proj", "gate_proj"]), gemma())
    tensors = {(tensor.elements, tensor.count) for tensor in trained_tensors(gemma(), setup)}
    assert tensors == {(2560, 68), (10240, 68)}
    assert optimizer_states(gemma(), setup) == 68 * (2560 * 8 + 10240 * 1.03125)


# Targets, as PEFT reads them.


def adapted(shapes: Shapes, targets: Any, stack: str = "slds", **keys: Any) -> Setup:
    return setup_of(shipped("sft_liger_peft", lora_target_modules=targets, **keys), shapes, stack)


@pytest.mark.parametrize(
    ("targets", "modules"),
    [
        ("all-linear", 34 * 7),
        (["q_proj", "v_proj"], 34 * 2),
        (r".*\.(q|v)_proj", 34 * 2),
        (r".*q_proj", 34),
        ([r".*\.q_proj"], 34),
        (r".*layers\.(0|1)\..*_proj", 14),
        (["self_attn.q_proj", "mlp.up_proj"], 34 * 2),
    ],
)
def test_targets_are_matched_as_peft_matches_them(targets: Any, modules: int) -> None:
    setup = adapted(gemma(), targets)
    assert sum(tensor.count for tensor in trained_tensors(gemma(), setup)) == 2 * modules


@pytest.mark.parametrize("targets", [["qproj"], "qproj", ["q_proj"], ["up", "down"]])
def test_targets_that_match_nothing_are_an_error_that_names_what_is_there(targets: Any) -> None:
    """A list of one is a string to TRL, and a string is a full match to PEFT."""
    with pytest.raises(ConfigError, match="matches no module of google/gemma-3-4b-it") as caught:
        adapted(gemma(), targets)
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in str(caught.value.hint)
    assert "model.language_model.layers.0.self_attn.q_proj" in str(caught.value.hint)


def test_a_broken_expression_is_named() -> None:
    with pytest.raises(ConfigError, match="not a regular expression"):
        adapted(gemma(), r".*(q_proj")


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"], r".*language_model.*\.(q|v)_proj",
                                     r".*layers\.1\..*up_proj"])  # fmt: skip
@pytest.mark.parametrize("stack", ["slds", "trl"])
def test_trainable_counts_are_pefts(targets: Any, stack: str, tiny_models: Any) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    from headnote_cli.memory.lookup import shapes_of
    from headnote_cli.memory.setup import VISION_MODULES

    folder = tiny_models("AutoModelForImageTextToText")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    excluded = VISION_MODULES if stack == "slds" else None
    lora = LoraConfig(r=4, target_modules=targets, exclude_modules=excluded, task_type="CAUSAL_LM")
    real = sum(p.numel() for p in get_peft_model(model, lora).parameters() if p.requires_grad)
    shapes = shapes_of("tiny", folder)
    assert trained_parameters(shapes, adapted(shapes, targets, stack, lora_r=4)) == real


def test_the_vision_pattern_is_the_one_that_training_excludes() -> None:
    from headnote_cli.memory import setup
    from headnote_cli.models import loading

    assert setup.VISION_MODULES == loading.VISION_MODULES


# What is named because no term counts it.


@pytest.mark.parametrize(
    "keys",
    [
        {"attn_implementation": "flex_attention"},
        {"attn_implementation": "homemade"},
        {"torch_compile": True},
        {"packing": True},
        {"padding_free": True},
        {"activation_offloading": True},
        {"neftune_noise_alpha": 5.0},
        {"lora_target_modules": ["q_proj", "lm_head"]},
    ],
)
def test_what_no_term_counts_is_named(keys: dict[str, Any]) -> None:
    found = estimated(shipped("sft_liger_peft", **keys))
    key, value = next(iter(keys.items()))
    assert any(key in part or (isinstance(value, list) and value[-1] in part) for part in found.unknown)


def test_offloaded_activations_are_left_out_so_that_the_total_is_a_lower_bound() -> None:
    assert "activations" not in estimated(shipped("sft_liger_peft", activation_offloading=True)).components


def test_dft_holds_no_more_than_nll() -> None:
    """TRL 1.16 weighs the fused loss of each token."""
    assert not estimated(shipped("sft", loss_type="dft")).unknown
    assert estimated(shipped("sft", loss_type="dft")).total == estimated(shipped("sft")).total


def test_a_kind_that_nobody_counted_says_which_stands_in() -> None:
    llama = sizes("meta-llama/Llama-3.2-1B")
    settings = shipped("sft_liger_peft", bf16=False, dtype="bfloat16")  # Liger without autocast
    found = estimate(llama, setup_of(settings, llama))
    assert found.nearest is not None
    assert "amp" in found.nearest
    assert estimated(shipped("sft_liger_peft")).nearest is None
    setup = setup_of(settings, llama)
    assert nearest_kind(llama.model_type, setup.kind) != setup.kind


@pytest.mark.parametrize("asked", ["sdpa", None])
def test_gemma_2_without_sdpa_is_labelled_eager(asked: str | None) -> None:
    shapes = sizes("google/gemma-2-2b-it")
    assert setup_of(shipped("sft", attn_implementation=asked), shapes).kind.attention == "eager"


# Phases that are no step.


def test_loading_holds_a_weight_in_16_bits_beside_the_quantized_ones() -> None:
    """Gemma 3 4B: the widest is 2,560 × 10,240."""
    found = estimated(shipped("sft_liger_peft"))
    assert found.phases["loading"] == found.components["weights"] + 2 * 2560 * 10240
    assert estimated(shipped("sft")).phases["loading"] == 2 * gemma().parameters


def test_saving_holds_what_lives_through_a_step() -> None:
    found = estimated(shipped("sft_liger_peft"))
    parts = ("weights", "adapters", "optimizer states")
    assert found.phases["saving"] == sum(found.components[part] for part in parts)
