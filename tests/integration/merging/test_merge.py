"""Merging: bit for bit PEFT's own result, or a refusal by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import slds, slds_json
from tests.conftest import REAL, build_image_text_model, build_text_model

pytestmark = pytest.mark.filterwarnings("ignore")
CLASSES = {"text": "AutoModelForCausalLM", "image-text": "AutoModelForImageTextToText"}
DTYPES = ("float32", "bfloat16", "float16")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
# The hub's names for Gemma 3's parts where a fresh model is saved with others.
HUB_NAMES = (("vision_tower.", "vision_tower.vision_model."),)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ATTENTION},
    "all-linear": {"target_modules": "all-linear"},
    "rslora": {"target_modules": ATTENTION, "use_rslora": True},
    "dora": {"target_modules": [*ATTENTION, "down_proj"], "use_dora": True},
    "patterns": {
        "target_modules": ATTENTION,
        "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 8},
        "alpha_pattern": {"k_proj": 32},
    },
    "one layer": {"target_modules": ATTENTION, "layers_to_transform": [1]},
    "a norm saved whole": {"target_modules": ATTENTION, "modules_to_save": ["norm"]},
    "orthogonal": {"target_modules": ATTENTION, "init_lora_weights": "orthogonal"},
    "gaussian": {"target_modules": "all-linear", "init_lora_weights": "gaussian"},
}


def _load(folder: Path, model_class: str, dtype: str) -> Any:
    import torch
    import transformers

    return getattr(transformers, model_class).from_pretrained(folder, dtype=getattr(torch, dtype))


def in_hub_layout(folder: Path, target: Path) -> Path:
    """The same model with the names that the hub's Gemma 3 has, in two shards with an index."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for new, old in HUB_NAMES:
            name = old + name.removeprefix(new) if name.startswith(new) else name
        tensors[name] = tensor
    (target / "model.safetensors").unlink()
    names = sorted(tensors)
    placed = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, target / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, file)
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return target


@pytest.fixture(scope="module")
def bases(gemma_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both classes in transformers 5's names, and the image-text one in the hub's."""
    folder = tmp_path_factory.mktemp("bases")
    text = build_text_model(gemma_tokenizer, folder / "text")
    image = build_image_text_model(gemma_tokenizer, folder / "image")
    (image / "LICENSE").write_text("the base's licence", encoding="utf-8")
    return {"text": text, "image-text": image, "image-text hub": in_hub_layout(image, folder / "hub")}


def _index(folder: Path) -> dict[str, str]:
    placed: dict[str, str] = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    return placed


def make_adapter(base: Path, model_class: str, folder: Path, seed: int = 0, **options: Any) -> Path:
    """A LoRA adapter with random weights, saved by PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = _load(base, model_class, "float32")
    exclude = {"exclude_modules": r".*vision_tower.*"} if "Image" in model_class else {}
    peft_model = get_peft_model(model, LoraConfig(**({"r": 4, "lora_alpha": 8} | exclude | options)))
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    peft_model.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, model_class: str, dtype: str, *adapters: Path) -> dict[str, Any]:
    """PEFT's default merge on a base loaded at the dtype."""
    from peft import PeftModel

    model = _load(base, model_class, dtype)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return dict(model.state_dict())


def require_equal(output: Path, model_class: str, dtype: str, reference: dict[str, Any]) -> None:
    import torch

    found = _load(output, model_class, dtype).state_dict()
    assert found.keys() == reference.keys()
    differing = [name for name, tensor in found.items() if not torch.equal(tensor, reference[name])]
    assert not differing


@pytest.fixture
def config(write_config: Callable[..., Path]) -> Callable[[Path, str], Path]:
    def write(base: Path, model_class: str) -> Path:
        return write_config(model_name_or_path=str(base), model_class=model_class)

    return write


@pytest.mark.parametrize("kind", ["text", "image-text", "image-text hub"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_dtype_is_pefts_result_bit_for_bit(
    kind: str, variant: str, bases: dict[str, Path], config: Callable[..., Path], tmp_path: Path
) -> None:
    model_class = CLASSES[kind.removesuffix(" hub")]
    adapter = make_adapter(bases[kind], model_class, tmp_path / "adapter", **VARIANTS[variant])
    file = config(bases[kind], model_class)
    for dtype in DTYPES:
        output = tmp_path / dtype
        checked = "--verify" if dtype == "bfloat16" else "--no-verify"
        arguments = ("--checkpoint", adapter, "--config", file, "--dtype", dtype, "--output", output)
        report = slds_json("merge", *arguments, checked)
        assert report["verified"] is (True if checked == "--verify" else None)
        assert report["dtype"] == dtype
        require_equal(output, model_class, dtype, merged_by_peft(bases[kind], model_class, dtype, adapter))
        if kind.endswith("hub"):
            assert _index(output) == _index(bases[kind]), "the base's names in the base's files"


def test_two_adapters_in_turn(bases: dict[str, Path], config: Callable[..., Path], tmp_path: Path) -> None:
    base, model_class = bases["image-text hub"], CLASSES["image-text"]
    first = make_adapter(base, model_class, tmp_path / "first", target_modules=ATTENTION)
    second = make_adapter(base, model_class, tmp_path / "second", seed=1, target_modules="all-linear", use_dora=True)
    arguments = ("--checkpoint", first, "--checkpoint", second, "--config", config(base, model_class))
    report = slds_json("merge", *arguments, "--dtype", "bfloat16", "--output", tmp_path / "out")
    assert report["adapter"] == [str(first), str(second)]
    require_equal(
        tmp_path / "out", model_class, "bfloat16", merged_by_peft(base, model_class, "bfloat16", first, second)
    )


def _gpt2(folder: Path, tokenizer: Any) -> Path:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 1024}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), eos_token_id=1, bos_token_id=2, **sizes)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
        {"target_modules": ["c_attn"], "fan_in_fan_out": True, "use_dora": True},
        {"target_modules": ["c_attn"], "fan_in_fan_out": True, "lora_bias": True},
        {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "all"},
        {"target_modules": ["c_attn"], "fan_in_fan_out": True, "bias": "lora_only"},
    ],
    ids=["transposed", "dora", "lora_bias", "bias all", "bias lora_only"],
)
def test_gpt2s_transposed_layers_and_biases(
    options: dict[str, Any], gemma_tokenizer: Any, config: Callable[..., Path], tmp_path: Path
) -> None:
    model_class = CLASSES["text"]
    base = _gpt2(tmp_path / "gpt2", gemma_tokenizer)
    adapter = make_adapter(base, model_class, tmp_path / "adapter", **options)
    for dtype in DTYPES:
        output = tmp_path / dtype
        arguments = ("--checkpoint", adapter, "--config", config(base, model_class), "--dtype", dtype)
        slds_json("merge", *arguments, "--output", output)
        require_equal(output, model_class, dtype, merged_by_peft(base, model_class, dtype, adapter))


def _untied(base: Path, model_class: str, target: Path) -> Path:
    """The same model with an output layer of its own."""
    import torch

    model = _load(base, model_class, "float32")
    text = model.config.get_text_config()
    model.config.tie_word_embeddings = text.tie_word_embeddings = False
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    head.weight = torch.nn.Parameter(embedding.weight.detach().clone())
    model._tied_weights_keys = {}
    model.all_tied_weights_keys = {}
    model.save_pretrained(target)
    for file in base.iterdir():
        if not (target / file.name).exists() and "safetensors" not in file.name:
            (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("kind", ["text", "image-text", "image-text hub"])
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
    ids=["head", "embedding", "head saved whole", "embedding saved whole"],
)
def test_a_tied_pair_of_which_one_is_adapted_is_untied(
    kind: str, options: dict[str, Any], bases: dict[str, Path], config: Callable[..., Path], tmp_path: Path
) -> None:
    """PEFT's own merge would change both; on a base that was untied beforehand it changes the one, bit for bit so."""
    import torch

    base, model_class = bases[kind], CLASSES[kind.removesuffix(" hub")]
    untied = _untied(base, model_class, tmp_path / "untied")
    adapter = make_adapter(base, model_class, tmp_path / "adapter", **options)
    for dtype in ("float32", "bfloat16"):
        output = tmp_path / dtype
        arguments = ("--checkpoint", adapter, "--config", config(base, model_class), "--dtype", dtype)
        assert slds_json("merge", *arguments, "--output", output)["verified"] is True
        found = _load(output, model_class, dtype)
        reference = merged_by_peft(untied, model_class, dtype, adapter)
        assert found.get_input_embeddings().weight is not found.get_output_embeddings().weight
        assert all(torch.equal(tensor, reference[name]) for name, tensor in found.state_dict().items())


def test_nf4_weights_are_those_that_training_saw(
    bases: dict[str, Path], config: Callable[..., Path], tmp_path: Path
) -> None:
    """Every linear layer to 4 bits and back by bitsandbytes inside transformers, then PEFT's merge on top."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    base, model_class = bases["image-text hub"], CLASSES["image-text"]
    adapter = make_adapter(base, model_class, tmp_path / "adapter", target_modules="all-linear")
    file = config(base, model_class)
    report = slds_json(
        "merge", "--checkpoint", adapter, "--config", file, "--onto", "nf4", "--dtype", "bfloat16",
        "--set", "load_in_4bit=true", "--set", "use_bnb_nested_quant=true", "--set", "use_peft=true",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert report["onto"] == "nf4"

    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    in_four_bits = AutoModelForImageTextToText.from_pretrained(
        base, dtype=torch.bfloat16, quantization_config=quantization
    )
    reference = _load(base, model_class, "bfloat16")
    for name, module in in_four_bits.named_modules():
        if type(module).__name__ == "Linear4bit":
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            reference.get_submodule(name).weight.data = weight.to(torch.bfloat16)
    expected = PeftModel.from_pretrained(reference, adapter).merge_and_unload().state_dict()
    require_equal(tmp_path / "out", model_class, "bfloat16", dict(expected))


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_adapters_that_began_by_changing_the_base_are_refused_by_name(
    start: str, bases: dict[str, Path], config: Callable[..., Path], tmp_path: Path
) -> None:
    options = {"target_modules": ATTENTION, "init_lora_weights": start}
    adapter = make_adapter(bases["text"], CLASSES["text"], tmp_path / "adapter", **options)
    result = slds("merge", "--checkpoint", adapter, "--config", config(bases["text"], CLASSES["text"]))
    assert result.exit_code == 2
    assert f"began as {start}" in result.stderr
    assert not (tmp_path / "adapter-merged").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]}, "trainable_token_indices"),
        ({"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}, "DoRA on an embedding"),
        ({"target_modules": ["q_proj"], "rank_pattern": {"model.decoder.q": 2}}, "fits no adapted module"),
    ],
    ids=["token indices", "dora on the embedding", "a pattern that fits nothing"],
)
def test_what_is_not_known_here_is_merged_by_peft_itself_or_refused(
    options: dict[str, Any], words: str, bases: dict[str, Path], config: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = make_adapter(bases["text"], CLASSES["text"], tmp_path / "adapter", **options)
    output = tmp_path / "out"
    arguments = ("--checkpoint", adapter, "--config", config(bases["text"], CLASSES["text"]), "--output", output)
    result = slds("merge", *arguments)
    assert words in result.stderr
    assert "PEFT itself merges this" in result.stderr
    if result.exit_code == 0:
        require_equal(
            output, CLASSES["text"], "float32", merged_by_peft(bases["text"], CLASSES["text"], "float32", adapter)
        )
    else:
        assert "is not base + adapter" in result.stderr, "PEFT's own merge is wrong for a tied pair"
        assert not output.exists()


def test_the_folder_is_whole_and_can_be_checked_later(
    bases: dict[str, Path], config: Callable[..., Path], tmp_path: Path
) -> None:
    import hashlib

    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    base, model_class = bases["image-text hub"], CLASSES["image-text"]
    adapter = make_adapter(base, model_class, tmp_path / "adapter", target_modules=ATTENTION)
    output = tmp_path / "out"
    slds_json("merge", "--checkpoint", adapter, "--config", config(base, model_class), "--output", output)
    names = {file.name for file in output.iterdir()}
    assert names >= {"config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json", "LICENSE"}
    assert names >= {"README.md", "merge.json", "prompts", "chat_template.jinja"}
    manifest = json.loads((output / "merge.json").read_text())
    for name, file in manifest["files"].items():
        assert hashlib.sha256((output / name).read_bytes()).hexdigest() == file["sha256"]
    for name, noted in manifest["base_files"].items():
        assert hashlib.sha256((base / name).read_bytes()).hexdigest() == noted
    assert AutoModelForImageTextToText.from_pretrained(output) is not None
    assert AutoModelForCausalLM.from_pretrained(output) is not None
    assert AutoTokenizer.from_pretrained(output).chat_template

    assert slds_json("merge", "--check", output)["sound"] is True
    weights = output / "model-00001-of-00002.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    again = slds("merge", "--check", output)
    assert again.exit_code == 5
    assert "model-00001-of-00002.safetensors is not the file that was saved" in again.stdout


# vLLM's Gemma3ForConditionalGeneration maps these prefixes of a checkpoint's names (hf_to_vllm_mapper, v0.11) onto
# its own; names that are its own already pass through.
VLLM_PREFIXES = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
VLLM_OWN = ("language_model.model.", "language_model.lm_head.", "vision_tower.vision_model.", "multi_modal_projector.")


def test_names_and_config_are_what_vllms_gemma3_loader_expects(
    bases: dict[str, Path], config: Callable[..., Path], tmp_path: Path
) -> None:
    base, model_class = bases["image-text hub"], CLASSES["image-text"]
    adapter = make_adapter(base, model_class, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    output = tmp_path / "out"
    slds_json("merge", "--checkpoint", adapter, "--config", config(base, model_class), "--output", output)
    names = json.loads((output / "model.safetensors.index.json").read_text())["weight_map"]
    for name in names:
        for prefix, own in VLLM_PREFIXES:
            name = own + name.removeprefix(prefix) if name.startswith(prefix) else name
        assert name.startswith(VLLM_OWN), name
    settings = json.loads((output / "config.json").read_text())
    assert settings["architectures"] == ["Gemma3ForConditionalGeneration"]
    assert settings["model_type"] == "gemma3"
    assert {"text_config", "vision_config", "mm_tokens_per_image"} <= settings.keys()


def test_shards_of_the_size_asked_for(bases: dict[str, Path], config: Callable[..., Path], tmp_path: Path) -> None:
    base, model_class = bases["text"], CLASSES["text"]
    adapter = make_adapter(base, model_class, tmp_path / "adapter", target_modules=ATTENTION)
    output = tmp_path / "out"
    arguments = ("--checkpoint", adapter, "--config", config(base, model_class), "--output", output)
    slds_json("merge", *arguments, "--max-shard-size", "150KB")
    shards = sorted(output.glob("model-*.safetensors"))
    assert len(shards) > 2
    require_equal(output, model_class, "float32", merged_by_peft(base, model_class, "float32", adapter))


def test_a_large_model_is_verified_by_layers(
    bases: dict[str, Path], config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, model_class = bases["text"], CLASSES["text"]
    adapter = make_adapter(base, model_class, tmp_path / "adapter", target_modules="all-linear", use_dora=True)
    monkeypatch.setattr("headnote_cli.merging.verification.available_memory", lambda: 1)
    for dtype in DTYPES:
        arguments = ("--checkpoint", adapter, "--config", config(base, model_class), "--dtype", dtype)
        report = slds_json("merge", *arguments, "--output", tmp_path / dtype)
        assert "8 layers" in report["verification"]["how"]
        assert report["verified"] is True
        assert 0 < report["relative_l2"] < report["verification"]["tolerance"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real decisions are not here")
def test_a_run_in_four_bits_tells_how_far_the_merged_model_is_from_what_was_trained(
    tiny_training: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_training(max_steps=6)
    slds_json("train", "--config", config)
    onto_base = slds_json("merge", "--checkpoint", "latest", "--config", config, "--output", tmp_path / "base")
    onto_nf4 = slds_json(
        "merge", "--checkpoint", "latest", "--config", config, "--output", tmp_path / "nf4", "--onto", "nf4"
    )
    apart = onto_base["verification"]["trained"]
    assert apart["relative_l2"] > 10 * onto_nf4["relative_l2"], "4-bit weights are what was trained"
    assert onto_nf4["relative_l2"] < 1e-4
    assert apart["loss"] == pytest.approx(apart["merged_loss"], rel=0.05)
