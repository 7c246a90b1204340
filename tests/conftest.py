"""Tiny random models of both Gemma 3 classes, with a small trained tokenizer of Gemma's form."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("slds", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("slds")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["COLUMNS"] = "100"
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes on few cores: more threads than cores wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("SLDS_CONFIG", None)
os.environ.pop("RANK", None)

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "samples" / "slds"
PROMPTS = ROOT / "prompts" / "ipst" / "slds"
REAL = ROOT.parent / "shared" / "data" / "bge"
CONTROLS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
# Gemma's form: the system message goes before the first user message, the assistant is called model.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% set ns = namespace(prefix='') %}"
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{% set ns.prefix = message.content + '\n\n' %}{% else %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}"
    "{{ ns.prefix + (message.content | trim) + '<end_of_turn>\n' }}{% set ns.prefix = '' %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def examples(count: int) -> int:
    """How many inputs hypothesis tries: a tenth of them with every change, all by `make fuzz` and `make test-all`."""
    return count if os.environ.get("SLDS_FULL") else count // 10


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note how many inputs hypothesis has tried, for the sum below."""
    report: Any = yield
    if report.when == "teardown" and (told := getattr(item, "hypothesis_statistics", "")):
        tried = sum(map(int, re.findall(r"(\d+) passing", told)))
        report.user_properties.append(("inputs", tried))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    noted = (
        getattr(report, "user_properties", []) for reports in terminalreporter.stats.values() for report in reports
    )
    counts = [count for properties in noted for name, count in properties if name == "inputs"]
    if counts:
        terminalreporter.write_line(f"{sum(counts):,} random inputs, tried by {len(counts)} tests")


def sample_rows(split: str) -> list[dict[str, Any]]:
    """The shipped fictional rows of a split."""
    return [json.loads(line) for line in (SAMPLES / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def save_lines(file: Path, lines: list[dict[str, Any]]) -> Path:
    """Write values as JSON lines."""
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def real_rows(split: str) -> list[dict[str, Any]]:
    """Real decisions, where they are at hand."""
    file = REAL / f"{split}.jsonl"
    if not file.is_file():
        pytest.skip("the real decisions are not here")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@cache
def every_real_row() -> tuple[dict[str, Any], ...]:
    """All real decisions, those that no split has too."""
    rows = [row for split in ("train", "validation", "test") for row in real_rows(split)]
    with gzip.open(REAL / "extra.jsonl.gz", "rt", encoding="utf-8") as lines:
        return (*rows, *map(json.loads, lines))


def _texts() -> list[str]:
    prompts = [file.read_text(encoding="utf-8") for file in PROMPTS.glob("*.jinja")]
    return [row[field] for row in sample_rows("train") for field in ("decision", "headnote")] + prompts * 20


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared rows are kept in a folder of this session's."""
    os.environ["SLDS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def gemma_tokenizer() -> Any:
    """A tokenizer of Gemma's form: spaces as ▁, BPE with byte fallback, Gemma's control tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(
        _texts(), trainers.BpeTrainer(vocab_size=2000, special_tokens=CONTROLS, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    vocabulary = dict(model["vocab"])
    for byte in range(256):
        vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(CONTROLS)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    fast.chat_template = CHAT_TEMPLATE
    return fast


@pytest.fixture(scope="session")
def chatml_tokenizer() -> Any:
    """A byte-level tokenizer with ChatML's control tokens, SmolLM2's and Qwen's form."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    controls = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=controls, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token="<|im_start|>"
    )
    fast.chat_template = CHATML
    return fast


def text_config(vocabulary: int) -> Any:
    """Sizes of a tiny Gemma 3 decoder: one sliding and one global layer."""
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=128,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=4096,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )


def build_text_model(tokenizer: Any, folder: Path) -> Path:
    """A random Gemma3ForCausalLM."""
    import torch
    from transformers import Gemma3ForCausalLM

    torch.manual_seed(0)
    model = Gemma3ForCausalLM(text_config(len(tokenizer)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_image_text_model(tokenizer: Any, folder: Path) -> Path:
    """A random Gemma3ForConditionalGeneration with a vision tower and its processor's file."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, SiglipVisionConfig

    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        vision_use_head=False,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    config = Gemma3Config(text_config=text_config(len(tokenizer)), vision_config=vision, mm_tokens_per_image=4)
    config.eos_token_id, config.pad_token_id, config.bos_token_id = 1, 0, 2
    model = Gemma3ForConditionalGeneration(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Gemma3ImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


BUILDERS = {"AutoModelForCausalLM": build_text_model, "AutoModelForImageTextToText": build_image_text_model}


@pytest.fixture(scope="session")
def tiny_models(gemma_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of tiny models, by the Auto class that loads them."""
    built: dict[str, Path] = {}

    def get(model_class: str) -> Path:
        if model_class not in built:
            folder = tmp_path_factory.mktemp("models") / model_class
            built[model_class] = BUILDERS[model_class](gemma_tokenizer, folder)
        return built[model_class]

    return get


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Write a config of keys and values; paths of the repository by default."""

    def write(name: str = "config.yaml", **keys: Any) -> Path:
        defaults = {"dataset_name": str(SAMPLES), "prompts_path": str(PROMPTS), "output_dir": str(tmp_path / "run")}
        file = tmp_path / name
        file.write_text(
            "".join(f"{key}: {json.dumps(value)}\n" for key, value in (defaults | keys).items()), encoding="utf-8"
        )
        return file

    return write


@pytest.fixture
def tiny_training(tiny_models: Callable[[str], Path], write_config: Callable[..., Path]) -> Callable[..., Path]:
    """A config that trains a tiny model with QLoRA for a few steps on the CPU."""

    def write(model_class: str = "AutoModelForCausalLM", **keys: Any) -> Path:
        return write_config(
            **{
                "model_class": model_class,
                "model_name_or_path": str(tiny_models(model_class)),
                "dataset_eval_split": "validation",
                "dataset_test_split": "test",
                "dtype": "float32",
                "bf16": False,
                "use_cpu": True,
                "use_peft": True,
                "lora_r": 4,
                "lora_alpha": 8,
                "lora_dropout": 0.0,
                "lora_target_modules": "all-linear",
                "load_in_4bit": True,
                "use_bnb_nested_quant": True,
                "optim": "adamw_torch",
                "max_length": 768,
                "learning_rate": 0.01,
                "per_device_train_batch_size": 2,
                "max_steps": 4,
                "save_strategy": "steps",
                "save_steps": 2,
                "logging_steps": 1,
            }
            | keys
        )

    return write
